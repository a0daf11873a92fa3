r"""Standard errors of held-out numbers, by leaving out each group of rows a second time (METHOD 28, 29).

A jackknife over rows that leaves the fit alone is too small: a row is in everyone's fit as well. Leaving out j changes
a statistic by its own part, the statistic without the terms of j, and by its part in the fits of all others, whose
residuals are then taken without j too. With i the rows of one group and j those of another, those of i without both are

.. math:: \big(M_i - H_{ij} B_j H_{ji} W_i\big)^{-1} (r_i + H_{ij} B_j r_j), \quad M = I - H W,\ B_j = W_j M_j^{-1}
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.kept import Blocks, KeptRows
from ntps_lightning.functional.ridge_probe import Fit, left_out

# Numbers that are worked on at once.
_CHUNK = 2**22


@dataclass(frozen=True)
class Estimate:
    """A statistic of held-out rows, and what each group of rows does to it.

    Args:
        value: of all kept rows.
        own: ``(G,)`` by how much it changes without the group's terms.
        fit: ``(G,)`` by how much it changes where the group is in no other row's fit.
        unseen: groups of samples that were not kept, but are in the fits.

    """

    value: float
    own: Tensor
    fit: Tensor
    unseen: float

    @property
    def se(self) -> float:
        """Standard error: of the kept groups both parts, of all others the mean of the second."""
        own, fit = self.own - self.own.mean(), self.fit - self.fit.mean()
        return math.sqrt(float((own + fit).square().sum() + self.unseen * fit.square().mean()))

    def minus(self, other: Estimate) -> Estimate:
        """The difference to another measurement of the same rows, whose errors are shared."""
        return Estimate(self.value - other.value, self.own - other.own, self.fit - other.fit, self.unseen)

    def over(self, other: Estimate) -> Estimate:
        """The ratio to another statistic of the same rows, to first order."""
        ratio = self.value / other.value
        own, fit = ((a - ratio * b) / other.value for a, b in ((self.own, other.own), (self.fit, other.fit)))
        return Estimate(ratio, own, fit, self.unseen)


@dataclass(frozen=True)
class Losses:
    """Sums of losses of rows that are left out of their fits.

    Args:
        own: ``(G,)`` of the rows of each group, in the fit without it.
        others: ``(G,)`` of the rows of all other groups, in fits without this group and their own.

    """

    own: Tensor
    others: Tensor

    def __add__(self, other: Losses) -> Losses:
        return Losses(self.own + other.own, self.others + other.others)

    @property
    def total(self) -> Tensor:
        """Of all rows."""
        return self.own.sum()


def squared_losses(fit: Fit, rows: KeptRows, blocks: Blocks, counted: Tensor) -> Losses:
    """Squared errors, summed over outputs, of the rows of the groups that are ``counted``, ``(G,)`` bool."""
    squares = fit.without_own(blocks, rows.weights).square().sum(1) * rows.weights
    own = _by_group(squares, rows) * counted
    if blocks.single:
        return Losses(own, _single_pairs(fit, rows, counted, _Single.squares))
    return Losses(own, _group_pairs(fit, rows, counted, lambda residuals, _: residuals.square().sum(-1)))


def classification_errors(fit: Fit, rows: KeptRows, blocks: Blocks, counted: Tensor) -> Losses:
    """Rows of the groups that are ``counted`` whose best class is another than theirs.

    One row changes few decisions, and all or nothing. What the fits without it do to margins between the true class and
    its best rival is therefore told by a step as wide as the density of margins can be known (Silverman's rule).

    """
    residuals = fit.without_own(blocks, rows.weights)
    truth = rows.targets.argmax(1)
    scores = rows.targets - residuals
    rival = scores.scatter(1, truth[:, None], -torch.inf).argmax(1)
    margins = 1 - _between(residuals, truth, rival)
    width = 1.06 * float(margins.std()) * len(margins) ** -0.2

    def smooth(margins: Tensor) -> Tensor:
        step: Tensor = torch.special.ndtr(-margins / width)
        return step

    def of_a_group(residuals: Tensor, index: Tensor) -> Tensor:
        return smooth(1 - _between(residuals, truth[index], rival[index]))

    if blocks.single:
        others = _single_pairs(fit, rows, counted, lambda pairs: smooth(1 - pairs.between(truth, rival)))
    else:
        others = _group_pairs(fit, rows, counted, of_a_group)
    weights = rows.weights * counted[rows.groups]
    shift = _by_group((smooth(margins) - (margins < 0).double()) * weights, rows)
    return Losses(_by_group((margins < 0).double() * weights, rows), others - (shift.sum() - shift))


def _between(residuals: Tensor, truth: Tensor, rival: Tensor) -> Tensor:
    """Residual of the true class minus that of its rival: ``(...)`` of ``(..., C)``."""
    shape = residuals.shape[:-1]
    true, other = (index.expand(shape)[..., None] for index in (truth, rival))
    return (residuals.gather(-1, true) - residuals.gather(-1, other))[..., 0]


def r2_estimate(errors: Losses, variances: Losses, unseen: float) -> Estimate:
    """1 - errors / variances."""
    return _ratio(errors, variances, unseen, lambda a, b: 1 - a / b)


def accuracy_estimate(errors: Losses, rows: KeptRows, unseen: float) -> Estimate:
    """1 - errors / rows."""
    counts = _by_group(rows.weights, rows)
    return _ratio(errors, Losses(counts, counts.sum() - counts), unseen, lambda a, b: 1 - a / b)


def _ratio(top: Losses, bottom: Losses, unseen: float, statistic: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    value = statistic(top.total, bottom.total)
    own = statistic(top.total - top.own, bottom.total - bottom.own) - value
    fit = statistic(top.others + top.own, bottom.others + bottom.own) - value
    return Estimate(float(value), own, fit, unseen)


def _by_group(values: Tensor, rows: KeptRows) -> Tensor:
    return values.new_zeros(rows.num_groups).index_add_(0, rows.groups, values)


@dataclass(frozen=True)
class _Single:
    """Some rows i against all rows j, each a group of its own.

    Args:
        fit: of all samples.
        index: ``(a,)`` the rows i.
        free: ``(m,)`` 1 - w h of each row.
        hat: ``(a, m)`` w_j h_ij.
        denominator: ``(a, m)``.

    """

    fit: Fit
    index: Tensor
    free: Tensor
    hat: Tensor
    denominator: Tensor

    def between(self, truth: Tensor, rival: Tensor) -> Tensor:
        """``(a, m)`` residual of the true class of i minus that of its rival, without i and j."""
        r, i = self.fit.residuals, self.index
        own = (r[i, truth[i]] - r[i, rival[i]])[:, None]
        other = (r[:, truth[i]] - r[:, rival[i]]).T
        return (self.free * own + self.hat * other) / self.denominator

    def squares(self) -> Tensor:
        """``(a, m)`` squares of these, summed over outputs, without making them."""
        r, i = self.fit.residuals, self.index
        squares = r.square().sum(1)
        cross = 2 * self.free * self.hat * (r[i] @ r.T)
        total = self.free.square() * squares[i, None] + cross + self.hat.square() * squares
        return total / self.denominator.square()


def _single_pairs(fit: Fit, rows: KeptRows, counted: Tensor, loss: Callable[[_Single], Tensor]) -> Tensor:
    weights = rows.weights
    free = 1 - weights * fit.leverage()
    total = torch.zeros_like(free)
    chosen = counted[rows.groups].nonzero()[:, 0]
    for index in torch.split(chosen, max(1, _CHUNK // (len(free) * fit.residuals.shape[1]))):
        hat = fit.hat(fit.features[index], fit.features)
        denominator = free[index, None] * free - weights[index, None] * weights * hat.square()
        losses = weights[index, None] * loss(_Single(fit, index, free, hat * weights, denominator))
        losses[torch.arange(len(index), device=index.device), index] = 0
        total += losses.sum(0)
    return _by_group(total, rows)


def _group_pairs(fit: Fit, rows: KeptRows, counted: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Groups are taken by size, so that a large one does not pad all others."""
    total = fit.residuals.new_zeros(rows.num_groups)
    buckets = _buckets(rows.groups)
    for own in buckets:
        own = own[counted[own]]
        for left in buckets if len(own) else ():
            total[left] += _bucket_pairs(fit, rows, own, left, loss)
    return total


def _bucket_pairs(
    fit: Fit, rows: KeptRows, own: Tensor, left: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``(len(left),)`` losses of the rows of ``own`` groups, without each of the groups ``left`` and their own."""
    whole = Blocks.of(rows.groups)
    mine, theirs = whole.some(own), whole.some(left)
    features, residuals, weights = (mine.gather(each) for each in (fit.features, fit.residuals, rows.weights))
    kept = left_out(fit, mine, rows.weights)
    found = []
    size = max(1, _CHUNK // (len(own) * mine.index.shape[1] * (theirs.index.shape[1] + residuals.shape[2])))
    for part in torch.split(torch.arange(len(left), device=left.device), size):
        other = theirs.some(part)
        valid = mine.valid[None, :, :, None] & other.valid[:, None, None]
        hat = fit.hat(features[None], other.gather(fit.features)[:, None]) * valid
        inverse = torch.linalg.inv(left_out(fit, other, rows.weights))
        reach = hat @ (other.gather(rows.weights)[:, :, None] * inverse)[:, None]
        matrix = kept - reach @ hat.transpose(-1, -2) * weights[None, :, None]
        without = torch.linalg.solve(matrix, residuals + reach @ other.gather(fit.residuals)[:, None])
        losses = (loss(without, mine.index) * weights).sum(-1)
        found.append(torch.where(own == left[part, None], 0, losses).sum(1))
    return torch.cat(found)


def _buckets(groups: Tensor) -> list[Tensor]:
    sizes = groups.bincount().double().log2().ceil()
    return [(sizes == size).nonzero()[:, 0] for size in torch.unique(sizes).tolist()]
