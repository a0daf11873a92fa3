"""The scale of hidden states changes nothing, as far as their dtype holds it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details
from tests.support.data import pad, sequences

SHOWN = ("score", "captured_in_sample", "null", "captured_null", "in_sample_r2")


def states(rng, dtype=torch.float32, d=24):
    samples, labels = sequences(rng, n=200, d=d, low=5, high=9)
    hidden, mask = pad(samples, filler=0)
    return hidden.to(dtype), torch.tensor(labels), mask


def shown(hidden, labels, mask):
    details = score_details(batch_moments(hidden, labels, mask), k=3)
    return [getattr(details, name) for name in SHOWN]


@pytest.mark.parametrize("exponent", [-110, -70, -50, -30, 30, 50, 70, 110])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_powers_of_two_change_no_bit(rng, exponent, dtype):
    """1e-33 to 1e33: squares of float32 hold 1e-19 to 1e19."""
    hidden, labels, mask = states(rng, dtype)
    assert shown(hidden * 2.0**exponent, labels, mask) == pytest.approx(shown(hidden, labels, mask), rel=1e-9)


@pytest.mark.parametrize("factor", [1e-30, 1e-15, 1e15, 1e25])
def test_any_factor_gives_what_float64_products_give(rng, factor):
    hidden, labels, mask = states(rng)
    scaled = hidden * factor
    assert shown(scaled, labels, mask) == pytest.approx(shown(scaled.double(), labels, mask), rel=1e-3)


def test_batches_of_different_scales_add_up(rng):
    """One is multiplied, the other is not."""
    hidden, labels, mask = states(rng)
    hidden[100:] *= 1e15
    first, second = (batch_moments(hidden[part], labels[part], mask[part]) for part in (slice(100), slice(100, 200)))
    exact = batch_moments(hidden.double(), labels, mask)
    for name in ("pooled_gram", "next_sum"):
        both = getattr(first, name) + getattr(second, name)
        assert (both - getattr(exact, name)).norm() <= 1e-6 * getattr(exact, name).norm()
    small, products = batch_moments(hidden[:100].double(), labels[:100], mask[:100]), first.prefix_products
    assert (products - small.prefix_products).tril().norm() <= 1e-6 * small.prefix_products.norm()


@pytest.mark.parametrize("size", [50, 1500])
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e200])
def test_what_is_not_finite_even_so_is_refused_and_the_sums_are_kept(rng, size, value):
    """Also where it is in a later part of the batch than the first that is worked on."""
    metric = NextTokenPerceptionScore(24, 3)
    hidden, labels, mask = states(rng, torch.float64)
    metric.update(hidden, labels, mask)
    before = metric.clone()
    times = -(-size // len(hidden))
    broken = hidden.repeat(times, 1, 1)[:size].clone()
    broken[-1, 0, 3] = value
    with pytest.raises(ValueError, match=r"NaN or Inf at valid tokens of samples|go up to 1\.0e\+200"):
        metric.update(broken, labels.repeat(times)[:size], mask.repeat(times, 1)[:size])
    assert all(torch.equal(getattr(metric, name), getattr(before, name)) for name in metric._defaults)
    assert float(metric.compute()) == float(before.compute())


def test_padding_may_hold_anything(rng):
    samples, labels = sequences(rng, n=60, d=24)
    found = []
    for filler in (0, np.inf):
        hidden, mask = pad(samples, filler=filler)
        found.append(shown(hidden.float() * 1e-20, torch.tensor(labels), mask))
    assert found[0] == found[1]


def test_one_token_a_sample_has_nothing_to_multiply(rng):
    moments = batch_moments(torch.from_numpy(rng.normal(size=(5, 1, 3)) * 1e-30), torch.tensor([0, 1, 0, 1, 1]))
    assert 0 < moments.pooled_gram.trace() < 1e-58
