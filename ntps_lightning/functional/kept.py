"""Rows that were kept of the samples: pooled states and targets, whose sums are known over all samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Standard errors are known to 3% then, at a quarter of what all of 2,048 would cost.
MOST_LEFT = 512


@dataclass(frozen=True)
class KeptRows:
    """Some of the samples, each of them different.

    Args:
        states: ``(m, d)`` pooled states.
        targets: ``(m, C)`` targets, one-hot rows for classes.
        weights: ``(m,)`` how many samples each row stands for.
        groups: ``(m,)`` int64, from 0 on without a gap: rows of one group are left out together.
        halves: ``(G,)`` bool, which half each group belongs to.
        digest: a hash of which samples these are, and of their targets; the states are no part of it.
        group_digest: a hash of which groups these are, and of how many samples each has: no sample's own id, nor
            target, is part of it.
        most_left: the most groups that are left out of the others' fits for standard errors.

    """

    states: Tensor
    targets: Tensor
    weights: Tensor
    groups: Tensor
    halves: Tensor
    digest: int
    group_digest: int = 0
    most_left: int = MOST_LEFT

    @property
    def num_groups(self) -> int:
        """Number G of groups."""
        return len(self.halves)

    @property
    def num_left(self) -> int:
        """How many of them, from the first on, are left out of the others' fits for standard errors."""
        return min(self.num_groups, self.most_left)


@dataclass(frozen=True)
class Blocks:
    """Rows by group, padded: what is left out together stands in one block.

    Args:
        index: ``(G, s)`` rows of each group, the largest of which has s; 0 where :attr:`valid` is false.
        valid: ``(G, s)`` bool.

    """

    index: Tensor
    valid: Tensor

    @classmethod
    def of(cls, groups: Tensor) -> Blocks:
        """The blocks of ``(m,)`` group indices."""
        counts = groups.bincount()
        order = groups.argsort(stable=True)
        starts = counts.cumsum(0) - counts
        position = torch.arange(int(counts.max()), device=groups.device)
        valid = position < counts[:, None]
        index = order[(starts[:, None] + position).clamp(max=len(groups) - 1)]
        return cls(torch.where(valid, index, 0), valid)

    def some(self, groups: Tensor) -> Blocks:
        """Those of some groups, padded no more than these need."""
        valid = self.valid[groups]
        width = int(valid.sum(1).max())
        return Blocks(self.index[groups, :width], valid[:, :width])

    def by_size(self) -> list[Blocks]:
        """Blocks of groups of about one size each, so that a large one does not pad all others."""
        return [self.some(groups) for groups in self.buckets()]

    def buckets(self) -> list[Tensor]:
        """Groups of about one size each."""
        sizes = self.valid.sum(1).double().log2().ceil()
        return [(sizes == size).nonzero()[:, 0] for size in torch.unique(sizes).tolist()]

    @property
    def single(self) -> bool:
        """Whether every row is a group of its own."""
        return self.index.shape[1] == 1

    def gather(self, rows: Tensor) -> Tensor:
        """``(G, s, ...)`` of ``(m, ...)`` rows, zero where there is none."""
        found = rows[self.index]
        return found * self.valid.view(*self.valid.shape, *[1] * (rows.ndim - 1))
