"""How often meaningless labels would score as much, against labels that were shuffled."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning.functional import significance
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.moments import covariances
from ntps_lightning.functional.overlap import nested_basis
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.subspaces import autoregressive_subspace
from ntps_lightning.functional.whitening import whitening
from tests.support import oracle

D, CLASSES, K = 8, 3, 2


def states(rng, n=120, signal=0.0):
    """Tokens that remember those before, the first directions most; classes shift these."""
    labels = rng.integers(CLASSES, size=n)
    labels[:CLASSES] = range(CLASSES)
    x = rng.normal(size=(n, 6, D)) * np.linspace(2, 0.5, D)
    for t in range(1, 6):
        x[:, t] += np.linspace(0.9, 0, D) * x[:, t - 1]
    x[:, :, 0] += signal * (labels == 1)[:, None]
    x[:, :, 1] += signal * (labels == 2)[:, None]
    return torch.tensor(x), torch.tensor(labels)


def parts(x, labels, ridge=0.1):
    moments = batch_moments(x, labels, num_classes=CLASSES)
    cov = covariances(moments, center=True)
    regularised = cov.perception + ridge * cov.perception.trace() / D * torch.eye(D, dtype=torch.float64)
    basis = nested_basis(autoregressive_subspace(cov.prefix, cov.prefix_next).directions)[:, :K]
    return cov, moments.target_sum / len(labels), whitening(regularised), basis


@pytest.mark.parametrize("orthonormal", [False, True])
def test_each_draw_scores_by_the_definition(rng, orthonormal):
    x, labels = states(rng)
    cov, _, whitener, basis = parts(x, labels)
    regularised = (cov.perception + 0.1 * cov.perception.trace() / D * torch.eye(D, dtype=torch.float64)).numpy()
    crosses = rng.normal(size=(5, D, CLASSES))
    crosses -= crosses.mean(2, keepdims=True)
    flat = torch.tensor(crosses).transpose(0, 1).flatten(1)
    found = significance._scores(whitener.whiten(flat), whitener, basis, CLASSES, orthonormal)
    for cross, value in zip(crosses, found.tolist(), strict=True):
        eigenvalues, vectors = np.linalg.eig(np.linalg.solve(regularised, cross @ cross.T))
        u = np.real(vectors[:, np.argsort(-np.real(eigenvalues))[: min(K, CLASSES - 1)]])
        u = np.linalg.qr(u)[0] if orthonormal else u / np.sqrt(np.einsum("ij,ik,kj->j", u, regularised, u))
        expected = np.square(basis.numpy().T @ u).sum() / np.square(u).sum()
        assert value == pytest.approx(expected, rel=1e-9)


def test_draws_are_scores_of_shuffled_labels(rng):
    x, labels = states(rng, signal=0.5)
    drawn = significance.null_scores(*parts(x, labels))
    tokens = list(x.numpy())
    shuffled = []
    for _ in range(300):
        targets = oracle.one_hot(rng.permutation(labels.numpy()).tolist(), CLASSES)
        shuffled.append(oracle.ntps(tokens, targets, K, CLASSES - 1, ridge=0.1))
    shuffled = np.sort(shuffled)
    for share in (0.1, 0.25, 0.5, 0.75, 0.9):
        below = float((drawn < np.quantile(shuffled, share)).double().mean())
        assert below == pytest.approx(share, abs=4 * np.sqrt(share * (1 - share) * (1 / 199 + 1 / 300)))


def test_p_values_of_shuffled_labels_are_uniform(rng):
    found = []
    for _ in range(200):
        x, labels = states(rng, n=60)
        details = score_details(batch_moments(x, labels, num_classes=CLASSES), k=K)
        found.append(details.p_value)
    assert np.abs(np.sort(found) - (np.arange(200) + 1) / 200).max() < 1.63 / np.sqrt(200), "Kolmogorov's test, 1%"


def test_a_signal_stands_out_and_says_so_twice(rng):
    x, labels = states(rng, n=400, signal=2.0)
    moments = batch_moments(x, labels, num_classes=CLASSES)
    first, again = (score_details(moments, k=K).p_value for _ in range(2))
    assert 0.005 <= first == again <= 0.02
    state = torch.get_rng_state()
    score_details(moments, k=K)
    assert torch.equal(state, torch.get_rng_state())
    assert score_details(moments, k=K, center=False).p_value is None
    assert score_details(moments, k=K, whole_curve=False).p_value is None


def test_regression_targets_and_few_samples(rng):
    x, _ = states(rng, n=6)
    targets = torch.tensor(rng.normal(size=(6, 2)))
    p_value = score_details(batch_moments(x, targets), k=K).p_value
    assert p_value is not None
    assert 0.005 <= p_value <= 1
