from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ntps_lightning.functional.accumulate import accumulate_, batch_moments
from ntps_lightning.functional.moments import Moments, covariances
from tests.support import oracle
from tests.support.data import pad, sequences


def assert_close(actual: Moments, expected: Moments, rtol: float = 1e-10) -> None:
    for field in fields(Moments):
        if field.name == "rounding":  # depends on the origins, which batches choose
            continue
        a, b = getattr(actual, field.name), getattr(expected, field.name)
        assert (a - b).norm() <= rtol * b.norm().clamp(min=1e-300), field.name


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_moments_equal_the_oracle(rng, center, pooling):
    samples, labels = sequences(rng, low=1)
    cov = covariances(batch_moments(*_inputs(samples, labels), pooling=pooling), center=center)
    expected = oracle.moments(samples, oracle.one_hot(labels, 3), center, pooling)
    for actual, wanted in zip((cov.perception, cov.cross, cov.prefix, cov.prefix_next), expected, strict=True):
        assert np.linalg.norm(actual.numpy() - wanted) <= 1e-10 * np.linalg.norm(wanted)


def test_regression_targets_equal_the_oracle(rng):
    samples, _ = sequences(rng)
    targets = rng.normal(size=(len(samples), 2))
    hidden, mask = pad(samples)
    cov = covariances(batch_moments(hidden, torch.from_numpy(targets), mask), center=True)
    standardised = targets / targets.std(0)
    assert np.allclose(cov.cross.numpy(), oracle.moments(samples, standardised, center=True)[1], rtol=1e-10)
    single = batch_moments(hidden, torch.from_numpy(targets[:, 0]), mask)
    assert single.pooled_target.shape == (6, 1)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**31), side=st.sampled_from(["left", "right"]), extra=st.integers(0, 3), data=st.data())
def test_order_split_merge_and_padding_change_nothing(seed, side, extra, data):
    rng = np.random.default_rng(seed)
    samples, labels = sequences(rng, n=12, d=4, low=1, high=5)
    whole = batch_moments(*_inputs(samples, labels))
    order = data.draw(st.permutations(range(12)))
    cut = data.draw(st.integers(1, 11))
    parts = []
    for part in (order[:cut], order[cut:]):
        hidden, mask = pad([samples[i] for i in part], side, filler=np.inf, length=5 + extra)
        parts.append(batch_moments(hidden, torch.tensor(labels[part]), mask, num_classes=3))
    assert_close(parts[0] + parts[1], whole)


def test_holes_in_the_mask_are_skipped(rng):
    samples, labels = sequences(rng, n=10, low=4)
    hidden, mask = pad(samples)
    mask[:, 1] = 0
    holed = [np.delete(x, 1, axis=0) for x in samples]
    assert_close(batch_moments(hidden, torch.tensor(labels), mask), batch_moments(*_inputs(holed, labels)))


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31), center=st.booleans())
def test_telescoping_identity(seed, center):
    """C1 + C1ᵀ = E[c_T c_Tᵀ] - E[Σ_t x_t x_tᵀ], for any samples."""
    samples, labels = sequences(np.random.default_rng(seed), n=15, low=1)
    cov = covariances(batch_moments(*_inputs(samples, labels)), center=center)
    if center:
        samples = [x - oracle.pool(samples).mean(0) for x in samples]
    total = sum(np.outer(x.sum(0), x.sum(0)) - x.T @ x for x in samples) / len(samples)
    left = (cov.prefix_next + cov.prefix_next.T).numpy()
    assert np.linalg.norm(left - total) <= 1e-10 * np.linalg.norm(total)


def test_a_sample_of_one_token_adds_to_perception_alone(rng):
    moments = batch_moments(torch.from_numpy(rng.normal(size=(5, 1, 3))), torch.tensor([0, 1, 0, 1, 1]))
    assert moments.pooled_gram.any()
    assert not moments.prefix_products.any()
    assert not moments.position_sums.any()


def exact(hidden, labels, mask):
    """The moments of the same numbers with float64 products."""
    return batch_moments(hidden.double(), labels, mask)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_products_are_float32_and_sums_float64(rng, dtype):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples, filler=0)
    hidden = hidden.to(dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        moments = batch_moments(hidden, torch.tensor(labels), mask)
    assert_close(moments, exact(hidden, torch.tensor(labels), mask), rtol=1e-6)


def sink(rng, size=200, d=48):
    """What language models have, and worse: a first token of 200 times the norm of others, and an offset."""
    samples, labels = sequences(rng, n=size, d=d, low=8, high=24)
    outlier = np.where(np.arange(d) % 16 == 0, 200 * d**0.5, 0.0)
    samples = [np.vstack([x[:1] * (1 + 0.1 * rng.normal()) + outlier, x[1:]]) + 30 for x in samples]
    hidden, mask = pad(samples, filler=0)
    return hidden.float(), torch.tensor(labels), mask


def equilibrated_error(moments, reference):
    """Largest error of C0 and C1, each entry relative to the norms of what it is a product of."""
    actual, wanted = (covariances(m, center=True) for m in (moments, reference))
    prefix, token = wanted.prefix.diagonal().sqrt(), wanted.perception.diagonal().sqrt()
    gram = (actual.prefix - wanted.prefix) / torch.outer(prefix, prefix)
    following = (actual.prefix_next - wanted.prefix_next) / torch.outer(prefix, token)
    return float(gram.abs().max()), float(following.abs().max())


def test_an_attention_sink_costs_no_precision(rng):
    hidden, labels, mask = sink(rng)
    reference = exact(hidden, labels, mask)
    moments = batch_moments(hidden, labels, mask)
    assert max(equilibrated_error(moments, reference)) < 5e-6
    # Plain float32 products of the same prefix sums lose what the test is about.
    tokens = hidden * mask[..., None]
    prefix = (tokens.cumsum(1) - tokens)[:, 1:] * mask[:, 1:, None]
    plain = torch.cat([prefix, tokens[:, 1:]], 2).flatten(0, 1).T @ prefix.flatten(0, 1)
    products = reference.prefix_products.clone()
    products[:-2] = plain.double()
    assert max(equilibrated_error(replace(reference, prefix_products=products), reference)) > 2e-5


@pytest.mark.parametrize("flag", ["high", "medium"])
def test_global_flags_change_nothing(rng, flag):
    """On CPUs with bfloat16 products, "medium" would use them for float32 ones."""
    hidden, labels, mask = sink(rng, size=400, d=96)
    expected = batch_moments(hidden, labels, mask)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision(flag)
        actual = batch_moments(hidden, labels, mask)
        assert torch.get_float32_matmul_precision() == flag
    finally:
        torch.set_float32_matmul_precision(before)
    assert_close(actual, expected, rtol=0)


def test_a_mask_that_was_changed_is_read_again(rng):
    samples, labels = sequences(rng, n=10, low=4)
    hidden, mask = pad(samples)
    labels = torch.tensor(labels)
    batch_moments(hidden, labels, mask)
    mask.numpy()[:, 1] = 0  # a change that no version counter sees
    assert_close(batch_moments(hidden, labels, mask), batch_moments(hidden, labels, mask.clone()))


def test_many_samples_are_refused_before_any_is_added(rng, monkeypatch):
    monkeypatch.setattr("ntps_lightning.functional.packed_batch._MAX_SAMPLES", 7)
    samples, labels = sequences(rng, n=30)
    hidden, mask = pad(samples)
    hidden[25, 0] = torch.inf
    moments = batch_moments(hidden[:20], torch.tensor(labels[:20]), mask[:20], num_classes=3)
    before = replace(moments, **{f.name: getattr(moments, f.name).clone() for f in fields(Moments)})
    with pytest.raises(ValueError, match=r"samples \[4\] of the batch \(1 of 7\)"):
        accumulate_(moments, hidden, torch.tensor(labels), mask)
    assert_close(moments, before, rtol=0)


def test_chunks_change_nothing(rng, monkeypatch):
    samples, labels = sequences(rng)
    whole = batch_moments(*_inputs(samples, labels))
    monkeypatch.setattr("ntps_lightning.functional.prefix_sums._MAX_TOKENS", 10)
    monkeypatch.setattr("ntps_lightning.functional.packed_batch._MAX_SAMPLES", 7)
    assert_close(batch_moments(*_inputs(samples, labels)), whole)


def _inputs(samples, labels):
    hidden, mask = pad(samples)
    return hidden, torch.tensor(labels), mask


H, Y = torch.zeros(4, 3, 2), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("inputs", "options", "message"),
    [
        ((torch.zeros(4, 2), Y), {}, r"shape \(N, T, d\)"),
        ((torch.zeros(4, 3, 2, dtype=torch.long), Y), {}, "must be floating"),
        ((torch.zeros(4, 0, 2), Y), {}, "empty"),
        ((H, Y[:3]), {}, "3 samples, hidden_states for 4"),
        ((H, Y, torch.ones(4, 4)), {}, r"\(4, 3\), got \(4, 4\)"),
        ((H, Y, torch.ones(4, 1, 3, 3)), {}, "4D mask"),
        ((H, Y, torch.full((4, 3), 2)), {}, "other values"),
        ((H, Y, torch.tensor([[1, 1, 1]] * 3 + [[0, 0, 0]])), {}, r"samples \[3\].*no valid token"),
        ((H, torch.tensor([0, 1, 2, 1])), {"num_classes": 2}, r"\[0, 2\), got values from 0 to 2"),
        ((H, torch.tensor([0, -100, 0, 1])), {}, "-100"),
        ((H, torch.full((4, 3), 2)), {}, "next-token targets"),
        ((H, ["a", "b", "a", "b"]), {}, r"labels must be \(N,\) class indices.*got a list"),
        ((H, torch.zeros(4, 3, dtype=torch.long)), {"num_classes": 2}, "3 columns, but num_classes=2"),
        ((H, Y, [[1, 1, 1]] * 3 + [[1]]), {}, r"attention_mask must be \(N, T\), got a list"),
        ((H, Y.double()), {"num_classes": 2}, "regression targets"),
        ((H, torch.tensor([0.0, 1.0, torch.nan, 0.0])), {}, "NaN"),
        ((H, torch.zeros(4, 1, 1)), {}, r"\(N,\) / \(N, C\)"),
        ((torch.tensor([torch.nan]).expand(4, 3, 2), Y), {}, r"NaN or Inf at valid tokens of samples \[0, 1, 2, 3\]"),
    ],
)
def test_bad_input_gets_one_clear_error(inputs, options, message):
    with pytest.raises(ValueError, match=message):
        batch_moments(*inputs, **options)
