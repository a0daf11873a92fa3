"""The truth that intervals are held against is the population's, and a toy cell runs."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge

from benchmarks import calibration
from benchmarks.helpers.population import Population
from benchmarks.helpers.store import Store

measure = calibration.measure


def generator():
    return torch.Generator().manual_seed(0)


def test_the_squared_error_is_that_of_a_large_sample():
    population = Population(6)
    sample = population.draw(200_000, generator())
    weights, mean = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    share = torch.full((5,), 0.2, dtype=torch.float64)
    residuals = sample.targets - share - (sample.states - mean) @ weights
    found = float(residuals.square().sum(1).mean())
    assert population.squared_error(weights, mean, share) == pytest.approx(found, rel=0.02)


def test_the_truth_is_that_of_ridge_regressions_on_the_sample(monkeypatch):
    monkeypatch.setattr(calibration, "GRID", [0.1])
    population = Population(6)
    sample = population.draw(80, generator())
    features = population.directions(2)
    probes, r2, best = calibration.Truth(population, 10).of(sample, features, sample.kept(40))
    assert torch.equal(*probes)
    fresh = population.draw(200_000, torch.Generator().manual_seed(1))
    x = sample.states @ features
    penalty = float(0.1 * (x - x.mean(0)).square().sum() / 2)
    predicted = torch.from_numpy(Ridge(penalty).fit(x, sample.targets).predict(fresh.states @ features))
    errors, spread = (float((fresh.targets - p).square().sum()) for p in (predicted, sample.targets.mean(0)))
    assert r2 == pytest.approx(1 - errors / spread, abs=0.02)
    large = torch.from_numpy(Ridge(0).fit(fresh.states @ features, fresh.targets).predict(fresh.states @ features))
    spread = float((fresh.targets - fresh.targets.mean(0)).square().sum())
    assert best == pytest.approx(1 - float((fresh.targets - large).square().sum()) / spread, abs=0.02)
    assert r2 < best


def test_texts_share_a_class_and_are_kept_whole():
    sample = Population(6).draw(100, generator(), grouped=True)
    labels = sample.targets.argmax(1)
    sizes = sample.groups.bincount()
    assert len(sizes.unique()) > 2
    assert all(len(labels[sample.groups == group].unique()) == 1 for group in range(len(sizes)))
    rows = sample.kept(30)
    count = len(rows.states)
    assert 30 - int(sizes.max()) < count <= 30
    assert count == int(sizes[: rows.num_groups].sum())


def test_a_toy_cell_is_measured_once(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration, "measure", lambda cell, draws: measure(cell, draws, fresh=100))
    cell = calibration.Cell(60, 8, 40, grouped=True)
    found = calibration.stored(Store("cells", tmp_path), cell, 8)
    assert set(found) == set(calibration.NAMES)
    assert all(0 <= values["coverage"] <= 1 and values["se / sd"] > 0 for values in found.values())
    assert {row[-1] for row in calibration.rows_of(cell.name, found)} <= {"met", "MISSED"}
    monkeypatch.setattr(calibration, "measure", None)
    store = Store("cells", tmp_path)
    assert calibration.stored(store, cell, 8) == found
    store.forget()
    assert not list(tmp_path.iterdir())
