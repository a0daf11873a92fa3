"""The learning curve against probes that are fitted again, one by one, and against redrawn data."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ntps_lightning.functional.held_out import GRID, HeldOut, held_out
from ntps_lightning.functional.kept import KeptRows
from ntps_lightning.functional.learning_curve import LearningCurve, learning_curve
from ntps_lightning.functional.moments import Covariances
from tests.support import oracle


class Sample:
    """Rows in groups and with copies, all of which were kept."""

    def __init__(self, rng, m, d, sizes=(1,), copies=1, kind="classes"):
        self.x = rng.normal(size=(m, d)) * np.arange(1, d + 1) ** -0.5 + 1
        scores = (self.x - 1) @ np.vander(np.linspace(-1, 1, d), 3) + rng.normal(size=(m, 3))
        self.y = scores if kind == "real" else oracle.one_hot(scores.argmax(1), 3)
        self.classes = kind != "real"
        self.weights = np.where(np.arange(m) % 3 == 0, copies, 1).astype(float)
        pattern = np.repeat(np.arange(m), np.resize(sizes, m))[:m]
        self.groups = rng.permutation(np.unique(pattern, return_inverse=True)[1])
        self.num_groups = self.groups.max() + 1
        total = self.weights @ self.y
        self.centre = np.zeros_like(self.y)
        for group in range(self.num_groups):
            own = self.groups == group
            others = self.weights.sum() - self.weights[own].sum()
            self.centre[own] = (total - self.weights[own] @ self.y[own]) / others
        squares = self.weights * np.square(self.y - self.centre).sum(1)
        self.variances = np.bincount(self.groups, squares, self.num_groups)

    def curve(self, order=None):
        order = np.arange(len(self.x)) if order is None else order
        parts = (self.x, self.y, self.weights, self.groups)
        x, y, weights, groups = (torch.from_numpy(part[order]) for part in parts)
        rows = KeptRows(x, y, weights, groups, torch.arange(self.num_groups) % 2 == 0, 0)
        share = weights / weights.sum()
        states, targets = x - share @ x, y - share @ y
        variances = torch.from_numpy(self.variances)
        return learning_curve(states, targets, rows, variances, grid=GRID, classes=self.classes)

    def spans(self, size):
        """Runs of whole groups, from the definition."""
        low, rows, found = 0, 0, []
        for group in range(self.num_groups):
            rows += (self.groups == group).sum()
            if rows >= size:
                found.append(np.arange(low, group + 1))
                low, rows = group + 1, 0
        return found[:10]

    def fit(self, groups, penalty):
        """Predictions of all rows by a probe that was fitted on some groups."""
        used = np.isin(self.groups, groups)
        w = self.weights[used, None]
        mean, target = (w * self.x[used]).sum(0) / w.sum(), (w * self.y[used]).sum(0) / w.sum()
        part = self.x[used] - mean
        beta = np.linalg.solve(
            part.T @ (w * part) + penalty * np.eye(self.x.shape[1]), part.T @ (w * (self.y[used] - target))
        )
        return target + (self.x - mean) @ beta

    def penalties(self, groups):
        """Of the grid: for as many samples, times the mean eigenvalue of their covariance."""
        used = np.isin(self.groups, groups)
        w = self.weights[used, None]
        part = self.x[used] - (w * self.x[used]).sum(0) / w.sum()
        return [ridge * (w * part**2).sum() / self.x.shape[1] for ridge in GRID]

    def best(self, groups):
        errors = []
        for penalty in self.penalties(groups):
            found = 0.0
            for group in groups:
                own = self.groups == group
                predicted = self.fit(np.setdiff1d(groups, group), penalty)[own]
                found += self.weights[own] @ np.square(self.y[own] - predicted).sum(1)
            errors.append(found)
        return self.penalties(groups)[int(np.argmin(errors))]


CASES = {
    "single rows": {"m": 130, "d": 70},
    "groups": {"m": 140, "d": 20, "sizes": (1, 4, 2)},
    "groups and copies": {"m": 130, "d": 70, "sizes": (3, 1, 2), "copies": 2},
    "real targets": {"m": 70, "d": 70, "kind": "real"},
}


@pytest.mark.parametrize("case", CASES)
def test_every_point_is_that_of_refits(case, rng):
    sample = Sample(rng, **CASES[case])
    found = sample.curve()
    sizes = [50, 100] if sample.x.shape[0] > 120 else [50]
    assert len(found.r2) == len(sizes)
    for m, size in zip(found.r2, sizes, strict=True):
        spans = sample.spans(size)
        if size == 100:
            spans = [span for span in spans if np.isin(sample.groups, span).sum() <= 0.8 * len(sample.x)]
        assert found.num_fits[m] == len(spans)
        assert m == round(np.mean([np.isin(sample.groups, span).sum() for span in spans]))
        r2, right, r2_parts, right_parts = [], [], [], []
        for span in spans:
            penalty = sample.best(span)
            read = ~np.isin(sample.groups, span)
            variance = sample.variances.sum() - sample.variances[span].sum()
            residuals = sample.y - sample.fit(span, penalty)
            r2.append(1 - (sample.weights * read) @ np.square(residuals).sum(1) / variance)
            r2_parts.append(influences_of_r2(sample, span, penalty, read))
            if sample.classes:
                scores = sample.y - residuals
                right.append(np.average(scores.argmax(1) == sample.y.argmax(1), weights=sample.weights * read))
                right_parts.append(influences_of_accuracy(sample, span, penalty, read))
        assert found.r2[m] == pytest.approx(np.mean(r2), rel=1e-9, abs=1e-10)
        assert found.r2_se[m] == pytest.approx(np.sqrt(np.square(np.mean(r2_parts, 0)).sum()), rel=1e-6)
        if sample.classes:
            assert found.accuracy[m] == pytest.approx(np.mean(right), rel=1e-12)
            assert found.accuracy_se[m] == pytest.approx(np.sqrt(np.square(np.mean(right_parts, 0)).sum()), rel=1e-6)
    assert (found.accuracy is None) == (not sample.classes)


def influences_of_r2(sample, span, penalty, read):
    """By how much the R² of one fit changes without each group that is read, and to first order without each in it."""
    residuals, weights = sample.y - sample.fit(span, penalty), (sample.weights * read)[:, None]
    errors = np.bincount(sample.groups, (weights * np.square(residuals)).sum(1), sample.num_groups)
    scale = np.where(np.isin(np.arange(sample.num_groups), span), 0, sample.variances)
    found = (1 - (errors.sum() - errors) / (scale.sum() - scale)) - (1 - errors.sum() / scale.sum())
    others = [sample.y - sample.fit(np.setdiff1d(span, group), penalty) for group in span]
    change = np.array([2 * (weights * residuals * (other - residuals)).sum() for other in others])
    found[span] = -(change - change.mean()) / scale.sum()
    return found


def influences_of_accuracy(sample, span, penalty, read):
    """The same, decisions changed by the density of margins."""
    truth, line = sample.y.argmax(1), np.arange(len(sample.y))
    scores = sample.fit(span, penalty)
    rival = np.where(np.arange(3) == truth[:, None], -np.inf, scores).argmax(1)
    margins = lambda scores: scores[line, truth] - scores[line, rival]  # noqa: E731
    width = 1.06 * margins(scores)[read].std(ddof=1) * read.sum() ** -0.2
    weights = sample.weights * read
    wrong = np.bincount(sample.groups, weights * (margins(scores) < 0), sample.num_groups)
    scale = np.bincount(sample.groups, weights, sample.num_groups)
    found = (1 - (wrong.sum() - wrong) / (scale.sum() - scale)) - (1 - wrong.sum() / scale.sum())
    density = norm.pdf(margins(scores) / width) / width
    others = [margins(sample.fit(np.setdiff1d(span, group), penalty)) for group in span]
    change = np.array([(weights * density) @ (margins(scores) - other) for other in others])
    found[span] = -(change - change.mean()) / scale.sum()
    return found


@pytest.fixture(scope="module")
def redrawn():
    return [Sample(np.random.default_rng(seed), m=260, d=24).curve() for seed in range(60)]


def truth(size, repeats):
    """R² and accuracy of probes of so many rows, on many others."""
    other = Sample(np.random.default_rng(999), m=6000, d=24)
    variance = np.square(other.y - other.y.mean(0)).sum()
    found = []
    for seed in range(repeats):
        sample = Sample(np.random.default_rng(1000 + seed), m=size, d=24)
        part, target = sample.x - sample.x.mean(0), sample.y - sample.y.mean(0)
        eigenvalues, vectors = np.linalg.eigh(part.T @ part)
        rows, errors = part @ vectors, []
        for penalty in sample.penalties(np.arange(size)):
            hat = rows / (eigenvalues + penalty) @ rows.T + 1 / size
            errors.append(np.square((target - (hat - 1 / size) @ target) / (1 - hat.diagonal()[:, None])).sum())
        penalty = sample.penalties(np.arange(size))[int(np.argmin(errors))]
        beta = np.linalg.solve(part.T @ part + penalty * np.eye(24), part.T @ target)
        scores = sample.y.mean(0) + (other.x - sample.x.mean(0)) @ beta
        right = (scores.argmax(1) == other.y.argmax(1)).mean()
        found.append([1 - np.square(other.y - scores).sum() / variance, right])
    return np.mean(found, 0)


def test_errors_are_the_spread_over_redrawn_data(redrawn):
    assert list(redrawn[0].r2) == [50, 100, 200]
    for size in (50, 100, 200):
        for name, wanted in zip(("r2", "accuracy"), truth(size, 60), strict=True):
            values = np.array([getattr(curve, name)[size] for curve in redrawn])
            errors = np.array([getattr(curve, f"{name}_se")[size] for curve in redrawn])
            assert values.mean() == pytest.approx(wanted, abs=3 * values.std() / np.sqrt(60) + 0.015)
            assert errors.mean() == pytest.approx(values.std(ddof=1), rel=0.35), (name, size)


@pytest.mark.parametrize(("at", "method"), [(0, LearningCurve.predict), (1, LearningCurve.predict_accuracy)])
def test_predictions_hold_what_larger_fits_find(redrawn, at, method):
    for size in (400, 800):
        wanted = truth(size, 20)[at]
        found = np.array([method(curve, size) for curve in redrawn])
        inside = np.abs(found[:, 0] - wanted) < 2 * found[:, 1]
        assert inside.mean() > 0.85
        assert found[:, 1].mean() < 2 * found[:, 0].std()


@pytest.mark.parametrize(
    "law",
    [lambda m: 0.1 * math.log(m / 50), lambda m: 0.5 - 2 * m**-0.5, lambda m: 0.5 - 2 / m],
    ids=["logarithm", "root", "inverse"],
)
def test_a_power_law_is_found_again(law):
    r2 = {m: law(m) for m in (50, 100, 200, 400, 800)}
    errors = torch.full((5,), 1e-4, dtype=torch.float64)
    curve = LearningCurve(r2, dict.fromkeys(r2, 1e-4), None, None, dict.fromkeys(r2, 1), errors.square().diag())
    for m in (50, 300, 1600, 3200):
        value, se = curve.predict(m)
        assert value == pytest.approx(law(m), abs=3 * se)
        assert 0 < se < 2e-3
    assert curve.predict(3200)[1] > curve.predict(300)[1]


def test_an_accuracy_that_is_always_right_stays_so():
    sizes = (50, 100, 200)
    ones, zeros = dict.fromkeys(sizes, 1.0), dict.fromkeys(sizes, 0.0)
    errors = torch.eye(3, dtype=torch.float64)
    nothing = torch.zeros(3, 3, dtype=torch.float64)
    curve = LearningCurve(zeros, zeros, ones, zeros, dict.fromkeys(sizes, 1), errors, nothing)
    value, se = curve.predict_accuracy(800)
    assert value == pytest.approx(1, abs=1e-6)
    assert se < 1e-5
    with pytest.raises(ValueError, match="targets are no classes"):
        LearningCurve(zeros, zeros, None, None, dict.fromkeys(sizes, 1), errors).predict_accuracy(100)


def test_an_expected_accuracy_is_a_share():
    """Straight lines in the logarithm, which leave the unit interval by 1600 rows."""
    sizes = (50, 100, 200, 400)
    errors = 1e-6 * torch.eye(4, dtype=torch.float64)
    zeros = dict.fromkeys(sizes, 0.0)
    for start, step, end in ((0.6, 0.125, 1.0), (0.4, -0.125, 0.0)):
        line = {m: start + step * math.log2(m / 50) for m in sizes}
        curve = LearningCurve(line, zeros, line, zeros, dict.fromkeys(sizes, 1), errors, errors)
        assert not 0 <= curve.predict(1600)[0] <= 1
        assert curve.predict_accuracy(1600) == (end, curve.predict(1600)[1])


def test_predictions_are_refused_where_they_would_be_guesses(rng):
    sample = Sample(rng, 260, 8)
    curve = sample.curve()
    assert curve.farthest == 800
    for size in (49, 801):
        with pytest.raises(ValueError, match=f"fits of 50 to 200 rows tell of as many to 800, not of {size}"):
            curve.predict(size)
    with pytest.raises(ValueError, match="needs fits of 3 sizes, there are 2"):
        Sample(rng, 150, 8).curve().predict(100)


def test_there_is_no_curve_of_too_few_rows_or_groups(rng):
    assert Sample(rng, 62, 8).curve() is None
    assert Sample(rng, 130, 8, sizes=(60, 70)).curve() is None


def test_the_order_of_rows_within_their_groups_changes_nothing(rng):
    sample = Sample(rng, 140, 8, sizes=(3, 2))
    first, other = sample.curve(), sample.curve(rng.permutation(140))
    assert other.r2 == pytest.approx(first.r2, rel=1e-9)
    assert other.r2_se == pytest.approx(first.r2_se, rel=1e-6)


def test_it_is_part_of_what_is_held_out_and_outlives_a_checkpoint(rng):
    sample = Sample(rng, 140, 8)
    x, y = torch.from_numpy(sample.x), torch.from_numpy(sample.y)
    means = (x.mean(0), y.mean(0))
    b, s = (x - means[0]).T @ (x - means[0]) / 140, (x - means[0]).T @ (y - means[1]) / 140
    zero, one = torch.zeros(3, dtype=torch.float64), torch.ones(3, dtype=torch.float64)
    cov = Covariances(140, b[0] * 0, zero, y.var(0, correction=0), None, one, b, s, b, b, 0.0)
    groups = torch.from_numpy(sample.groups)
    rows = KeptRows(x, y, torch.ones(140, dtype=torch.float64), groups, torch.arange(140) % 2 == 0, 0)
    basis = torch.eye(8, dtype=torch.float64)
    found = held_out(cov, means, rows, basis, 2)
    assert found.learning_curve.r2 == pytest.approx(sample.curve().r2, rel=1e-9)
    again = HeldOut.of(asdict(found)).learning_curve
    assert again.r2 == found.learning_curve.r2
    assert torch.equal(again.covariance, found.learning_curve.covariance)
    assert held_out(cov, means, rows, basis, 2, curves=False, fewer_rows=False).learning_curve is None
