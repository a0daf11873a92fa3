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
from ntps_lightning.functional.products import float32_products
from ntps_lightning.functional.ridge_probe import Fit, left_out

# Numbers that are worked on at once.
_CHUNK = 2**22
# Of pairs of rows: an error need not be known to more digits.
_PAIRS = torch.float32


@dataclass(frozen=True)
class Estimate:
    """A statistic of held-out rows, and what each group of rows does to it.

    Args:
        value: of all kept rows.
        own: ``(L,)`` by how much it changes without the terms of each of the first L groups.
        fit: ``(L,)`` by how much it changes where the group is in no other row's fit.
        num_groups: kept groups G, of which these L stand for all.
        unseen: groups of samples that were not kept, but are in the fits.

    """

    value: float
    own: Tensor
    fit: Tensor
    num_groups: int
    unseen: float

    @property
    def se(self) -> float:
        """Standard error: of the kept groups both parts, of all others the mean of the second."""
        own, fit = self.own - self.own.mean(), self.fit - self.fit.mean()
        return math.sqrt(float(self.num_groups * (own + fit).square().mean() + self.unseen * fit.square().mean()))

    def minus(self, other: Estimate) -> Estimate:
        """The difference to another measurement of the same rows, whose errors are shared."""
        own, fit = self.own - other.own, self.fit - other.fit
        return Estimate(self.value - other.value, own, fit, self.num_groups, self.unseen)

    def over(self, other: Estimate) -> Estimate:
        """The ratio to another statistic of the same rows, to first order."""
        ratio = self.value / other.value
        own, fit = ((a - ratio * b) / other.value for a, b in ((self.own, other.own), (self.fit, other.fit)))
        return Estimate(ratio, own, fit, self.num_groups, self.unseen)


@dataclass(frozen=True)
class Losses:
    """Sums of losses of rows that are left out of their fits.

    Args:
        own: ``(G,)`` of the rows of each group, in the fit without it.
        others: ``(L,)`` of the rows of all groups but each of the first L, in fits without this group and their own.

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
    return Losses(own, _pairs(fit, rows, blocks, counted, _Single.squares, lambda found, _: found.square().sum(-1)))


def classification_errors(fit: Fit, rows: KeptRows, blocks: Blocks, counted: Tensor) -> Losses:
    """Rows of the groups that are ``counted`` whose best class is another than theirs.

    One row changes few decisions, and all or nothing. What the fits without it do to margins between the true class and
    its best rival is therefore told by a step as wide as the density of margins can be known (Silverman's rule).

    """
    found = Decisions.of(fit.without_own(blocks, rows.weights), rows.targets)
    truth, rival = found.truth, found.rival

    def of_a_group(residuals: Tensor, index: Tensor) -> Tensor:
        return found.softened(1 - _between(residuals, truth[index], rival[index]))

    def of_a_row(pairs: _Single) -> Tensor:
        return found.softened(1 - pairs.between(truth, rival))

    others = _pairs(fit, rows, blocks, counted, of_a_row, of_a_group)
    weights = rows.weights * counted[rows.groups]
    shift = _by_group((found.softened(found.margins) - found.wrong) * weights, rows)
    return Losses(_by_group(found.wrong * weights, rows), others - (shift.sum() - shift[: rows.num_left]))


@dataclass(frozen=True)
class Decisions:
    """Rows by the margin between the score of their true class and that of its best rival.

    Args:
        truth: ``(m,)`` classes.
        rival: ``(m,)`` the best of all others.
        margins: ``(m,)`` below zero where the rival is chosen.
        width: of the step that tells of changes: as wide as the density of margins can be known.

    """

    truth: Tensor
    rival: Tensor
    margins: Tensor
    width: float

    @classmethod
    def of(cls, residuals: Tensor, targets: Tensor) -> Decisions:
        """Of ``(m, C)`` residuals and one-hot targets."""
        truth = targets.argmax(1)
        rival = (targets - residuals).scatter(1, truth[:, None], -torch.inf).argmax(1)
        margins = 1 - _between(residuals, truth, rival)
        return cls(truth, rival, margins, 1.06 * float(margins.std()) * len(margins) ** -0.2)

    @property
    def wrong(self) -> Tensor:
        """``(m,)`` 1 where the rival is chosen."""
        return (self.margins < 0).double()

    def softened(self, margins: Tensor) -> Tensor:
        """The same of other margins, by a step of this width."""
        step: Tensor = torch.special.ndtr(-margins / self.width)
        return step

    @property
    def density(self) -> Tensor:
        """``(m,)`` by how much that falls with a margin."""
        scaled = self.margins / self.width
        return torch.exp(-scaled.square() / 2) / (self.width * math.sqrt(2 * math.pi))


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
    return _ratio(errors, Losses(counts, counts.sum() - counts[: rows.num_left]), unseen, lambda a, b: 1 - a / b)


def _ratio(top: Losses, bottom: Losses, unseen: float, statistic: Callable[[Tensor, Tensor], Tensor]) -> Estimate:
    value = statistic(top.total, bottom.total)
    above, below = top.own[: len(top.others)], bottom.own[: len(bottom.others)]
    own = statistic(top.total - above, bottom.total - below) - value
    fit = statistic(top.others + above, bottom.others + below) - value
    return Estimate(float(value), own.cpu(), fit.cpu(), len(top.own), unseen)


def _by_group(values: Tensor, rows: KeptRows) -> Tensor:
    return values.new_zeros(rows.num_groups).index_add_(0, rows.groups, values)


@dataclass(frozen=True)
class _Single:
    """Some rows i against some rows j, each a group of its own: i without both has (r_i + h_ij c_j) / free_ij.

    Args:
        residuals: ``(a, C)`` r_i.
        changes: ``(b, C)`` c_j = w_j r_j / (1 - w_j h_jj).
        own: ``(a,)`` the rows i.
        hat: ``(a, b)`` h_ij.
        free: ``(a, b)``.

    """

    residuals: Tensor
    changes: Tensor
    own: Tensor
    hat: Tensor
    free: Tensor

    def between(self, truth: Tensor, rival: Tensor) -> Tensor:
        """``(a, b)`` residual of the true class of i minus that of its rival, without i and j."""
        true, best = truth[self.own], rival[self.own]
        change = (self.changes[:, true] - self.changes[:, best]).T
        return torch.addcmul(_between(self.residuals, true, best)[:, None], self.hat, change) / self.free

    def squares(self) -> Tensor:
        """``(a, b)`` squares of residuals of i without i and j, summed over outputs."""
        cross = self.residuals @ self.changes.T
        total = torch.addcmul(self.residuals.square().sum(1)[:, None], self.hat, cross, value=2)
        return total.addcmul_(self.hat.square(), self.changes.square().sum(1)) / self.free.square()


def _pairs(
    fit: Fit,
    rows: KeptRows,
    blocks: Blocks,
    counted: Tensor,
    of_a_row: Callable[[_Single], Tensor],
    of_a_group: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """``(L,)`` losses of the rows of ``counted`` groups, in fits without each of the first L groups and their own."""
    with float32_products(fit.residuals.device, "highest"):
        if blocks.single:
            return _single_pairs(fit, rows, counted, of_a_row)
        return _group_pairs(fit, rows, counted, of_a_group)


def _single_pairs(fit: Fit, rows: KeptRows, counted: Tensor, loss: Callable[[_Single], Tensor]) -> Tensor:
    left = (rows.groups < rows.num_left).nonzero()[:, 0]
    free = 1 - rows.weights * fit.leverage()
    reach = (rows.weights / free)[left]
    features, residuals, free, weights = (x.to(_PAIRS) for x in (fit.features, fit.residuals, free, rows.weights))
    changes = (fit.residuals[left] * reach[:, None]).to(_PAIRS)
    total = torch.zeros_like(reach)
    chosen = counted[rows.groups].nonzero()[:, 0]
    for own in torch.split(chosen, max(1, _CHUNK // (len(left) * fit.residuals.shape[1]))):
        hat = fit.hat(features[own], features[left])
        without = free[own, None] - hat.square() * torch.outer(weights[own], reach.to(_PAIRS))
        losses = loss(_Single(residuals[own], changes, own, hat, without)) * weights[own, None]
        total += losses.masked_fill_(own[:, None] == left, 0).sum(0)
    return torch.zeros_like(total).index_copy_(0, rows.groups[left], total)


def _group_pairs(fit: Fit, rows: KeptRows, counted: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Groups are taken by size, so that a large one does not pad all others."""
    total = fit.residuals.new_zeros(rows.num_left)
    buckets = Blocks.of(rows.groups).buckets()
    for own in buckets:
        own = own[counted[own]]
        for left in buckets if len(own) else ():
            left = left[left < rows.num_left]
            if len(left):
                total[left] += _bucket_pairs(fit, rows, own, left, loss)
    return total


def _bucket_pairs(
    fit: Fit, rows: KeptRows, own: Tensor, left: Tensor, loss: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """``(len(left),)`` losses of the rows of ``own`` groups, without each of the groups ``left`` and their own."""
    whole = Blocks.of(rows.groups)
    mine, theirs = whole.some(own), whole.some(left)
    rough = Fit(fit.num_samples, fit.residuals.to(_PAIRS), fit.features.to(_PAIRS))
    weights = rows.weights.to(_PAIRS)
    features, residuals, counts = (mine.gather(each) for each in (rough.features, rough.residuals, weights))
    kept = left_out(fit, mine, rows.weights).to(_PAIRS)
    found = []
    s, t = mine.index.shape[1], theirs.index.shape[1]
    size = max(1, _CHUNK // (len(own) * max(s, t) * (max(s, t) + residuals.shape[2])))
    for part in torch.split(torch.arange(len(left), device=left.device), size):
        other = theirs.some(part)
        valid = mine.valid[None, :, :, None] & other.valid[:, None, None]
        hat = rough.hat(features.flatten(0, 1), other.gather(rough.features).flatten(0, 1))
        hat = hat.view(len(own), s, *other.index.shape).permute(2, 0, 1, 3) * valid
        inverse = torch.linalg.inv(left_out(fit, other, rows.weights)).to(_PAIRS)
        reach = hat @ (other.gather(weights)[:, :, None] * inverse)[:, None]
        matrix = kept - reach @ hat.transpose(-1, -2) * counts[None, :, None]
        without = torch.linalg.solve(matrix, residuals + reach @ other.gather(rough.residuals)[:, None])
        losses = (loss(without, mine.index) * counts).sum(-1)
        found.append(torch.where(own == left[part, None], 0, losses).sum(1))
    return torch.cat(found).double()
