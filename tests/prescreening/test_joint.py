"""Sets that hold the best, and intervals of ranks, against known cases and over redrawn data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, norm

from ntps_lightning.prescreening.joint import Joint, flattery
from tests.support.measured import estimate, measured


def joint(values, covariance):
    return Joint(torch.tensor(values, dtype=torch.float64), torch.as_tensor(covariance, dtype=torch.float64))


def test_errors_of_differences_are_those_of_paired_estimates():
    layers = measured(n=120).layers
    estimates = [layer.probe_r2 for layer in layers] + [layer.probe_accuracy for layer in layers]
    found = Joint.of(estimates, ["same"] * len(estimates))
    for i, first in enumerate(estimates):
        assert math.isclose(found.covariance[i, i] ** 0.5, first.se, rel_tol=1e-9)
        for j, second in enumerate(estimates):
            assert math.isclose(found.difference_se[i, j], first.minus(second).se, rel_tol=1e-6, abs_tol=1e-12)


def test_rows_that_were_not_kept_add_what_they_do_to_fits():
    rng = np.random.default_rng(0)
    pair = [
        type(e)(0.5, *(torch.from_numpy(rng.normal(size=30)) for _ in range(2)), 40, 25.0)
        for e in [estimate(0.5, [0.0])] * 2
    ]
    found = Joint.of(pair, ["same", "same"])
    assert math.isclose(found.difference_se[0, 1], pair[0].minus(pair[1]).se, rel_tol=1e-9)


def test_other_rows_are_independent():
    one, two = (measured(data=data).layers[0].probe_r2 for data in ("a", "b"))
    found = Joint.of([one, two], ["a", "b"])
    assert math.isclose(found.difference_se[0, 1], math.hypot(one.se, two.se), rel_tol=1e-9)


def test_draws_have_the_covariance():
    rng = np.random.default_rng(1)
    root = rng.normal(size=(4, 4))
    draws = joint([0, 0, 0, 0], root @ root.T).draws()
    assert np.allclose(np.cov(draws.T.numpy()), root @ root.T, atol=0.25)


@pytest.mark.parametrize("lead", [1.6, 1.7])
def test_of_two_the_second_goes_where_a_one_sided_test_rejects(lead):
    """Of two candidates the critical lead is the normal quantile, 1.645."""
    assert joint([lead, 0], [[0.5, 0], [0, 0.5]]).may_be_best() == [True, lead < norm.ppf(0.95)]


def test_of_several_the_critical_lead_is_dunnetts():
    """Independent candidates of one error: leads over one of them correlate by a half, a multivariate normal's quantile
    by scipy (Dunnett's, of endless degrees of freedom)."""
    k = 5
    correlation = np.full((k - 1, k - 1), 0.5) + 0.5 * np.eye(k - 1)
    critical = _quantile(lambda c: multivariate_normal(np.zeros(k - 1), correlation).cdf([c] * (k - 1)))
    for lead, stays in ((critical - 0.06, True), (critical + 0.06, False)):
        values = [lead, 0, -9, -9, -9]
        assert joint(values, 0.5 * np.eye(k)).may_be_best() == [True, stays, False, False, False]


def _quantile(cdf):
    low, high = 0.0, 5.0
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if cdf(middle) > 0.95 else (middle, high)
    return low


@pytest.mark.parametrize("lead", [1.9, 2.0])
def test_ranks_of_two_are_told_apart_by_a_two_sided_test(lead):
    found = joint([lead, 0], [[0.5, 0], [0, 0.5]]).ranks()
    assert found == ([(1, 2), (1, 2)] if lead < 1.96 else [(1, 1), (2, 2)])


def test_pairing_tells_apart_what_separate_errors_cannot():
    values, shared = [0.2, 0.0, -0.2], np.ones((3, 3))
    assert joint(values, shared + 0.001 * np.eye(3)).ranks() == [(1, 1), (2, 2), (3, 3)]
    assert joint(values, 1.001 * np.eye(3)).ranks() == [(1, 3)] * 3


def test_the_same_predictions_are_a_tie():
    found = joint([0.5, 0.5, 0.1], np.array([[1, 1, 0], [1, 1, 0], [0, 0, 1.0]]) * 1e-4)
    assert found.may_be_best() == [True, True, False]
    assert found.ranks() == [(1, 2), (1, 2), (3, 3)]


def test_one_candidate_is_the_best():
    assert joint([0.3], [[0.1]]).may_be_best() == [True]
    assert joint([0.3], [[0.1]]).ranks() == [(1, 1)]


def test_the_highest_of_equals_is_too_high_by_the_expectation_of_a_maximum():
    """Of two independent ones by 1 / sqrt(pi) standard errors, of one and of clear ones by nothing."""
    assert math.isclose(flattery(joint([0, 0], np.eye(2))), math.pi**-0.5, rel_tol=0.03)
    assert abs(flattery(joint([9, 0], np.eye(2)))) < 0.03
    assert abs(flattery(joint([0], np.eye(1)))) < 0.03


@pytest.mark.parametrize(("k", "shared"), [(4, 0.0), (12, 0.0), (30, 0.9)])
def test_flattery_of_equals_is_that_of_their_maximum_though_they_are_seen_apart(k, shared):
    """Their values lie apart by noise alone: on average over 100 draws of these nearly all of it is said."""
    covariance = np.full((k, k), shared) + (1 - shared) * np.eye(k)
    rng = np.random.default_rng(k)
    seen = rng.multivariate_normal(np.zeros(k), covariance, size=100)
    true = rng.multivariate_normal(np.zeros(k), covariance, size=40_000).max(1).mean()
    said = np.mean([flattery(joint(values.tolist(), covariance)) for values in seen])
    assert 0.9 * true < said < 1.02 * true


def test_flattery_of_those_that_differ_is_not_far_from_the_truth():
    """Truths spread as far as the noise."""
    rng = np.random.default_rng(2)
    truths, errors = rng.normal(size=(2, 40_000, 8))
    seen, chosen = truths + errors, (truths + errors).argmax(1)
    true = errors[np.arange(len(errors)), chosen].mean()
    said = np.mean([flattery(joint(values.tolist(), np.eye(8))) for values in seen[:100]])
    assert 0.95 * true < said < 1.25 * true


def test_draws_are_the_same_every_time():
    once, again = (joint([0.1, 0], np.eye(2)).draws() for _ in range(2))
    assert torch.equal(once, again)
