"""The truth that intervals are held against is the population's, and a toy cell runs."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge

from benchmarks import calibration
from benchmarks.helpers.population import Population


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
    probes, r2 = calibration.Truth(population, 10).of(sample, features, sample.kept(40))
    assert torch.equal(*probes)
    fresh = population.draw(200_000, torch.Generator().manual_seed(1))
    x = sample.states @ features
    penalty = float(0.1 * (x - x.mean(0)).square().sum() / 2)
    predicted = torch.from_numpy(Ridge(penalty).fit(x, sample.targets).predict(fresh.states @ features))
    errors, spread = (float((fresh.targets - p).square().sum()) for p in (predicted, sample.targets.mean(0)))
    assert r2 == pytest.approx(1 - errors / spread, abs=0.02)


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
    monkeypatch.setattr(calibration, "STORE", tmp_path / "calibration.jsonl")
    monkeypatch.setattr(calibration, "FRESH", 100)
    cell = calibration.Cell(60, 8, 40, grouped=True)
    ((name, found),) = calibration.results(3, [cell])
    assert set(found) == set(calibration.NAMES)
    assert all(0 <= values["coverage"] <= 1 and values["se / sd"] > 0 for values in found.values())
    assert ((name, found),) == tuple(calibration.results(3, [cell]))
    assert len((tmp_path / "calibration.jsonl").read_text().splitlines()) == 1
    assert {row[-1] for row in calibration.rows_of(name, found)} <= {"met", "MISSED"}
