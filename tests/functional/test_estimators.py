"""H-score and RankMe from moments against their definitions on the pooled states themselves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.estimators import h_score, rankme
from ntps_lightning.functional.moments import covariances
from ntps_lightning.functional.whitening import whitening
from tests.support.data import pad, sequences
from tests.support.oracle import pool, regularised


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
