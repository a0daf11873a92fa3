"""Labels as people give them: what each form means, and that forms of one meaning give one score."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ntps_lightning import NextTokenPerceptionScore, next_token_perception_score
from ntps_lightning.functional.accumulate import accumulate_, batch_moments
from ntps_lightning.functional.moments import Moments, moment_shapes
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.targets import read_labels
from tests.support import oracle
from tests.support.data import pad, sequences

INDICES = [0, 2, 1, 1]


@pytest.mark.parametrize(
    "labels",
    [
        INDICES,
        tuple(INDICES),
        np.array(INDICES),
        np.array(INDICES, dtype=np.uint8),
        np.array(INDICES, dtype=np.uint16),
        torch.tensor(INDICES, dtype=torch.int16),
        torch.tensor(INDICES)[:, None],
        [torch.tensor(i) for i in INDICES],
    ],
    ids=lambda labels: type(labels).__name__,
)
def test_class_indices_in_any_form(labels):
    assert read_labels(labels).tolist() == INDICES
    assert read_labels(labels).dtype == torch.int64


def test_bools_are_classes_and_zeros_and_ones_in_columns_are_targets():
    assert read_labels(torch.tensor([True, False])).tolist() == [1, 0]
    hot = [[1, 0, 1], [0, 0, 1]]
    for labels in (hot, torch.tensor(hot), torch.tensor(hot, dtype=torch.bool), torch.tensor(hot, dtype=torch.uint8)):
        assert read_labels(labels, num_classes=3).tolist() == hot
        assert read_labels(labels).dtype == torch.float64
    assert read_labels([0.5, 1.0]).tolist() == [[0.5], [1.0]]
    assert read_labels(torch.zeros(4, 1)).shape == (4, 1)


def test_a_read_only_array_is_no_reason_to_warn():
    labels = np.array(INDICES)
    labels.flags.writeable = False
    assert read_labels(labels).tolist() == INDICES


@pytest.mark.parametrize("labels", [None, "sport", {"a": 1}, object(), [[0, 1], [1]], ["a", "b"], [None, 1], 3])
def test_what_is_no_label_gets_one_error(labels):
    with pytest.raises(ValueError, match=r"labels must be \(N,\) class indices"):
        read_labels(labels)


def test_the_function_and_the_metric_take_arrays_and_lists(rng):
    samples, labels = sequences(rng, n=40)
    hidden, mask = pad(samples, filler=0)
    expected = float(next_token_perception_score(hidden, torch.tensor(labels), mask))
    given = (hidden.numpy(), labels.tolist(), mask.tolist())
    assert float(next_token_perception_score(*given)) == expected
    metric = NextTokenPerceptionScore(6, 3)
    metric.update(*given)
    assert float(metric.compute()) == expected
    with pytest.raises(ValueError, match=r"hidden_states must be floating \(N, T, d\), got a str"):
        metric.update("words", labels)


@pytest.mark.parametrize("center", [True, False])
def test_multi_hot_labels_equal_the_oracle(rng, center):
    samples, _ = sequences(rng, n=150)
    hot = rng.integers(2, size=(150, 4))
    hidden, mask = pad(samples, filler=0)
    metric = NextTokenPerceptionScore(6, num_outputs=4, k=3, ridge=0.1, center=center)
    metric.update(hidden, torch.from_numpy(hot), mask)
    expected = oracle.ntps(samples, hot / hot.std(0), 3, 4, ridge=0.1, center=center)
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-9)
    with pytest.raises(ValueError, match="make the metric with num_outputs=4"):
        NextTokenPerceptionScore(6, 4).update(hidden, torch.from_numpy(hot), mask)
    with pytest.raises(ValueError, match="make the metric with num_classes"):
        metric.update(hidden, torch.from_numpy(hot[:, 0]), mask)


def test_the_unit_of_a_target_changes_nothing(rng):
    samples, _ = sequences(rng, n=150)
    hidden, mask = pad(samples, filler=0)
    targets = torch.from_numpy(rng.normal(size=(150, 2)) + hidden.nan_to_num().sum(1)[:, :2].numpy() / 10)
    units = torch.tensor([1e-6, 1e6], dtype=torch.float64)
    found = [score_details(batch_moments(hidden, y, mask), k=3) for y in (targets, (targets + 5) * units)]
    for name in ("score", "captured_in_sample", "null", "in_sample_r2", "excess_loss"):
        assert getattr(found[1], name) == pytest.approx(getattr(found[0], name), rel=1e-8), name
    constant = torch.cat([targets, torch.full((150, 1), 1e3, dtype=torch.float64)], 1)
    padded = score_details(batch_moments(hidden, constant, mask), k=3)
    assert padded.rank == 2
    assert padded.score == pytest.approx(found[0].score, rel=1e-8)
    assert padded.in_sample_r2 == pytest.approx(found[0].in_sample_r2, rel=1e-8)


def test_the_r2_of_targets_is_the_mean_of_theirs(rng):
    samples, _ = sequences(rng, n=150)
    hidden, mask = pad(samples, filler=0)
    targets = torch.from_numpy(rng.normal(size=(150, 3)) * [1, 10, 100])
    r2 = [score_details(batch_moments(hidden, targets[:, i], mask)).in_sample_r2 for i in range(3)]
    assert score_details(batch_moments(hidden, targets, mask), k=3).in_sample_r2 == pytest.approx(np.mean(r2), rel=1e-9)


@pytest.mark.parametrize("center", [True, False])
def test_many_classes_equal_the_oracle(rng, center):
    """More classes than dimensions, and than samples of a batch; most of them are never seen."""
    samples, _ = sequences(rng, n=300)
    labels = rng.choice(1000, size=40, replace=False)[rng.integers(40, size=300)]
    hidden, mask = pad(samples, filler=0)
    metric = NextTokenPerceptionScore(6, 1000, k=3, center=center)
    for part in np.array_split(np.arange(300), 7):
        metric.update(hidden[part], torch.from_numpy(labels[part]), mask[part])
    targets = oracle.one_hot(labels, 1000)
    assert float(metric.compute()) == pytest.approx(oracle.ntps(samples, targets, 3, 6, 0.1, center), rel=1e-9)
    captured = oracle.captured(samples, targets, 3, 6, 0.1, center)
    assert metric.details().captured_in_sample == pytest.approx(captured, rel=1e-9)


def test_classes_take_no_square_of_their_number():
    numbers = sum(torch.Size(shape).numel() for shape in moment_shapes(64, 5000).values())
    assert numbers == pytest.approx(3 * 64**2 + 65 * 5000, rel=0.01)
    moments = Moments.zeros(64, 5000)
    largest = []
    with _Sizes(largest):
        accumulate_(moments, torch.randn(32, 8, 64), torch.randint(5000, (32,)))
    assert max(largest) < 32 * 5000, "not even one row of 5,000 a sample"


class _Sizes(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the sizes of the tensors that operations make, but not of the sums that they add to."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not func.__name__.split(".")[0].endswith("_"):
            self.found.append(out.numel())
        return out
