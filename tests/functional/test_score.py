from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntps_lightning import next_token_perception_score
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.moments import covariances
from ntps_lightning.functional.overlap import captured_curve, nested_basis
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.subspaces import autoregressive_subspace, perception_subspace
from ntps_lightning.functional.whitening import whitening
from tests.support import oracle
from tests.support.data import pad, sequences


def details(samples, targets, **options):
    hidden, mask = pad(samples)
    return score_details(batch_moments(hidden, torch.as_tensor(targets), mask), **options)


@pytest.mark.parametrize("ridge", [0.0, 1e-2])
@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("orthonormal", [False, True])
@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_score_and_captured_equal_the_oracle(rng, ridge, center, orthonormal, k):
    samples, labels = sequences(rng)
    targets, rank = oracle.one_hot(labels, 3), 2 if center else 3
    actual = details(samples, labels, k=k, ridge=ridge, center=center, orthonormal=orthonormal)
    assert actual.rank == rank
    assert actual.score == pytest.approx(oracle.ntps(samples, targets, k, rank, ridge, center, orthonormal), rel=1e-10)
    assert actual.captured_in_sample == pytest.approx(
        oracle.captured(samples, targets, k, rank, ridge, center), rel=1e-10
    )
    hidden, mask = pad(samples)
    options = {"k": k, "ridge": ridge, "center": center, "orthonormal": orthonormal}
    public = next_token_perception_score(hidden, torch.tensor(labels), mask, **options)
    assert public.shape == ()
    assert float(public) == actual.score


def test_the_whole_curve_equals_the_oracle(rng):
    samples, labels = sequences(rng)
    actual, targets = details(samples, labels, ridge=0.1), oracle.one_hot(labels, 3)
    for k in range(1, 7):
        assert float(actual.curve[k - 1]) == pytest.approx(oracle.ntps(samples, targets, k, 2, 0.1), rel=1e-10)
        assert float(actual.captured_in_sample_curve[k - 1]) == pytest.approx(
            oracle.captured(samples, targets, k, 2, 0.1), rel=1e-10
        )


def test_last_token_pooling_and_regression_equal_the_oracle(rng):
    samples, _ = sequences(rng)
    targets = np.stack([x.mean(0)[:2] + 0.1 * rng.normal(size=2) for x in samples])
    hidden, mask = pad(samples, side="left")
    moments = batch_moments(hidden, torch.from_numpy(targets), mask, pooling="last")
    actual = score_details(moments, k=3, ridge=0.01)
    assert actual.score == pytest.approx(oracle.ntps(samples, targets, 3, 2, 0.01, pooling="last"), rel=1e-10)


def test_the_leading_eigenvectors_come_first(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    cov = covariances(batch_moments(hidden, torch.tensor(labels), mask), center=True)
    values, _, v, _, _ = oracle.subspaces(samples, oracle.one_hot(labels, 3), 2, 0.0, True)
    perception = perception_subspace(cov.cross, whitening(cov.perception))
    assert perception.eigenvalues.tolist() == pytest.approx(values.tolist(), rel=1e-9)
    autoregressive = autoregressive_subspace(cov.prefix, cov.prefix_next)
    assert (autoregressive.eigenvalues.diff() <= 0).all()
    cosine = np.abs(autoregressive.directions[:, 0].numpy() @ cov.prefix.numpy() @ v[:, 0])
    assert cosine == pytest.approx(1, rel=1e-9)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), scale=st.floats(1e-3, 1e3), center=st.booleans(), orthonormal=st.booleans())
def test_scaling_and_rotating_the_hidden_states_changes_nothing(seed, scale, center, orthonormal):
    rng = np.random.default_rng(seed)
    samples, labels = sequences(rng, n=60, d=5)
    rotation = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    options = {"k": 2, "center": center, "orthonormal": orthonormal}
    before = details(samples, labels, **options)
    after = details([scale * x @ rotation for x in samples], labels, **options)
    for name in ("score", "captured_in_sample", "null", "captured_null", "in_sample_mse", "excess_loss"):
        assert getattr(after, name) == pytest.approx(getattr(before, name), rel=1e-6, abs=1e-9), name


def test_centring_makes_the_origin_irrelevant(rng):
    samples, labels = sequences(rng)
    moved = [x + 50 * np.arange(6) for x in samples]
    assert details(moved, labels, k=2).score == pytest.approx(details(samples, labels, k=2).score, rel=1e-8)
    assert details(moved, labels, k=2, center=False).score != pytest.approx(
        details(samples, labels, k=2, center=False).score, rel=1e-2
    )


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), ridge=st.sampled_from([0.0, 1e-2, 1.0]), orthonormal=st.booleans())
def test_curves_end_at_one_and_grow_at_fixed_u(seed, ridge, orthonormal):
    samples, labels = sequences(np.random.default_rng(seed), n=60, d=5)
    actual = details(samples, labels, ridge=ridge, orthonormal=orthonormal)
    for curve in (actual.curve, actual.captured_in_sample_curve, actual.null_curve, actual.captured_null_curve):
        assert float(curve[-1]) == pytest.approx(1)
        assert ((curve >= -1e-9) & (curve <= 1 + 1e-9)).all()
        fixed = curve[actual.rank - 1 :]
        assert (fixed.diff() >= -1e-9).all()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), k=st.integers(1, 4), center=st.booleans())
def test_excess_loss_is_what_fitted_readouts_lose_and_within_its_bounds(seed, k, center):
    samples, labels = sequences(np.random.default_rng(seed), n=80, d=5)
    actual = details(samples, labels, k=k, ridge=0.0, center=center)
    rank = 2 if center else 3
    targets, pooled = oracle.one_hot(labels, 3), oracle.pool(samples)
    if center:
        targets, pooled = targets - targets.mean(0), pooled - pooled.mean(0)
    values, _, v, _, _ = oracle.subspaces(samples, oracle.one_hot(labels, 3), rank, 0.0, center)
    best = oracle.readout_error(pooled, targets)
    lost = oracle.readout_error(pooled @ v[:, :k], targets) - best
    assert actual.excess_loss == pytest.approx(lost, rel=1e-7, abs=1e-10)
    assert 1 - actual.captured_in_sample == pytest.approx(lost / values.sum(), rel=1e-7, abs=1e-10)
    assert actual.in_sample_mse == pytest.approx(best / 3, rel=1e-8)
    total = np.square(oracle.one_hot(labels, 3) - oracle.one_hot(labels, 3).mean(0)).sum() / len(labels)
    assert actual.in_sample_r2 == pytest.approx(1 - best / total, rel=1e-8)
    lower, upper = actual.excess_loss_bounds
    assert lower <= lost * (1 + 1e-9) + 1e-12
    assert lost <= upper * (1 + 1e-9) + 1e-12


def test_ridge_probe_equals_a_fitted_one(rng):
    samples, labels = sequences(rng)
    pooled = oracle.pool(samples)
    pooled = pooled - pooled.mean(0)
    targets = oracle.one_hot(labels, 3)
    centred = targets - targets.mean(0)
    penalty = 0.3 * np.square(pooled).sum() / len(pooled) / 6
    stacked = np.vstack([pooled, np.sqrt(len(pooled) * penalty) * np.eye(6)])
    weights = np.linalg.lstsq(stacked, np.vstack([centred, np.zeros((6, 3))]), rcond=None)[0]
    actual = details(samples, labels, ridge=0.3)
    assert actual.in_sample_mse == pytest.approx(np.square(centred - pooled @ weights).mean(), rel=1e-10)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), ridge=st.sampled_from([0.0, 0.1]))
def test_captured_of_given_directions_does_not_depend_on_the_metric_of_the_space(seed, ridge):
    """Map x by an invertible A and V by its inverse transpose: same value at every k."""
    rng = np.random.default_rng(seed)
    d = 5
    root, s, v = rng.normal(size=(d, d)), rng.normal(size=(d, 3)), rng.normal(size=(d, d))
    r = root @ root.T + ridge * np.eye(d)
    a = rng.normal(size=(d, d)) + 3 * np.eye(d)
    curves = []
    for matrix, cross, directions in ((r, s, v), (a @ r @ a.T, a @ s, np.linalg.inv(a).T @ v)):
        whitener = whitening(torch.from_numpy(matrix))
        basis = nested_basis(whitener.coordinates(torch.from_numpy(directions)))
        curves.append(captured_curve(basis, whitener.whiten(torch.from_numpy(cross))))
        held = [
            np.trace(np.linalg.solve(w.T @ matrix @ w, w.T @ cross @ cross.T @ w))
            for w in (directions[:, :k] for k in range(1, d + 1))
        ]
        expected = np.array(held) / np.trace(cross.T @ np.linalg.solve(matrix, cross))
        assert np.allclose(curves[-1].numpy(), expected, rtol=1e-5)
    assert torch.allclose(*curves, rtol=1e-5)
    assert float(curves[0][-1]) == pytest.approx(1)


@pytest.fixture
def planted(rng):
    """Sample offsets along three axes persist over tokens, so prefixes predict them; the others are fresh noise."""
    offsets = np.zeros((8000, 1, 12))
    offsets[:, 0, :3] = rng.normal(size=(8000, 3))
    return offsets + rng.normal(size=(8000, 6, 12))


@pytest.mark.parametrize("orthonormal", [False, True])
def test_planted_labels_inside_and_outside(planted, orthonormal):
    samples = list(planted)
    means = planted.mean(1)
    options = {"k": 3, "orthonormal": orthonormal}
    inside = details(samples, (means[:, 0] > 0).astype(int), **options)
    outside = details(samples, (means[:, 7] > 0).astype(int), **options)
    assert inside.score > 0.97
    assert inside.captured_in_sample > 0.97
    assert outside.score < 0.03
    assert outside.captured_in_sample < 0.03
    assert inside.chance == 0.25


def test_more_directions_than_the_labels_have_are_never_used(rng):
    """With C = 4 there are 3 directions; a score at k = 6 must not use null-space columns (they are arbitrary)."""
    samples, labels = sequences(rng, n=300, d=12, classes=4)
    for k in (3, 6, 9):
        expected = oracle.ntps(samples, oracle.one_hot(labels, 4), k, 3, ridge=0.1)
        assert details(samples, labels, k=k).score == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("center", [False, True])
def test_dependent_targets_are_one_direction(rng, center):
    samples, _ = sequences(rng)
    target = rng.normal(size=len(samples))
    alone, tripled = (
        details(samples, np.outer(target, factors), k=2, center=center) for factors in ([1.0], [1.0, -2.0, 3.0])
    )
    assert tripled.rank == alone.rank == 1
    assert tripled.score == pytest.approx(alone.score, rel=1e-10)


def test_an_absent_class_is_no_direction(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask, num_classes=10)
    actual = score_details(moments, k=2)
    assert actual.rank == 2
    assert actual.score == pytest.approx(details(samples, labels, k=2).score, rel=1e-10)


def test_fewer_samples_than_dimensions_reduce_to_the_range(rng):
    """Where B and C0 are singular, the score is that of the coordinates the samples span, in any basis of them."""
    samples, labels = sequences(rng, n=60, d=5)
    embedding = np.linalg.qr(rng.normal(size=(9, 9)))[0][:5]
    wide = [x @ embedding for x in samples]
    for name in ("score", "captured_in_sample", "null", "in_sample_mse", "rank"):
        for k in (1, 2, 4):
            narrow_value = getattr(details(samples, labels, k=k, ridge=0.0), name)
            assert getattr(details(wide, labels, k=k, ridge=0.0), name) == pytest.approx(narrow_value, rel=1e-7), name
    with pytest.warns(UserWarning, match="tell only 5 apart"):
        assert details(wide, labels, k=8, ridge=0.0).k == 5


def test_one_huge_coordinate_hides_nothing(rng):
    """An attention sink: a coordinate 1e4 times the others must cost them neither rank nor digits."""
    samples, labels = sequences(rng)
    scaled = [x * np.array([1e4, 1, 1, 1, 1, 1]) for x in samples]
    actual = details(scaled, labels, k=3, ridge=0.0)
    assert len(actual.curve) == 6
    assert actual.captured_in_sample == pytest.approx(
        oracle.captured(scaled, oracle.one_hot(labels, 3), 3, 2), rel=1e-6
    )
    assert actual.in_sample_r2 == pytest.approx(details(samples, labels, k=3, ridge=0.0).in_sample_r2, rel=1e-9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k must be a count in \[1, "),
        ({"k": 7}, r"\[1, d = 6\].*got 7"),
        ({"k": 1.5}, "got 1.5"),
        ({"k": True}, "got True"),
        ({"ridge": -1.0}, "ridge"),
        ({"ridge": float("nan")}, "ridge"),
        ({"pooling": "max"}, "pooling"),
    ],
)
def test_bad_options_get_one_clear_error(rng, options, message):
    samples, labels = sequences(rng, n=20)
    hidden, mask = pad(samples)
    with pytest.raises(ValueError, match=message):
        next_token_perception_score(hidden, torch.tensor(labels), mask, **options)


def test_degenerate_data_gets_one_clear_error(rng):
    hidden = torch.from_numpy(rng.normal(size=(30, 4, 3)))
    with pytest.raises(ValueError, match="single class"):
        next_token_perception_score(hidden, torch.zeros(30, dtype=torch.long), num_classes=2)
    with pytest.raises(ValueError, match="constant target"):
        next_token_perception_score(hidden, torch.full((30,), 3.7))
    with pytest.raises(ValueError, match="no next token"):
        next_token_perception_score(hidden[:, :1], torch.arange(30) % 2)
    constant = torch.cat([hidden, -hidden.sum(1, keepdim=True) + 5], 1)
    for same in (torch.ones(30, 4, 3), torch.zeros(30, 4, 3), hidden[:1].expand(30, 4, 3), constant, constant.float()):
        with pytest.raises(ValueError, match="of all 30 samples are the same but for rounding"):
            next_token_perception_score(same, torch.arange(30) % 2)


def test_as_many_classes_as_dimensions_are_said(rng):
    hidden, labels = torch.from_numpy(rng.normal(size=(200, 4, 3))), torch.arange(200) % 3
    with pytest.warns(UserWarning, match="k = 3, .* is the hidden size: all directions are used"):
        assert float(next_token_perception_score(hidden, labels)) == pytest.approx(1)
    assert float(next_token_perception_score(hidden, labels, k=1)) < 0.9


def test_one_dimension(rng):
    """All of a subspace of one dimension is perceived."""
    hidden, labels = torch.from_numpy(rng.normal(size=(200, 4, 1))), torch.arange(200) % 2
    for states in (hidden, hidden.float()):
        assert float(next_token_perception_score(states, labels, k=1)) == pytest.approx(1)


def test_few_samples_are_said(rng):
    """Below ten a dimension."""
    for dims in (10, 11):
        hidden, labels = torch.from_numpy(rng.normal(size=(100, 4, dims))), torch.arange(100) % 2
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            next_token_perception_score(hidden, labels)
        assert [str(each.message).count("biased towards its null") for each in said] == [1] * (dims == 11)
