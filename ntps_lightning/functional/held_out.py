"""What a linear probe reads of samples that it was not fitted on, exactly, from the sums and a few kept rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.functional.jackknife import (
    Estimate,
    Losses,
    accuracy_estimate,
    classification_errors,
    r2_estimate,
    squared_losses,
)
from ntps_lightning.functional.kept import Blocks, KeptRows
from ntps_lightning.functional.kept_samples import KeptSamples
from ntps_lightning.functional.learning_curve import LearningCurve, learning_curve
from ntps_lightning.functional.moments import Covariances, Moments
from ntps_lightning.functional.ridge_probe import Fit, RidgeProbe, cross_fitted_ridges, mean_fit

# Ridges relative to the mean eigenvalue of the features' covariance.
GRID = [10 ** (exponent / 2) for exponent in range(-8, 5)]
# A probe that its ridge has silenced looks surer than it is: errors are those of one that speaks. Where it has few
# directions it must speak louder: the jackknife is generous to many features, and does not see what the choice of the
# ridge adds, and that of directions which come from the samples (python -m benchmarks.calibration).
_MOST_RIDGE = 3.0
_MOST_RIDGE_CONFINED = 0.3
FEWEST_ROWS = 20
FEWEST_GROUPS = 10
# The variance of a kept row's target, of one on average, below which it is rounding.
_CONSTANT = 1e-12
# Groups that are left out twice for the errors of a curve, which are known to 6% then.
_COARSE_LEFT = 128
# A ratio is shown where its denominator is so many standard errors above zero.
_CLEAR = 2.0

_OF_THE_WHOLE = ("probe_r2", "probe_accuracy")
_ESTIMATES = (*_OF_THE_WHOLE, "captured_r2", "principal_r2", "bag_r2", "captured")


@dataclass(frozen=True)
class HeldOut:
    """Held-out numbers of one layer, each with its standard error.

    Args:
        probe_r2: of a ridge probe on the whole pooled state: 1 minus its squared error over that of the mean.
        probe_accuracy: its share of right classes; ``None`` for targets that are no classes.
        captured_r2: of the probe confined to the leading k autoregressive directions.
        principal_r2: of the probe confined to as many leading principal components.
        bag_r2: of the probe confined to as many leading directions of tokens without order; ``None`` without controls.
        k: number of those directions.
        captured: captured_r2 over probe_r2; ``None`` where probe_r2 is not two standard errors above zero.
        ridges: the two ridges of the whole probe, relative to tr(B)/d, each chosen on one half for the other.
        at_edge: which of the probes chose an end of the grid.
        num_kept: rows that were read.
        num_groups: groups of them that were left out together.
        num_conflicts: rows that were not read, since the same tokens occur with several labels.
        rows: a hash of which rows were read, and of their targets.
        output_r2: ``probe_r2`` of each output alone, 0 where it does not vary in these rows; ``None`` for classes.
        curves: ``captured_r2``, ``principal_r2`` and with controls ``bag_r2`` by number of directions, each a value and
            its standard error.
        learning_curve: of the whole probe, by number of rows that it was fitted on; ``None`` where it was not asked
            for, or too few rows were kept.
        groups: a hash of which groups were read, and of how many samples each has. Where the groups are the user's,
            estimates of two tokenizers that have it in common are of the same samples in the same order, whatever ids
            these give to samples; 0 where an earlier version has written the state.

    """

    probe_r2: Estimate
    probe_accuracy: Estimate | None
    captured_r2: Estimate
    principal_r2: Estimate
    bag_r2: Estimate | None
    k: int
    captured: Estimate | None
    ridges: tuple[float, float]
    at_edge: tuple[str, ...]
    num_kept: int
    num_groups: int
    num_conflicts: int
    rows: int
    output_r2: tuple[float, ...] | None
    curves: dict[str, dict[int, tuple[float, float]]]
    learning_curve: LearningCurve | None
    groups: int = 0

    @property
    def reads_nothing(self) -> bool:
        """Whether R² is not two standard errors above zero, or a ridge is the highest of the grid: a silenced probe
        tells of a left out row what the others are, which of balanced classes is another one. Its accuracy says nothing
        then, and errors do not bound it.
        """
        return self.probe_r2.value <= _CLEAR * self.probe_r2.se or max(self.ridges) >= GRID[-1]

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> HeldOut:
        """What :func:`dataclasses.asdict` has made plain."""
        estimates = {name: Estimate(**value) for name, value in state.items() if name in _ESTIMATES and value}
        curve = state["learning_curve"] and LearningCurve.of(state["learning_curve"])
        fields: dict[str, Any] = {**state, **estimates, "learning_curve": curve}
        return cls(**fields)

    def since(self, earlier: HeldOut) -> dict[str, Estimate] | None:
        """By how much each estimate has changed, its standard error that of the change: errors that both share, since
        the same rows were read, are not counted.

        Args:
            earlier: an earlier measurement, or another model's or layer's.

        Returns:
            The differences of those that both have, of confined probes with as many directions; ``None`` where other
            rows were read, or were fitted together with another number of samples. Rows are told apart by their ids and
            targets.

        """
        if self.rows != earlier.rows or self.probe_r2.unseen != earlier.probe_r2.unseen:
            return None
        names = _ESTIMATES if self.k == earlier.k else _OF_THE_WHOLE
        both = {name: (getattr(self, name), getattr(earlier, name)) for name in names}
        return {name: now.minus(then) for name, (now, then) in both.items() if now is not None and then is not None}


def held_out(
    cov: Covariances,
    means: tuple[Tensor, Tensor],
    rows: KeptRows,
    basis: Tensor,
    k: int,
    *,
    bag: Tensor | None = None,
    curves: bool = True,
    fewer_rows: bool = True,
) -> HeldOut:
    """Held-out numbers of kept rows.

    Args:
        cov: centred covariances of all samples, the rows among them.
        means: ``(d,)`` and ``(C,)``, of all pooled states and targets.
        rows: the kept rows.
        basis: ``(d, j)`` orthonormal basis of the leading autoregressive directions, nested, j >= k.
        k: number of directions.
        bag: ``(d, j)`` likewise of the directions without order.
        curves: whether to read other numbers of directions.
        fewer_rows: whether to read probes of fewer rows, which are the learning curve.

    """
    reader = _Reader(cov, means, rows)
    whole = reader.read(reader.whole)
    confined: dict[str, Callable[[int], RidgeProbe]] = {
        "captured_r2": lambda size: reader.confined(basis[:, :size]),
        "principal_r2": reader.principal,
    }
    if bag is not None:
        confined["bag_r2"] = lambda size: reader.confined(bag[:, :size])
    found = {"probe_r2": whole} | {name: reader.read(probe(k)) for name, probe in confined.items()}
    estimates = {name: reader.r2(reading) for name, reading in found.items()}
    probe_r2 = estimates["probe_r2"]
    clear = probe_r2.value > _CLEAR * probe_r2.se
    sizes = _log_grid(basis.shape[1]) if curves else []
    return HeldOut(
        probe_r2=probe_r2,
        captured_r2=estimates["captured_r2"],
        principal_r2=estimates["principal_r2"],
        bag_r2=estimates.get("bag_r2"),
        k=k,
        probe_accuracy=reader.accuracy(whole) if cov.target_gram is None else None,
        captured=estimates["captured_r2"].over(probe_r2) if clear else None,
        ridges=whole.ridges,
        at_edge=tuple(name for name, reading in found.items() if reading.at_edge),
        num_kept=len(rows.states),
        num_groups=rows.num_groups,
        num_conflicts=0,
        rows=rows.digest,
        output_r2=None if cov.target_gram is None else reader.output_r2(whole),
        curves={name: _curve(reader, probe, sizes, {k: estimates[name]}) for name, probe in confined.items()},
        learning_curve=reader.learning_curve() if fewer_rows else None,
        groups=rows.group_digest,
    )


def read_held_out(
    moments: Moments,
    cov: Covariances,
    kept: KeptSamples,
    basis: Tensor,
    k: int,
    *,
    bag: Tensor | None = None,
    curves: bool = True,
    fewer_rows: bool = True,
) -> HeldOut | str:
    """Held-out numbers of the kept samples, or why there are none.

    Args:
        moments: of all samples.
        cov: their centred covariances.
        kept: rows of some of them.
        basis: see :func:`held_out`.
        k: see there.
        bag: see there.
        curves: see there.
        fewer_rows: see there.

    """
    rows, num_conflicts = kept.to(moments.pooled_sum.device).rows(len(moments.target_sum))
    if len(rows.states) < FEWEST_ROWS:
        said = f" ({num_conflicts} more have copies with other labels)" if num_conflicts else ""
        return f"{len(rows.states)} rows were kept{said}, at least {FEWEST_ROWS} are needed"
    if not rows.states.isfinite().all():
        return "pooled states are too large for the float32 rows that are kept"
    if not rows.targets.std(0).any():
        return f"the labels of all {len(rows.states)} kept rows are the same"
    largest = float(torch.zeros_like(rows.halves, dtype=torch.float64).index_add_(0, rows.groups, rows.weights).max())
    if largest > float(rows.weights.sum()) / 2:
        return f"one group has {largest:.0f} of the {rows.weights.sum():.0f} samples that were kept, more than half"
    if rows.num_groups < FEWEST_GROUPS:
        return f"the rows that were kept are of {rows.num_groups} groups, at least {FEWEST_GROUPS} are needed"
    n = moments.num_samples
    means = (moments.pooled_sum / n, moments.target_sum / n)
    found = held_out(cov, means, rows, basis, k, bag=bag, curves=curves, fewer_rows=fewer_rows)
    return replace(found, num_conflicts=num_conflicts)


@dataclass(frozen=True)
class _Reading:
    """A probe with the ridges that were chosen for the halves."""

    probe: RidgeProbe
    most_ridge: float
    ridges: tuple[float, float]
    at_edge: bool

    def fits(self, most: float) -> tuple[Fit, Fit]:
        first, second = (self.probe.at(min(ridge, most)) for ridge in self.ridges)
        return first, second


class _Reader:
    """Probes on the same kept rows."""

    def __init__(self, cov: Covariances, means: tuple[Tensor, Tensor], rows: KeptRows) -> None:
        self._cov = cov
        self._rows = rows
        self._blocks = Blocks.of(rows.groups)
        self._states = rows.states.double() - means[0]
        self._targets = (rows.targets.double() - means[1]) / cov.target_scale
        kept = float(rows.weights.sum())
        self._unseen = (cov.num_samples - kept) * rows.num_groups / kept
        eigenvalues, vectors = torch.linalg.eigh(cov.perception)
        self.whole = self._probe(eigenvalues, self._states @ vectors, vectors.T @ cov.cross)
        self._variances = self._variances_of(rows)

    def coarse(self) -> _Reader:
        """The same, whose standard errors cost less."""
        other = copy(self)
        other._rows = replace(self._rows, most_left=_COARSE_LEFT)
        other._variances = self._variances_of(other._rows)
        return other

    def _variances_of(self, rows: KeptRows) -> Losses:
        everyone = torch.ones_like(rows.halves)
        return squared_losses(mean_fit(self._cov.num_samples, self._targets), rows, self._blocks, everyone)

    def confined(self, basis: Tensor) -> RidgeProbe:
        """The probe on the coordinates in an orthonormal basis, ``(d, k)``."""
        eigenvalues, vectors = torch.linalg.eigh(basis.T @ self._cov.perception @ basis)
        basis = basis @ vectors
        return self._probe(eigenvalues, self._states @ basis, basis.T @ self._cov.cross)

    def principal(self, size: int) -> RidgeProbe:
        """The probe on so many leading principal components."""
        whole = self.whole
        return self._probe(whole.eigenvalues[-size:], whole.rows[:, -size:], whole.cross[-size:])

    def read(self, probe: RidgeProbe) -> _Reading:
        """Choose the ridges."""
        most = _MOST_RIDGE if probe is self.whole else _MOST_RIDGE_CONFINED
        return _Reading(probe, most, *cross_fitted_ridges(probe, self._rows, self._blocks, GRID))

    def r2(self, reading: _Reading) -> Estimate:
        """With its standard error."""

        def estimate(fits: tuple[Fit, Fit]) -> Estimate:
            return r2_estimate(self._both(fits, squared_losses), self._variances, self._unseen)

        return _with_wider_error(reading, estimate)

    def output_r2(self, reading: _Reading) -> tuple[float, ...]:
        """Of each output, without errors."""
        mean = mean_fit(self._cov.num_samples, self._targets).without_own(self._blocks, self._rows.weights)
        squares, variances = self._squares(reading), self._rows.weights @ mean.square()
        varies = self._targets.var(0) > _CONSTANT
        return tuple(torch.where(varies, 1 - squares / variances, 0).tolist())

    def learning_curve(self) -> LearningCurve | None:
        """Of the whole probe."""
        classes = self._cov.target_gram is None
        return learning_curve(self._states, self._targets, self._rows, self._variances.own, grid=GRID, classes=classes)

    def accuracy(self, reading: _Reading) -> Estimate:
        """With its standard error."""

        def estimate(fits: tuple[Fit, Fit]) -> Estimate:
            return accuracy_estimate(self._both(fits, classification_errors), self._rows, self._unseen)

        return _with_wider_error(reading, estimate)

    def _probe(self, eigenvalues: Tensor, rows: Tensor, cross: Tensor) -> RidgeProbe:
        return RidgeProbe(self._cov.num_samples, eigenvalues.clamp(min=0), rows, cross, self._targets)

    def _squares(self, reading: _Reading) -> Tensor:
        """``(C,)`` squared errors of the kept rows, each with the ridge of its half."""
        first, second = (fit.without_own(self._blocks, self._rows.weights) for fit in reading.fits(torch.inf))
        residuals = torch.where(self._rows.halves[self._rows.groups][:, None], first, second)
        return self._rows.weights @ residuals.square()

    def _both(self, fits: tuple[Fit, Fit], losses: Callable[[Fit, KeptRows, Blocks, Tensor], Losses]) -> Losses:
        halves = self._rows.halves
        return losses(fits[0], self._rows, self._blocks, halves) + losses(fits[1], self._rows, self._blocks, ~halves)


def _with_wider_error(reading: _Reading, estimate: Callable[[tuple[Fit, Fit]], Estimate]) -> Estimate:
    found = estimate(reading.fits(torch.inf))
    if max(reading.ridges) <= reading.most_ridge:
        return found
    speaking = estimate(reading.fits(reading.most_ridge))
    return replace(speaking, value=found.value) if speaking.se > found.se else found


def _curve(
    reader: _Reader, probe: Callable[[int], RidgeProbe], sizes: list[int], known: dict[int, Estimate]
) -> dict[int, tuple[float, float]]:
    """R² and its standard error by number of directions, of probes that are not known yet by rougher errors."""
    coarse = reader.coarse() if sizes else reader
    found = known | {size: coarse.r2(coarse.read(probe(size))) for size in sizes if size not in known}
    return {size: (each.value, each.se) for size, each in sorted(found.items())}


def _log_grid(most: int) -> list[int]:
    """Some numbers of directions, evenly spread in their logarithm."""
    found = torch.logspace(0, 1, 9, base=float(most), dtype=torch.float64) if most > 1 else torch.ones(1)
    return sorted(set(found.round().long().tolist()))
