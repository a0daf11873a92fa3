"""Who the samples are, by their tokens: the same on every device and rank, in every batch and epoch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.hashing import GAMMA, mix

# So many of the lowest ids tell how much two ranks have in common.
_SKETCH = 64


def sample_ids(input_ids: Tensor, mask: Tensor | None = None) -> Tensor:
    """A hash of each sample's valid tokens in their order, wherever its padding is.

    Args:
        input_ids: ``(N, T)`` integers.
        mask: ``(N, T)``, 1 at valid tokens and 0 at padding; ``None``: all valid.

    Returns:
        ``(N,)`` int64.

    """
    valid = torch.ones_like(input_ids, dtype=torch.bool) if mask is None else mask.to(input_ids.device) == 1
    position = valid.long().cumsum(1)
    tokens = mix(input_ids.long() * GAMMA + position) * valid
    return mix(tokens.sum(1) + position[:, -1] * GAMMA)


@dataclass(frozen=True)
class SamplesSeen:
    """What can be said of many samples in a few numbers, whatever their order.

    Args:
        count: how many samples.
        total: the sum of their ids, modulo 2^64.
        lowest: the lowest different ids, in ascending order.
        known: whether all of them had ids.

    """

    count: int = 0
    total: int = 0
    lowest: tuple[int, ...] = ()
    known: bool = True

    def add(self, count: int, ids: Tensor | None) -> SamplesSeen:
        """With a batch of ``count`` samples, whose ids may not be known."""
        if ids is None:
            return SamplesSeen(self.count + count, known=self.known and not count)
        found = ids.tolist()
        total = (self.total + sum(found)) % 2**64
        lowest = sorted({*self.lowest, *found})[:_SKETCH]
        return SamplesSeen(self.count + count, total, tuple(lowest), self.known)

    def same_as(self, other: SamplesSeen) -> bool:
        """Whether both are the same samples, each as often."""
        told = len(self.lowest) > 1 or self.count == 1  # one text with many images, say, tells nobody
        return told and self.known and self == other

    def shared_with(self, other: SamplesSeen) -> float:
        """About which share of the different samples of both is in both: that of the lowest ids (Broder, 1997)."""
        if not (self.known and other.known and self.lowest and other.lowest):
            return 0.0
        mine, theirs = set(self.lowest), set(other.lowest)
        lowest = set(sorted(mine | theirs)[:_SKETCH])
        return len(lowest & mine & theirs) / len(lowest)
