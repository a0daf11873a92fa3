"""The directions without order against averages over every order of the tokens."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import torch

from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.bag import bag_subspace
from ntps_lightning.functional.moments import covariances
from tests.support import oracle
from tests.support.data import pad, sequences


def take(samples, labels, **options):
    hidden, mask = pad(samples)
    return batch_moments(hidden, torch.tensor(labels), mask, num_classes=3, controls=True, **options)


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_moments_are_averages_over_all_orders(rng, center, pooling):
    samples, labels = sequences(rng, n=8, low=1, high=5)
    samples = [x + 3 for x in samples]
    cov = covariances(take(samples, labels, pooling=pooling), center=center)
    origin = oracle.pool(samples, pooling).mean(0) * center
    prefix, prefix_next = np.zeros((6, 6)), np.zeros((6, 6))
    for x in samples:
        orders = [(x - origin)[list(order)] for order in permutations(range(len(x)))]
        found = [oracle.moments([order], [[0.0]])[2:] for order in orders]
        prefix += np.mean([c0 for c0, _ in found], 0) / len(samples)
        prefix_next += np.mean([c1 for _, c1 in found], 0) / len(samples)
    assert {len(x) for x in samples} == {1, 2, 3, 4, 5}
    assert cov.bag.numpy() == pytest.approx(prefix, rel=1e-10, abs=1e-10 * np.abs(prefix).max())
    wanted = pytest.approx(prefix_next, rel=1e-10, abs=1e-10 * np.abs(prefix_next).max())
    assert ((cov.prefix_next + cov.prefix_next.T) / 2).numpy() == wanted


def test_order_batches_and_tokens_that_are_left_out_change_nothing(rng):
    samples, labels = sequences(rng, n=90)
    wanted = take(samples, labels).bag_products
    assert torch.allclose(take([rng.permutation(x) for x in samples], labels).bag_products, wanted, rtol=1e-10)
    parts = take(samples[:37], labels[:37]) + take(samples[37:], labels[37:])
    assert torch.allclose(parts.bag_products, wanted, rtol=1e-10)
    holes = [np.insert(x, len(x) // 2, np.nan, axis=0) for x in samples]
    hidden, mask = pad(holes, side="left")
    mask = mask * ~hidden.isnan().any(2)
    found = batch_moments(hidden, torch.tensor(labels), mask, num_classes=3, controls=True)
    assert torch.allclose(found.bag_products, wanted, rtol=1e-10)


def test_chunks_change_nothing(rng, monkeypatch):
    samples, labels = sequences(rng, n=40)
    wanted = take(samples, labels).bag_products
    monkeypatch.setattr("ntps_lightning.functional.bag._MAX_TOKENS", 30)
    assert torch.allclose(take(samples, labels).bag_products, wanted, rtol=1e-10)
    hidden = torch.from_numpy(rng.normal(size=(20, 7, 6)))
    unpadded = batch_moments(hidden, torch.arange(20) % 3, controls=True)
    longer, mask = torch.cat([hidden, hidden[:, :1]], 1), torch.ones(20, 8)
    mask[:, 7] = 0
    padded = batch_moments(longer, torch.arange(20) % 3, mask, controls=True)
    assert torch.allclose(unpadded.bag_products, padded.bag_products, rtol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_products_are_float64(rng, dtype):
    hidden = torch.from_numpy(rng.normal(size=(50, 9, 6)) + 100).to(dtype)
    labels = torch.arange(50) % 3
    found = covariances(batch_moments(hidden, labels, controls=True), center=True).bag
    exact = covariances(batch_moments(hidden.double(), labels, controls=True), center=True).bag
    assert torch.allclose(found, exact, rtol=1e-4, atol=1e-6 * float(exact.abs().max()))


def test_directions_are_those_of_the_definition(rng):
    samples, labels = sequences(rng, n=200)
    cov = covariances(take(samples, labels), center=True)
    directions = bag_subspace(cov.bag, cov).directions.numpy()
    wanted = oracle.generalized((cov.prefix_next + cov.prefix_next.T).numpy(), cov.bag.numpy())[1]
    for size in range(1, 7):
        ours, theirs = (np.linalg.qr(each[:, :size])[0] for each in (directions, wanted))
        assert np.linalg.svd(ours.T @ theirs)[1].min() == pytest.approx(1, abs=1e-10)
    few = np.linalg.qr(bag_subspace(cov.bag, cov, count=2).directions.numpy())[0]
    assert np.linalg.svd(few.T @ np.linalg.qr(wanted[:, :2])[0])[1].min() == pytest.approx(1, abs=1e-10)


def test_there_is_nothing_without_controls(rng):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask)
    assert moments.bag_products.shape == (0, 0)
    assert covariances(moments, center=True).bag is None
