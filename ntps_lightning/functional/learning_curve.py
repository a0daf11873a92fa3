r"""How well a probe reads by the number of rows that it was fitted on, from kept rows alone (METHOD 31, 32).

Kept rows stand in the order of their hashes, which is a random one: consecutive groups are a sample, and several runs
of them that share no group are several samples. A probe is fitted on each and reads all other kept rows. With m rows
and d dimensions the smaller of the m x m and the d x d problem is solved.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.functional.jackknife import Decisions
from ntps_lightning.functional.kept import Blocks, KeptRows
from ntps_lightning.functional.ridge_probe import RidgeProbe, left_out_squares

# The fewest rows that are fitted, and the share of all that the largest fits leave to be read.
_FEWEST = 50
_READ = 0.2
# Fits of one size: more would say little that is new.
_MOST_FITS = 10
# A prediction is a fit to so many sizes, and reaches so many times the largest.
_FEWEST_SIZES = 3
_REACH = 4
# Added to variances of the curve: none is zero then, as that of an accuracy of 1 would be.
_LEAST_VARIANCE = 1e-12
# Exponents of the power law, all as likely before the curve is seen: from that of a logarithm to that of a probe with
# far more rows than dimensions.
_EXPONENTS = [0.05 * step for step in range(21)]


@dataclass(frozen=True)
class LearningCurve:
    """Held-out R² and accuracy by the number m of rows that a probe was fitted on, means over disjoint fits.

    Args:
        r2: by m: 1 minus the probe's squared error over that of the mean of all samples.
        r2_se: their standard errors.
        accuracy: share of right classes by m; ``None`` for targets that are no classes.
        accuracy_se: their standard errors.
        num_fits: by m.
        covariance: ``(s, s)`` float64, of the errors of the s numbers in ``r2``, which share rows.
        accuracy_covariance: likewise of those in ``accuracy``.

    """

    r2: dict[int, float]
    r2_se: dict[int, float]
    accuracy: dict[int, float] | None
    accuracy_se: dict[int, float] | None
    num_fits: dict[int, int]
    covariance: Tensor
    accuracy_covariance: Tensor | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> LearningCurve:
        """What :func:`dataclasses.asdict` has made plain."""
        return cls(**state)

    @property
    def farthest(self) -> int:
        """The most rows that :meth:`predict` goes to: four times the largest fit."""
        return _REACH * max(self.r2)

    def predict(self, num_rows: int) -> tuple[float, float]:
        r"""R² of a probe that is fitted on so many rows, and its standard error, by a power law.

        :math:`a + b (1 - m^{-c}) / c` is fitted with every exponent c from 0, where it is a logarithm, to 1, by
        generalised least squares.
        Predictions are averaged by the likelihoods of their fits; the error has their own errors and how far they lie
        apart (METHOD 32).

        Args:
            num_rows: from the smallest fit to four times the largest.

        Raises:
            ValueError: If it lies outside, or the curve has fewer than three sizes.

        """
        return self._predict(num_rows, self.r2, self.covariance)

    def predict_accuracy(self, num_rows: int) -> tuple[float, float]:
        """The same of accuracy, as a share: where the law goes below 0 or above 1, it is that; the error stays.

        Args:
            num_rows: from the smallest fit to four times the largest.

        Raises:
            ValueError: If it lies outside, the curve has fewer than three sizes, or targets are no classes.

        """
        if self.accuracy is None or self.accuracy_covariance is None:
            raise ValueError("there is no accuracy to predict: targets are no classes")
        value, se = self._predict(num_rows, self.accuracy, self.accuracy_covariance)
        return min(max(value, 0.0), 1.0), se

    def _predict(self, num_rows: int, curve: dict[int, float], covariance: Tensor) -> tuple[float, float]:
        sizes = torch.tensor(sorted(curve), dtype=torch.float64)
        if len(sizes) < _FEWEST_SIZES:
            raise ValueError(
                f"a prediction needs fits of {_FEWEST_SIZES} sizes, there are {len(sizes)}: keep more rows"
            )
        if not sizes[0] <= num_rows <= self.farthest:
            raise ValueError(
                f"fits of {min(curve)} to {max(curve)} rows tell of as many to {self.farthest}, not of {num_rows}"
            )
        values = torch.tensor([curve[int(size)] for size in sizes], dtype=torch.float64)
        known = covariance + _LEAST_VARIANCE * torch.eye(len(sizes), dtype=torch.float64)
        return _power_law(sizes / sizes[0], values, known, num_rows / float(sizes[0]))


def learning_curve(
    states: Tensor, targets: Tensor, rows: KeptRows, variances: Tensor, *, grid: list[float], classes: bool
) -> LearningCurve | None:
    """The learning curve of kept rows.

    Args:
        states: ``(m, d)`` float64 pooled states of the rows, from near their mean.
        targets: ``(m, C)`` float64 targets, as R² is to weigh them.
        rows: the rows.
        variances: ``(G,)`` squared errors of the rows of each group in the mean of the samples of all others.
        grid: ridges to choose from inside the rows that are fitted, relative to the mean eigenvalue.
        classes: whether ``rows.targets`` are one-hot.

    Returns:
        The curve at m = 50, 100, 200, ..., or what whole groups make of them, up to four fifths of the rows; ``None``
        where these are less than 50.

    """
    reader = _Reader.of(states, targets, rows, variances)
    points: dict[int, tuple[_Point, _Point | None, int]] = {}
    counts = rows.groups.bincount().tolist()
    for spans in _sizes(counts):
        fits = [reader.fit(span, grid) for span in spans]
        r2 = _mean_of([fit.r2() for fit in fits])
        accuracy = _mean_of([fit.accuracy() for fit in fits]) if classes else None
        if r2.influence.isfinite().all():
            points[round(sum(sum(counts[slice(*span)]) for span in spans) / len(spans))] = (r2, accuracy, len(spans))
    if not points:
        return None
    accuracies = {size: accuracy for size, (_, accuracy, _) in points.items() if accuracy is not None}
    return LearningCurve(
        r2={size: float(r2.value) for size, (r2, *_) in points.items()},
        r2_se={size: float(r2.se) for size, (r2, *_) in points.items()},
        accuracy={size: float(each.value) for size, each in accuracies.items()} if classes else None,
        accuracy_se={size: float(each.se) for size, each in accuracies.items()} if classes else None,
        num_fits={size: count for size, (*_, count) in points.items()},
        covariance=_covariance([r2 for r2, *_ in points.values()]),
        accuracy_covariance=_covariance(list(accuracies.values())) if classes else None,
    )


def _covariance(points: list[_Point]) -> Tensor:
    influences = torch.stack([point.influence for point in points])
    return (influences @ influences.T + torch.stack([point.spread for point in points]).diag()).cpu()


@dataclass(frozen=True)
class _Point:
    """A statistic of the curve.

    Args:
        value: ``()``.
        influence: ``(G,)`` by how much each group changes it.
        spread: ``()`` what its variance has beyond them: the ridge is chosen anew in every fit.

    """

    value: Tensor
    influence: Tensor
    spread: Tensor

    @property
    def se(self) -> Tensor:
        return (self.influence.square().sum() + self.spread).sqrt()


@dataclass(frozen=True)
class _Fitted:
    """A probe that was fitted on the groups from ``span[0]`` on, up to ``span[1]``, and the rows that it reads.

    Args:
        span: the groups.
        inside: ``(m,)`` the groups of the rows that were fitted.
        pulls: ``(m, C)`` residuals of these in the fit without their groups, times their weights.
        hats: the product of the hat matrix between these and the rows that are read with ``(r, a)`` numbers of the
            latter. The hat matrix times the pulls of a group is what residuals would change by without it.
        residuals: ``(r, C)`` of the rows that are read.
        targets: ``(r, C)`` theirs.
        weights: ``(r,)`` theirs.
        groups: ``(r,)`` theirs.
        variances: ``(G,)`` zero of the groups that were fitted.

    """

    span: tuple[int, int]
    inside: Tensor
    pulls: Tensor
    hats: Callable[[Tensor], Tensor]
    residuals: Tensor
    targets: Tensor
    weights: Tensor
    groups: Tensor
    variances: Tensor

    def r2(self) -> _Point:
        weighted = self.residuals * self.weights[:, None]
        losses = self._by_group(self.groups, (weighted * self.residuals).sum(1))
        return self._point(losses, self.variances, 2 * weighted)

    def accuracy(self) -> _Point:
        found = Decisions.of(self.residuals, self.targets)
        density = (self.weights * found.density)[:, None]
        slope = torch.zeros_like(self.residuals).scatter_(1, found.truth[:, None], density)
        slope.scatter_add_(1, found.rival[:, None], -density)
        losses = self._by_group(self.groups, found.wrong * self.weights)
        return self._point(losses, self._by_group(self.groups, self.weights), slope)

    def _point(self, losses: Tensor, scale: Tensor, slope: Tensor) -> _Point:
        """1 - losses / scale, both given by group, and the losses' derivatives by the residuals."""
        total, whole = losses.sum(), scale.sum()
        value = 1 - total / whole
        influence = 1 - (total - losses) / (whole - scale) - value
        change = self._by_group(self.inside, (self.pulls * self.hats(slope)).sum(1))[slice(*self.span)]
        influence[slice(*self.span)] = (change.mean() - change) / whole
        return _Point(value, influence, torch.zeros_like(value))

    def _by_group(self, groups: Tensor, values: Tensor) -> Tensor:
        return torch.zeros_like(self.variances).index_add_(0, groups, values)


@dataclass(frozen=True)
class _Reader:
    """The rows, in the order of their groups, with their Gram matrix; see :func:`learning_curve`."""

    states: Tensor
    gram: Tensor
    targets: Tensor
    rows: KeptRows
    variances: Tensor

    @classmethod
    def of(cls, states: Tensor, targets: Tensor, rows: KeptRows, variances: Tensor) -> _Reader:
        order = rows.groups.argsort(stable=True)
        states = states[order]
        parts = {name: getattr(rows, name)[order] for name in ("targets", "weights", "groups")}
        return cls(states, states @ states.T, targets[order], replace(rows, states=states, **parts), variances)

    def fit(self, span: tuple[int, int], grid: list[float]) -> _Fitted:
        """The probe of some groups, with the ridge that reads each best from the others."""
        first, last = torch.searchsorted(self.rows.groups, self.rows.groups.new_tensor(span)).tolist()
        inside, every = slice(first, last), torch.arange(len(self.states), device=self.states.device)
        others = torch.cat([every[:first], every[last:]])
        weights, groups = self.rows.weights[inside], self.rows.groups[inside]
        count = weights.sum()
        targets = self.targets - weights @ self.targets[inside] / count
        solve = self._by_rows if last - first < self.states.shape[1] else self._by_dimensions
        eigenvalues, back, left = solve(inside, weights / count)
        coordinates = left[inside] @ back
        cross = (coordinates * weights[:, None]).T @ targets[inside] / count
        probe = RidgeProbe(int(count), eigenvalues.clamp(min=0), coordinates, cross, targets[inside])
        blocks = Blocks.of(groups - span[0])
        # Of more dimensions than rows, all other eigenvalues are zero and count in their mean.
        ridges = [ridge * len(eigenvalues) / self.states.shape[1] for ridge in grid]
        ridge = ridges[int(left_out_squares(probe, weights, blocks, ridges).sum(1).argmin())]
        inverse = 1 / probe.damped(ridge)[:, None]
        variances = self.variances.clone()
        variances[slice(*span)] = 0

        def hats(values: Tensor) -> Tensor:
            everywhere = values.new_zeros(len(left), values.shape[1]).index_copy_(0, others, values)
            return (coordinates @ (inverse * (back.T @ (left.T @ everywhere))) + values.sum(0)) / count

        return _Fitted(
            span=span,
            inside=groups,
            pulls=probe.at(ridge).without_own(blocks, weights) * weights[:, None],
            hats=hats,
            residuals=(targets - left @ (back @ (inverse * cross)))[others],
            targets=self.rows.targets[others],
            weights=self.rows.weights[others],
            groups=self.rows.groups[others],
            variances=variances,
        )

    def _by_dimensions(self, inside: slice, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Eigenvalues of the covariance of some rows, and two matrices whose product is the coordinates of all."""
        centred = self.states - share @ self.states[inside]
        eigenvalues, vectors = torch.linalg.eigh((centred[inside].T * share) @ centred[inside])
        return eigenvalues, vectors, centred

    def _by_rows(self, inside: slice, share: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The same, of the eigenvalues that are not zero for want of rows."""
        gram = self.gram[:, inside]
        middle = gram @ share
        centred = gram - middle[:, None] - (middle[inside] - share @ middle[inside])
        root = share.sqrt()
        eigenvalues, vectors = torch.linalg.eigh(root[:, None] * centred[inside] * root)
        real = eigenvalues > len(share) * torch.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
        return eigenvalues, root[:, None] * vectors * torch.where(real, eigenvalues, torch.inf).rsqrt(), centred


def _sizes(counts: list[int]) -> list[list[tuple[int, int]]]:
    """Spans of whole groups, none of which has more than half of its rows, for each of the sizes."""
    ends = [0, *accumulate(counts)]
    most = (1 - _READ) * ends[-1]
    found: list[list[tuple[int, int]]] = []
    size = _FEWEST
    while size <= most:
        spans: list[tuple[int, int]] = []
        low = 0
        while (high := bisect_left(ends, ends[low] + size)) < len(ends) and len(spans) < _MOST_FITS:
            rows = ends[high] - ends[low]
            if rows <= most and 2 * max(counts[low:high]) <= rows:
                spans.append((low, high))
            low = high
        found += [spans] if spans else []
        size *= 2
    return found


def _mean_of(fits: list[_Point]) -> _Point:
    """Of disjoint fits: where they lie further apart than influences say, the rest is their spread."""
    values, influence = torch.stack([fit.value for fit in fits]), torch.stack([fit.influence for fit in fits]).mean(0)
    spread = torch.zeros_like(values[0])
    if len(fits) > 2:
        spread = (values.var() / len(fits) - influence.square().sum()).clamp(min=0)
    return _Point(values.mean(), influence, spread)


def _power_law(sizes: Tensor, values: Tensor, covariance: Tensor, at: float) -> tuple[float, float]:
    """Mean and standard deviation of a + b (1 - m^-c) / c at ``at``, over the exponents by their likelihoods."""
    precision = torch.linalg.inv(covariance)
    logarithms = sizes.log()
    means, variances, misfits = [], [], []
    for exponent in _EXPONENTS:
        design = torch.stack([torch.ones_like(sizes), _risen(logarithms, exponent)], 1)
        errors = torch.linalg.inv(design.T @ precision @ design)
        found = errors @ design.T @ precision @ values
        there = torch.stack([logarithms.new_ones(()), _risen(logarithms.new_tensor(at).log(), exponent)])
        misfit = values - design @ found
        means.append(there @ found)
        variances.append(there @ errors @ there)
        misfits.append(misfit @ precision @ misfit)
    mean, variance = torch.stack(means), torch.stack(variances)
    likely = (-torch.stack(misfits) / 2).softmax(0)
    value = likely @ mean
    return float(value), float((likely @ (variance + (mean - value).square())).sqrt())


def _risen(logarithms: Tensor, exponent: float) -> Tensor:
    """(1 - m^-c) / c by the logarithm of m, which is the logarithm itself where c is 0."""
    return -torch.special.expm1(-exponent * logarithms) / exponent if exponent else logarithms
