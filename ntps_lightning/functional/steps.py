"""The valid tokens of a padded batch, step by step: all first tokens, all second ones, ..."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor


@dataclass(frozen=True)
class Steps:
    """Step t holds the tokens at position t of their samples, from 0, those of the longest sample first.

    So the samples that reach step t are the first ``counts[t]`` of any step before, and no padding is stored.

    Args:
        samples: ``(N,)`` indices of the samples, the longest first.
        lengths: ``(N,)`` number of valid tokens of each, in that order.
        counts: number of tokens of each step.
        index: ``(sum(counts),)`` flat indices of the tokens among all ``(N * T)``; ``None`` where there is no padding.

    """

    samples: Tensor
    lengths: Tensor
    counts: list[int]
    index: Tensor | None

    def gather(self, hidden_states: Tensor, start: int, end: int) -> Tensor:
        """The tokens of steps ``[start, end)`` of ``(N, T, d)``: ``(tokens, d)``, or a ``(steps, N, d)`` view."""
        if self.index is None:
            return hidden_states.transpose(0, 1)[start:end]
        first = sum(self.counts[:start])
        index = self.index[first : first + sum(self.counts[start:end])]
        return hidden_states.flatten(0, 1).index_select(0, index)

    def chunks(self, max_tokens: int) -> Iterator[tuple[int, int]]:
        """Ranges of steps, from 1 on, of at most ``max_tokens`` tokens (or one step)."""
        start = 1
        while start < len(self.counts):
            sums = accumulate(self.counts[start:])
            end = start + max(1, sum(total <= max_tokens for total in sums))
            yield start, end
            start = end

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        """Steps ``[start, end)`` as runs of equal size: (number of steps, tokens of each)."""
        return [(len(list(run)), count) for count, run in groupby(self.counts[start:end])]


def steps_of(mask: Tensor) -> Steps:
    """The steps of an ``(N, T)`` mask, true at valid tokens; every sample has one."""
    size, length = mask.shape
    lengths, samples = mask.sum(1).sort(descending=True, stable=True)
    if int(lengths[-1]) == length:
        return Steps(samples, lengths, [size] * length, None)
    rows = mask[samples]
    sample, column = rows.nonzero(as_tuple=True)
    position = (rows.cumsum(1) - 1)[sample, column]
    order = (position * size + sample).argsort()
    return Steps(samples, lengths, torch.bincount(position).tolist(), (samples[sample] * length + column)[order])
