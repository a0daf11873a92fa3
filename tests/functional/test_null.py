"""Each closed-form null is the mean score of shuffled labels, within the error of that mean."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details
from tests.support.data import pad, sequences

SHUFFLES = 60


def shuffled_curves(hidden, mask, targets, **options):
    generator = torch.Generator().manual_seed(0)
    rows = []
    for _ in range(SHUFFLES):
        order = torch.randperm(len(targets), generator=generator)
        actual = score_details(batch_moments(hidden, targets[order], mask), **options)
        rows.append(torch.stack([actual.curve, actual.captured_in_sample_curve]))
    curves = torch.stack(rows)
    return curves.mean(0), curves.std(0) / SHUFFLES**0.5


@pytest.mark.parametrize("ridge", [0.0, 1e-2, 0.3])
@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("orthonormal", [False, True])
@pytest.mark.parametrize("kind", ["classes", "regression"])
def test_null_is_the_mean_of_shuffled_labels(rng, ridge, center, orthonormal, kind):
    samples, labels = sequences(rng, n=1500, d=24, classes=4)
    hidden, mask = pad(samples)
    targets = torch.tensor(labels) if kind == "classes" else torch.from_numpy(rng.normal(size=(1500, 2)) + 0.5)
    options = {"ridge": ridge, "center": center, "orthonormal": orthonormal}
    actual = score_details(batch_moments(hidden, targets, mask), **options)
    means, errors = shuffled_curves(hidden, mask, targets, **options)
    # On top of the error of the mean: a ratio of expectations stands for the expectation of a ratio, and for an
    # orthonormal basis an equivalent for many dimensions stands for 24.
    allowed = 0.07 if orthonormal else 0.02
    assert ((actual.null_curve - means[0]).abs() <= 4 * errors[0] + allowed).all()
    assert ((actual.captured_null_curve - means[1]).abs() <= 4 * errors[1] + 0.005).all()


def test_without_ridge_what_chance_captures_is_k_over_d(rng):
    samples, labels = sequences(rng, n=200, d=8)
    hidden, mask = pad(samples)
    actual = score_details(batch_moments(hidden, torch.tensor(labels), mask), ridge=0.0)
    assert np.allclose(actual.captured_null_curve, np.arange(1, 9) / 8)


def test_lift_compares_with_the_null(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask)
    actual = score_details(moments, k=2)
    assert actual.lift == pytest.approx((actual.score - actual.null) / (1 - actual.null))
    assert score_details(moments, k=6).lift == 0
