"""Held-out numbers against brute force: probes that are really fitted again without a row, a group, or two of them."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from scipy.stats import norm

from ntps_lightning.functional.held_out import GRID, HeldOut, held_out
from ntps_lightning.functional.jackknife import Estimate, classification_errors, r2_estimate, squared_losses
from ntps_lightning.functional.kept import Blocks, KeptRows
from ntps_lightning.functional.moments import Covariances
from ntps_lightning.functional.ridge_probe import RidgeProbe, cross_fitted_ridges, mean_fit
from tests.support import oracle


@pytest.fixture(autouse=True)
def exact_pairs(monkeypatch):
    """Pairs of rows in float64, so that formulas can be told from roundings."""
    monkeypatch.setattr("ntps_lightning.functional.jackknife._PAIRS", torch.float64)


class Data:
    """n samples, the first of which are kept, in groups and with copies; what refits find."""

    def __init__(self, rng, n, d, m, sizes=(1,), copies=1, classes=3, kind="classes"):
        x = rng.normal(size=(n, d)) * np.arange(1, d + 1) ** -0.7 + rng.normal(size=d)
        noise = (x - x.mean(0)) @ rng.normal(size=(d, classes)) + rng.normal(size=(n, classes))
        self.y = oracle.one_hot(noise.argmax(1), classes) if kind == "classes" else noise
        if kind == "missing":  # a class of which no row is kept
            labels = np.where(np.arange(n) < m, noise[:, :-1].argmax(1), noise.argmax(1))
            self.y = oracle.one_hot(labels, classes)
        self.weights = np.where(np.arange(m) % 3 == 0, copies, 1)
        self.x = np.concatenate([np.repeat(x[:m], self.weights, 0), x[m:]])
        self.y = np.concatenate([np.repeat(self.y[:m], self.weights, 0), self.y[m:]])
        self.row = np.concatenate([np.repeat(np.arange(m), self.weights), np.full(n - m, -1)])
        self.kept_x, self.kept_y = x[:m], self.y[[np.flatnonzero(self.row == i)[0] for i in range(m)]]
        pattern = np.repeat(np.arange(m), np.resize(sizes, m))[:m]
        self.groups = rng.permutation(np.unique(pattern, return_inverse=True)[1])
        self.num_groups = self.groups.max() + 1
        self.halves = np.arange(self.num_groups) % 2 == 0
        self.kind = kind
        self.digest = 1

    def refit(self, ridge, *left_out, features=None):
        """Residuals of the kept rows in a fit without groups, with the total penalty of all."""
        x, kept = (self.x, self.kept_x) if features is None else (self.x @ features, self.kept_x @ features)
        d = x.shape[1]
        centred = x - x.mean(0)
        penalty = ridge * np.trace(centred.T @ centred) / d or 1.0
        group = np.where(self.row >= 0, self.groups[self.row], -1)
        used = ~np.isin(group, left_out)
        mean, target = x[used].mean(0), self.y[used].mean(0)
        part = x[used] - mean
        weights = np.linalg.solve(part.T @ part + penalty * np.eye(d), part.T @ (self.y[used] - target))
        return self.kept_y - target - (kept - mean) @ weights

    def held_out(self, ridge, features=None, also=()):
        """Residuals of each kept row without its own group, and others."""
        found = np.empty_like(self.kept_y)
        for group in range(self.num_groups):
            rows = self.groups == group
            found[rows] = self.refit(ridge, group, *also, features=features)[rows]
        return found

    def mean_residuals(self, also=()):
        """Without features, the mean of the others."""
        return self.held_out(1.0, features=np.zeros((self.x.shape[1], 1)), also=also)

    @property
    def rows(self):
        tensors = (self.kept_x, self.kept_y, self.weights.astype(float), self.groups, self.halves)
        return KeptRows(*map(torch.from_numpy, tensors), digest=self.digest)

    @property
    def covariances(self):
        x, y = self.x - self.x.mean(0), self.y - self.y.mean(0)
        n, outputs = y.shape
        gram = torch.from_numpy(y.T @ y / n)
        zero, one = torch.zeros(outputs, dtype=torch.float64), torch.ones(outputs, dtype=torch.float64)
        b, s = torch.from_numpy(x.T @ x / n), torch.from_numpy(x.T @ y / n)
        shown = None if self.kind != "real" else gram
        return Covariances(n, b[0] * 0, zero, gram.diagonal(), shown, one, b, s, b, b, 0.0)

    @property
    def probe(self):
        cov = self.covariances
        values, vectors = torch.linalg.eigh(cov.perception)
        states = torch.from_numpy(self.kept_x - self.x.mean(0))
        targets = torch.from_numpy(self.kept_y - self.y.mean(0))
        return RidgeProbe(cov.num_samples, values.clamp(min=0), states @ vectors, vectors.T @ cov.cross, targets)

    def result(self, basis, k) -> HeldOut:
        means = (torch.from_numpy(self.x.mean(0)), torch.from_numpy(self.y.mean(0)))
        return held_out(self.covariances, means, self.rows, torch.from_numpy(basis), k)


CASES = {
    "n > d": {"n": 40, "d": 6, "m": 14},
    "n < d": {"n": 24, "d": 40, "m": 12},
    "all kept": {"n": 20, "d": 8, "m": 20},
    "groups": {"n": 40, "d": 6, "m": 15, "sizes": (1, 4, 2)},
    "copies": {"n": 40, "d": 6, "m": 14, "copies": 3},
    "groups and copies": {"n": 40, "d": 30, "m": 15, "sizes": (3, 1, 2), "copies": 2},
    "a class that is not kept": {"n": 40, "d": 6, "m": 14, "kind": "missing"},
    "real targets": {"n": 40, "d": 6, "m": 14, "kind": "real"},
}


@pytest.fixture(params=CASES)
def data(request, rng):
    return Data(rng, **CASES[request.param])


def all_of(data):
    return torch.ones(data.num_groups, dtype=torch.bool)


@pytest.mark.parametrize("ridge", [1e-4, 1e-2, 1.0])
def test_residuals_without_their_group_are_those_of_refits(data, ridge):
    blocks, rows = Blocks.of(data.rows.groups), data.rows
    fit = data.probe.at(ridge)
    actual, wanted = fit.without_own(blocks, rows.weights).numpy(), data.held_out(ridge)
    leverage = float((rows.weights * fit.leverage()).max())
    if data.num_groups == len(data.groups):
        assert np.abs(actual - wanted).max() <= 1e-9 / (1 - leverage) * np.abs(wanted).max()
    else:
        assert np.allclose(actual, wanted, rtol=1e-7, atol=1e-9 * np.abs(wanted).max())


@pytest.mark.parametrize("ridge", [1e-2, 1.0])
def test_losses_without_a_second_group_are_those_of_refits(data, ridge):
    blocks, rows = Blocks.of(data.rows.groups), data.rows
    counted = torch.from_numpy(data.halves)
    losses = squared_losses(data.probe.at(ridge), rows, blocks, counted)
    mean = squared_losses(mean_fit(data.covariances.num_samples, data.probe.targets), rows, blocks, counted)
    chosen = data.halves[data.groups] * data.weights
    for group in range(min(5, data.num_groups)):
        others = chosen * (data.groups != group)
        wanted = np.square(data.held_out(ridge, also=(group,))).sum(1) @ others
        assert float(losses.others[group]) == pytest.approx(wanted, rel=1e-7)
        assert float(mean.others[group]) == pytest.approx(np.square(data.mean_residuals((group,))).sum(1) @ others)
    own = np.square(data.held_out(ridge)).sum(1) * chosen
    assert losses.own.numpy() == pytest.approx(np.bincount(data.groups, own, data.num_groups), rel=1e-7)


def test_changed_decisions_are_those_of_refits(data):
    if data.kind == "real":
        return
    rows, weights, truth = data.rows, data.weights, data.kept_y.argmax(1)
    losses = classification_errors(data.probe.at(0.1), rows, Blocks.of(rows.groups), all_of(data))
    scores = data.kept_y - data.held_out(0.1)
    wrong = scores.argmax(1) != truth
    assert losses.own.numpy() == pytest.approx(np.bincount(data.groups, wrong * weights, data.num_groups))
    rival = np.where(np.arange(scores.shape[1]) == truth[:, None], -np.inf, scores).argmax(1)
    line = np.arange(len(truth))
    width = 1.06 * (scores[line, truth] - scores[line, rival]).std(ddof=1) * len(truth) ** -0.2
    smooth = lambda scores: norm.cdf((scores[line, rival] - scores[line, truth]) / width)  # noqa: E731
    for group in range(3):
        others = weights * (data.groups != group)
        change = smooth(data.kept_y - data.held_out(0.1, also=(group,))) - smooth(scores)
        assert float(losses.others[group]) == pytest.approx((wrong + change) @ others, rel=1e-6, abs=1e-9)


def test_each_half_is_read_with_the_ridge_of_the_other(data):
    ridges, _ = cross_fitted_ridges(data.probe, data.rows, Blocks.of(data.rows.groups), GRID)
    first = data.halves[data.groups]
    for ridge, judges in zip(ridges, (~first, first), strict=True):
        errors = [np.square(data.held_out(r)).sum(1) @ (data.weights * judges) for r in GRID]
        assert ridge == GRID[int(np.argmin(errors))]


def test_every_number_is_that_of_refits(data, rng):
    d = data.x.shape[1]
    basis, k = np.linalg.qr(rng.normal(size=(d, 5)))[0], 3
    found = data.result(basis, k)
    components = np.linalg.svd(data.x - data.x.mean(0), full_matrices=False)[2].T[:, :k]
    first = data.halves[data.groups]
    variance = np.square(data.mean_residuals()).sum(1) @ data.weights
    for name, features in (("probe_r2", np.eye(d)), ("captured_r2", basis[:, :k]), ("principal_r2", components)):
        judged = [np.square(data.held_out(r, features)).sum(1) * data.weights for r in GRID]
        best = [int(np.argmin([e[half].sum() for e in judged])) for half in (~first, first)]
        wanted = 1 - (judged[best[0]][first].sum() + judged[best[1]][~first].sum()) / variance
        assert getattr(found, name).value == pytest.approx(wanted, abs=1e-7), name
        if name != "probe_r2":
            estimate = getattr(found, name)
            assert found.curves[name][k] == (estimate.value, estimate.se)
    assert (found.probe_accuracy is None) == (data.kind == "real")
    assert (found.num_kept, found.num_groups) == (len(data.kept_x), data.num_groups)
    assert sorted(found.curves["captured_r2"]) == [1, 2, 3, 4, 5]


def refitted_r2(data, ridge, unseen, features=None):
    """R² and its standard error, from fits without each group and a second one."""

    def r2(top, bottom, keep):
        weights = data.weights[keep]
        return 1 - np.square(top).sum(1)[keep] @ weights / (np.square(bottom).sum(1)[keep] @ weights)

    top, bottom, parts = data.held_out(ridge, features), data.mean_residuals(), []
    everything = np.ones(len(data.groups), dtype=bool)
    for group in range(data.num_groups):
        rest = data.groups != group
        own = r2(top, bottom, rest)
        new_top = np.where(rest[:, None], data.held_out(ridge, features, also=(group,)), top)
        new_bottom = np.where(rest[:, None], data.mean_residuals((group,)), bottom)
        parts.append((own, r2(new_top, new_bottom, everything)))
    own, fit = (part - part.mean() for part in np.array(parts).T)
    return r2(top, bottom, everything), np.sqrt(np.square(own + fit).sum() + unseen * np.square(fit).mean())


def test_the_error_of_r2_is_that_of_leaving_out_twice(rng):
    data = Data(rng, n=30, d=5, m=12, sizes=(2, 1))
    blocks, rows = Blocks.of(data.rows.groups), data.rows
    mean = squared_losses(mean_fit(30, data.probe.targets), rows, blocks, all_of(data))
    unseen = 18 * data.num_groups / 12
    estimate = r2_estimate(squared_losses(data.probe.at(0.1), rows, blocks, all_of(data)), mean, unseen)
    value, error = refitted_r2(data, 0.1, unseen)
    assert estimate.value == pytest.approx(value)
    assert estimate.se == pytest.approx(error, rel=1e-7)


@pytest.mark.parametrize("sizes", [(1,), (3, 1)])
@pytest.mark.parametrize("ridge", [1e-4, 1.0])
def test_pairs_in_float32_tell_the_same_error_inside_autocast_too(rng, monkeypatch, sizes, ridge):
    data = Data(rng, n=90, d=60, m=80, sizes=sizes)
    rows, fit = data.rows, data.probe.at(ridge)
    blocks = Blocks.of(rows.groups)
    for losses in (squared_losses, classification_errors):
        exact = losses(fit, rows, blocks, all_of(data))
        monkeypatch.setattr("ntps_lightning.functional.jackknife._PAIRS", torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            rough = losses(fit, rows, blocks, all_of(data))
        monkeypatch.setattr("ntps_lightning.functional.jackknife._PAIRS", torch.float64)
        assert rough.others.dtype == torch.float64
        assert float((rough.others - exact.others).abs().max()) <= 1e-4 * float(exact.others.std())
        assert not torch.equal(rough.others, exact.others)


def test_the_error_of_a_silenced_probe_is_that_of_one_that_speaks(rng, monkeypatch):
    monkeypatch.setattr("ntps_lightning.functional.held_out.GRID", [100.0])
    data = Data(rng, n=40, d=8, m=20)
    basis = np.eye(8)[:, :3]
    found = data.result(basis, 3)
    for estimate, most, features in ((found.probe_r2, 3.0, np.eye(8)), (found.captured_r2, 0.3, basis)):
        value, silenced = refitted_r2(data, 100.0, 20, features)
        _, wider = refitted_r2(data, most, 20, features)
        assert silenced < wider
        assert estimate.value == pytest.approx(value)
        assert estimate.se == pytest.approx(wider, rel=1e-7)


def test_differences_and_ratios_share_their_errors():
    own, fit = torch.randn(2, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    first = Estimate(0.4, own, fit, 50, 20.0)
    assert first.minus(first).se == 0
    assert first.minus(Estimate(0.1, own * 0, fit * 0, 50, 20.0)).se == pytest.approx(first.se)
    assert first.over(Estimate(0.8, 2 * own, 2 * fit, 50, 20.0)).se == pytest.approx(0, abs=1e-12)
    assert first.over(first).value == 1


def drawn_twice(seed, kind):
    """Two measurements of the same rows: the states, and what a fixed map makes of them."""
    rng = np.random.default_rng(seed)
    data = Data(rng, n=240, d=12, m=120, kind=kind)
    data.x = rng.normal(size=(240, 12))
    targets = data.x @ np.vander(np.linspace(-1, 1, 12), 3) + 2 * rng.normal(size=(240, 3))
    data.y = targets if kind == "real" else oracle.one_hot(targets.argmax(1), 3)
    data.kept_x, data.kept_y = data.x[:120], data.y[:120]
    before = data.result(np.eye(12)[:, :6], 4)
    data.x = data.x * np.linspace(0.5, 1.5, 12) + 0.3 * np.abs(data.x)
    data.kept_x = data.x[:120]
    return before, data.result(np.eye(12)[:, :6], 4)


@pytest.mark.parametrize("kind", ["classes", "real"])
def test_the_error_of_a_difference_is_its_spread_over_redrawn_data(kind):
    names = ["probe_r2", "captured_r2", *(["probe_accuracy"] if kind == "classes" else [])]
    found = []
    for seed in range(40):
        before, after = drawn_twice(seed, kind)
        change = after.since(before)
        found.append([[change[name].value, change[name].se, getattr(after, name).se] for name in names])
    values, errors, alone = np.moveaxis(np.array(found), -1, 0)
    assert values.std(0) == pytest.approx(errors.mean(0), rel=0.35)
    assert np.all(errors.mean(0)[:2] < 0.5 * np.sqrt(2) * alone.mean(0)[:2])


def test_there_is_no_difference_of_other_rows(rng):
    data = Data(rng, n=60, d=5, m=30)
    first = data.result(np.eye(5), 2)
    assert {name: change.value for name, change in first.since(first).items()} == dict.fromkeys(
        [
            name
            for name in ("probe_r2", "probe_accuracy", "captured_r2", "principal_r2", "captured")
            if vars(first)[name]
        ],
        0,
    )
    data.digest = 2
    assert data.result(np.eye(5), 2).since(first) is None
    fewer = Data(rng, n=50, d=5, m=30)
    assert fewer.result(np.eye(5), 2).since(first) is None


def test_differences_outlive_a_checkpoint(rng):
    data = Data(rng, n=60, d=5, m=30)
    first, other = data.result(np.eye(5), 2), data.result(np.eye(5)[:, ::-1].copy(), 2)
    again = HeldOut.of(asdict(first))
    assert {name: change.se for name, change in other.since(again).items()} == {
        name: change.se for name, change in other.since(first).items()
    }
    assert other.since(again)["captured_r2"].se > 0
    more = data.result(np.eye(5), 3)
    assert set(more.since(first)) == {"probe_r2", "probe_accuracy"}, (
        "of other numbers of directions nothing else compares"
    )


def test_the_r2_of_an_output_is_that_of_refits(rng):
    data = Data(rng, n=40, d=6, m=15, kind="real", sizes=(1, 4, 2), copies=2)
    found = data.result(np.eye(6), 2)
    first = data.halves[data.groups][:, None]
    one, other = (data.held_out(ridge) for ridge in found.ridges)
    errors = data.weights @ np.square(np.where(first, one, other))
    assert found.output_r2 == pytest.approx(1 - errors / (data.weights @ np.square(data.mean_residuals())), abs=1e-7)
    assert Data(rng, n=40, d=6, m=15).result(np.eye(6), 2).output_r2 is None


def test_an_output_that_does_not_vary_is_not_read(rng):
    data = Data(rng, n=40, d=6, m=15, kind="real")
    data.y[:, 1] = data.kept_y[:, 1] = 0.1
    assert data.result(np.eye(6), 2).output_r2[1] == 0


def test_a_ratio_to_what_may_be_nothing_is_not_shown(rng):
    data = Data(rng, n=60, d=20, m=60)
    data.y = rng.permutation(data.y)
    data.kept_y = data.y
    found = data.result(np.eye(20)[:, :4], 2)
    assert found.probe_r2.value < 2 * found.probe_r2.se
    assert found.captured is None


def test_an_end_of_the_grid_is_named(rng):
    data = Data(rng, n=200, d=5, m=100)
    data.y = rng.permutation(data.y)
    data.kept_y = data.y[:100]
    assert set(data.result(np.eye(5)[:, :4], 2).at_edge) <= {"probe_r2", "captured_r2", "principal_r2"}
    assert "probe_r2" in data.result(np.eye(5)[:, :4], 2).at_edge
