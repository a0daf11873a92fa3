"""One k by iteration against all of them by decompositions, and what happens where matrices are singular."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning.functional import krylov
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.krylov import leading_eigenvectors
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.subspaces import autoregressive_subspace
from tests.support.data import pad, sequences

NUMBERS = [name for name, kind in NTPSDetails.__annotations__.items() if kind == "float" and name != "subspace_error"]


def matrix(decay, size=200):
    generator = torch.Generator().manual_seed(1)
    vectors = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator)).Q
    values = decay ** torch.arange(size, dtype=torch.float64)
    return vectors, values, vectors @ torch.diag(values) @ vectors.T


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-9])
@pytest.mark.parametrize("decay", [0.5, 0.9, 0.97])
def test_the_error_estimate_bounds_the_angle(decay, tolerance):
    vectors, values, dense = matrix(decay)
    found = leading_eigenvectors(lambda x: dense @ x, dense, 7, lambda f: f.error <= tolerance)
    assert found.error <= tolerance
    cosines = torch.linalg.svdvals(vectors[:, :7].T @ found.vectors)
    sine = float((1 - cosines.min().square()).clamp(min=0).sqrt())
    assert sine <= found.error + 1e-7
    assert (found.eigenvalues - values[:7]).abs().max() <= found.residual + 1e-12


def test_the_start_is_random_but_ours_alone():
    *_, dense = matrix(0.9)
    state = torch.get_rng_state()
    once, again = (leading_eigenvectors(lambda x: dense @ x, dense, 3, lambda f: f.error < 1e-3) for _ in range(2))
    assert torch.equal(once.vectors, again.vectors)
    assert torch.equal(torch.get_rng_state(), state)


def test_what_cannot_converge_is_none():
    identity = torch.eye(100, dtype=torch.float64)
    assert leading_eigenvectors(lambda x: x, identity, 3, lambda f: f.error < 1e-3) is None


@pytest.fixture(scope="module")
def moments():
    samples, labels = sequences(np.random.default_rng(0), n=400, d=96, high=12)
    hidden, mask = pad(samples)
    return batch_moments(hidden, torch.tensor(labels), mask)


@pytest.mark.parametrize("options", [{}, {"center": False}, {"orthonormal": True}, {"ridge": 0.0}])
@pytest.mark.parametrize("k", [1, 4, 8])
def test_one_k_equals_the_whole_curve(moments, k, options):
    whole = score_details(moments, k=k, **options)
    one = score_details(moments, k=k, whole_curve=False, **options)
    assert 0 < one.subspace_error <= 1e-6
    assert whole.subspace_error == 0
    assert len(one.curve) == k
    assert len(whole.curve) == 96
    for name in NUMBERS:
        assert getattr(one, name) == pytest.approx(getattr(whole, name), rel=1e-7, abs=1e-9), name
    for name in ("curve", "captured_in_sample_curve", "null_curve", "captured_null_curve"):
        assert torch.allclose(getattr(one, name), getattr(whole, name)[:k], atol=1e-6), name
    assert one.excess_loss_bounds == pytest.approx(whole.excess_loss_bounds, rel=1e-3)


def test_without_convergence_the_exact_solver_serves(moments, monkeypatch):
    monkeypatch.setattr(krylov, "_MAX_PRODUCTS", 2)
    one = score_details(moments, k=4, whole_curve=False)
    assert one.subspace_error == 0
    assert one.score == score_details(moments, k=4).score


def test_a_count_too_large_to_iterate_for_is_exact(moments):
    assert score_details(moments, k=90, whole_curve=False).subspace_error == 0
    gram = torch.eye(30, dtype=torch.float64)
    assert autoregressive_subspace(gram, gram, count=20).directions.shape == (30, 30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fewer_tokens_than_dimensions(rng, dtype):
    """C0 is singular, and float32 rounding must not pass for directions."""
    samples, labels = sequences(rng, n=12, d=96, low=5, high=6)
    hidden, mask = pad(samples)
    found = score_details(batch_moments(hidden.to(dtype), torch.tensor(labels), mask), k=2)
    rows = int(mask.sum()) - len(samples)
    assert rows - 12 <= len(found.curve) <= rows
    exact = score_details(batch_moments(hidden, torch.tensor(labels), mask), k=2)
    assert found.score == pytest.approx(exact.score, abs=1e-3)


@pytest.mark.parametrize("seed", range(6))
def test_states_that_a_layer_norm_binds(seed):
    """After LayerNorm the coordinates of every token sum to zero: one direction of C0 is rounding alone, of either
    sign, and would lead V astray."""
    rng = np.random.default_rng(seed)
    samples, labels = sequences(rng, n=400, d=32)
    samples = [(x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) for x in samples]
    hidden, mask = pad(samples)
    labels = torch.tensor(labels)
    found, exact = (score_details(batch_moments(h, labels, mask), k=4) for h in (hidden.float(), hidden))
    for name in ("score", "captured_in_sample", "null"):
        assert getattr(found, name) == pytest.approx(getattr(exact, name), rel=1e-3), name
    assert len(found.curve) == len(exact.curve) == 31
