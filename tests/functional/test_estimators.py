"""H-score and RankMe from moments against their definitions on the pooled states themselves."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.estimators import gcv_r2, h_score, log_me, rankme
from ntps_lightning.functional.held_out import GRID
from ntps_lightning.functional.moments import covariances
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.whitening import whitening
from tests.support.data import pad, sequences
from tests.support.oracle import one_hot, pool, regularised


@pytest.mark.parametrize("kind", ["classes", "real"])
@pytest.mark.parametrize("n", [60, 20], ids=["n > d", "n < d"])
def test_generalized_cross_validation_by_the_dense_hat_matrix(rng, n, kind):
    samples, labels = sequences(rng, n=n, d=24, classes=3)
    hidden, mask = pad(samples)
    targets = one_hot(labels, 3) if kind == "classes" else rng.normal(size=(n, 2)) + one_hot(labels, 3)[:, :2]
    given = torch.tensor(labels) if kind == "classes" else torch.tensor(targets)
    cov = covariances(batch_moments(hidden, given, mask), center=True)
    x = pool(samples) - pool(samples).mean(0)
    y = targets - targets.mean(0)
    y = y if kind == "classes" else y / y.std(0)
    errors = []
    for ridge in GRID:
        smooth = 1 / n + x @ np.linalg.solve(x.T @ x + ridge * np.trace(x.T @ x) / 24 * np.eye(24), x.T)
        errors.append(np.square(y - smooth @ y).sum() / n / (1 - np.trace(smooth) / n) ** 2)
    expected = 1 - min(errors) / (np.square(y).sum() / n / (1 - 1 / n) ** 2)
    assert gcv_r2(cov, GRID) == pytest.approx(expected, rel=1e-7)


def test_generalized_cross_validation_is_near_what_other_samples_show(rng):
    found = []
    for seed in range(8):
        samples, labels = sequences(np.random.default_rng(seed), n=800, d=24, classes=3)
        labels = np.where(rng.random(800) < 0.4, labels, rng.integers(3, size=800))
        hidden, mask = pad(samples[:200])
        details = score_details(batch_moments(hidden, torch.tensor(labels[:200]), mask, num_classes=3), ridge=0.01)
        x, y = pool(samples), one_hot(labels, 3)
        part, target = x[:200] - x[:200].mean(0), y[:200] - y[:200].mean(0)
        errors = []
        for ridge in GRID:
            penalty = ridge * np.trace(part.T @ part) / 24 * np.eye(24)
            predicted = (x[200:] - x[:200].mean(0)) @ np.linalg.solve(part.T @ part + penalty, part.T @ target)
            errors.append(np.square(y[200:] - y[:200].mean(0) - predicted).sum())
        shown = 1 - min(errors) / np.square(y[200:] - y[:200].mean(0)).sum()
        found.append([details.gcv_r2, shown, details.in_sample_r2])
    gcv, shown, in_sample = np.mean(found, 0)
    assert abs(gcv - shown) < 0.03 < in_sample - shown


def test_it_is_there_where_no_rows_are_kept_and_the_whole_curve_is(rng):
    samples, labels = sequences(rng, n=80, classes=3)
    hidden, mask = pad(samples)
    for kept, whole, there in ((0, True, True), (0, False, False), (2048, True, False)):
        metric = NextTokenPerceptionScore(hidden.shape[-1], 3, kept=kept)
        metric.update(hidden, torch.tensor(labels), mask)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            details = metric.details(whole_curve=whole)
        assert (details.gcv_r2 is not None) == there
        assert (details.held_out is not None) == (kept > 0)


@pytest.mark.parametrize("ridge", [0.0, 0.1])
def test_h_score(rng, ridge):
    samples, labels = sequences(rng, n=300, classes=4)
    labels = np.where(labels == 2, 3, labels)  # a class without samples
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask, num_classes=4)
    cov = covariances(moments, center=True)
    pooled = pool(samples)
    inner = regularised(np.cov(pooled.T, bias=True), ridge)
    class_means = np.stack([pooled[labels == label].mean(0) for label in labels])
    expected = np.trace(np.linalg.solve(inner, np.cov(class_means.T, bias=True)))
    penalty = ridge * cov.perception.trace() / len(inner)
    whitener = whitening(cov.perception + penalty * torch.eye(len(inner), dtype=torch.float64))
    assert h_score(moments, cov, whitener).item() == pytest.approx(expected, rel=1e-9)


def test_rankme(rng):
    samples, labels = sequences(rng, n=300)
    hidden, mask = pad(samples)
    singular = np.linalg.svd(pool(samples), compute_uv=False)
    share = singular / singular.sum() + 1e-7
    expected = np.exp(-(share * np.log(share)).sum())
    assert rankme(batch_moments(hidden, torch.tensor(labels), mask)).item() == pytest.approx(expected, rel=1e-6)


def evidence(x, y):
    """Of one output, dense: the authors' fixed point on the rows themselves."""
    n, d = x.shape
    alpha = beta = 1.0
    for _ in range(11):
        ratio = alpha / beta
        inner = alpha * np.eye(d) + beta * x.T @ x
        weights = np.linalg.solve(inner, beta * x.T @ y)
        free = np.trace(np.linalg.solve(inner, beta * x.T @ x))
        loss = np.square(y - x @ weights).sum()
        alpha = free / (np.square(weights).sum() + 1e-5)
        beta = (n - free) / (loss + 1e-5)
        if abs(alpha / beta - ratio) <= 1e-3 * ratio:
            break
    log_det = np.linalg.slogdet(alpha * np.eye(d) + beta * x.T @ x)[1]
    fit = d * np.log(alpha) + n * np.log(beta) - log_det - beta * loss - alpha * np.square(weights).sum()
    return (fit - n * np.log(2 * np.pi)) / 2 / n


@pytest.mark.parametrize("kind", ["classes", "real"])
@pytest.mark.parametrize("n", [300, 20], ids=["n > d", "n < d"])
def test_log_me_by_its_definition(rng, n, kind):
    samples, labels = sequences(rng, n=n, d=24, classes=4)
    labels = np.where(labels == 2, 3, labels)  # a class without samples
    hidden, mask = pad(samples)
    targets = one_hot(labels, 4)[:, [0, 1, 3]]
    targets = targets if kind == "classes" else 5 * targets + rng.normal(size=(n, 3)) + 2
    given = torch.tensor(labels) if kind == "classes" else torch.tensor(targets)
    moments = batch_moments(hidden, given, mask, num_classes=4 if kind == "classes" else None)
    expected = np.mean([evidence(pool(samples), y) for y in targets.T])
    assert log_me(moments).item() == pytest.approx(expected, rel=1e-6)


def test_estimators_are_there_where_they_are_asked_for(rng):
    samples, labels = sequences(rng, n=120, classes=3)
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask)
    metric = NextTokenPerceptionScore(hidden.shape[-1], 3)
    metric.update(hidden, torch.tensor(labels), mask)
    asked, plain = (metric.details(whole_curve=False, estimators=each) for each in (True, False))
    assert asked.log_me == pytest.approx(log_me(moments).item(), rel=1e-12)
    assert asked.rankme == pytest.approx(rankme(moments).item(), rel=1e-12)
    cov = covariances(moments, center=True)
    assert asked.h_score == pytest.approx(h_score(moments, cov, whitening(cov.perception)).item(), rel=1e-12)
    assert max(asked.held_out.learning_curve.r2) == 50
    assert (plain.log_me, plain.rankme, plain.h_score, plain.held_out.learning_curve) == (None,) * 4
    assert asked.score == plain.score
    assert asked.p_value is None, "no more is computed than was asked for"
    real = score_details(batch_moments(hidden, torch.tensor(labels).double(), mask), estimators=True)
    assert real.h_score is None
    assert real.log_me is not None
