from __future__ import annotations

import pickle

import matplotlib
import pytest
import torch
import torchmetrics
from torch import nn
from torchmetrics import MeanMetric, MetricCollection, MetricTracker

from ntps_lightning import NextTokenPerceptionScore, next_token_perception_score
from ntps_lightning.functional.held_out import read_held_out
from ntps_lightning.functional.moments import covariances
from tests.support import oracle
from tests.support.data import pad, sequences

matplotlib.use("Agg")

merges = pytest.mark.skipif(
    not hasattr(MeanMetric, "merge_state"), reason=f"torchmetrics {torchmetrics.__version__} has no merge_state"
)
MERGE = pytest.param("merge", marks=merges)


@pytest.fixture
def batches(rng):
    samples, labels = sequences(rng, n=120, d=6)
    return [(*pad(samples[i : i + 25]), torch.tensor(labels[i : i + 25])) for i in range(0, 120, 25)]


def make(batches, count=None, **options):
    metric = NextTokenPerceptionScore(6, 3, **options)
    for hidden, mask, labels in batches[:count]:
        metric.update(hidden, labels, mask)
    return metric


def test_incremental_equals_the_oracle(rng, batches):
    samples = [hidden[i][mask[i].bool()].numpy() for hidden, mask, _ in batches for i in range(len(mask))]
    labels = torch.cat([labels for *_, labels in batches])
    metric = make(batches, k=2, ridge=0.0)
    expected = oracle.ntps(samples, oracle.one_hot(labels, 3), 2, 2)
    assert metric.compute().shape == ()
    assert float(metric.compute()) == pytest.approx(expected, rel=1e-10)
    assert metric.details().score == float(metric.compute())
    assert metric.details().num_samples == 120
    assert metric.details().samples_per_dim == 20


def test_reset_pickle_clone_and_state_dict(batches):
    metric = make(batches)
    expected = metric.compute()
    for copy in (pickle.loads(pickle.dumps(metric)), metric.clone()):
        assert copy.compute() == expected
        copy.update(*_arguments(batches[0]))
        assert copy.compute() != expected
    assert metric.compute() == expected
    metric.persistent(True)
    loaded = NextTokenPerceptionScore(6, 3)
    loaded.persistent(True)
    loaded.load_state_dict(metric.state_dict())
    assert loaded.details().score == float(expected)
    metric.reset()
    assert not metric.prefix_products.any()
    for batch in batches:
        metric.update(*_arguments(batch))
    assert metric.compute() == expected


def test_forward_returns_the_batch_score_and_accumulates(batches):
    metric = NextTokenPerceptionScore(6, 3)
    for batch in batches:
        value = metric(*_arguments(batch))
        hidden, mask, labels = batch
        assert float(value) == pytest.approx(float(next_token_perception_score(hidden, labels, mask, num_classes=3)))
    assert float(metric.compute()) == pytest.approx(float(make(batches).compute()), rel=1e-12)


def test_forward_of_a_batch_without_a_score_keeps_the_sums(batches):
    metric, plain = make(batches, 3), make(batches, 3)
    hidden, mask, labels = batches[3]
    single = torch.zeros_like(labels)
    with pytest.warns(UserWarning, match=r"added, but has no score of its own: .* \(a single class"):
        assert metric(hidden, single, mask).isnan()
    plain.update(hidden, single, mask)
    assert metric.update_count == plain.update_count == 4
    assert float(metric.compute()) == pytest.approx(float(plain.compute()), rel=1e-12)
    with pytest.raises(ValueError, match=r"\[0, 3\)"):
        metric(hidden, labels + 1, mask)
    assert float(metric.compute()) == pytest.approx(float(plain.compute()), rel=1e-12)
    metric.update(hidden, labels, mask)
    plain.update(hidden, labels, mask)
    assert float(metric.compute()) == pytest.approx(float(plain.compute()), rel=1e-12)


def test_a_collection_does_not_confuse_poolings(rng):
    """On a first batch of single tokens both have the same sums."""
    collection = MetricCollection({p: NextTokenPerceptionScore(6, 3, pooling=p) for p in ("mean", "last")})
    labels = torch.arange(30) % 3
    batches = [torch.from_numpy(rng.normal(size=(30, length, 6))) for length in (1, 5)]
    for hidden in batches:
        collection.update(hidden, labels)
    assert len(collection.compute_groups) == 2
    for pooling, value in collection.compute().items():
        alone = NextTokenPerceptionScore(6, 3, pooling=pooling)
        for hidden in batches:
            alone.update(hidden, labels)
        assert value == alone.compute()


def test_collection_shares_states_and_tracker_keeps_the_best(batches):
    options = {"small": 2, "large": 5}
    collection = MetricCollection({name: NextTokenPerceptionScore(6, 3, k=k) for name, k in options.items()})
    for batch in batches:
        collection.update(*_arguments(batch))
    assert len(collection.compute_groups) == 1
    for name, value in collection.compute().items():
        assert float(value) == pytest.approx(float(make(batches, k=options[name]).compute()))
    tracker = MetricTracker(NextTokenPerceptionScore(6, 3))
    for batch in batches:
        tracker.increment()
        tracker.update(*_arguments(batch))
    values = tracker.compute_all()
    assert tracker.best_metric() == pytest.approx(float(values.max()))


def test_plot(batches):
    metric = make(batches)
    figure, axis = metric.plot()
    low, high = axis.get_ylim()
    assert low <= 0
    assert high >= 1
    assert metric.plot([metric.compute(), metric.compute()])[0] is not figure


def test_states_stay_float64_whatever_the_module_does(batches):
    module = nn.ModuleDict({"metric": make(batches), "layer": nn.Linear(2, 2)})
    expected = module["metric"].compute()
    module.to(torch.bfloat16).half().float()
    assert module["layer"].weight.dtype == torch.float32
    assert module["metric"].prefix_products.dtype == torch.float64
    assert module["metric"].set_dtype(torch.float16).details().score == float(expected)


def test_defaults_take_no_memory():
    metric = NextTokenPerceptionScore(64, 3).to("cpu")
    stored = sum(default.untyped_storage().nbytes() for default in metric._defaults.values())
    assert stored <= 8 * len(metric._defaults)
    states = sum(getattr(metric, name).numel() for name in metric._defaults if not name.startswith("kept_"))
    assert states == pytest.approx(3 * 64**2, rel=0.1)


def test_bad_batches_add_nothing(batches):
    metric = make(batches, 2)
    before = metric.clone()
    hidden, mask, labels = batches[2]
    broken = hidden.clone()
    broken[3, 0] = torch.nan
    for arguments in ((broken, labels, mask), (hidden, labels + 1, mask), (hidden[..., :5], labels, mask)):
        with pytest.raises(ValueError, match=r"NaN|\[0, 3\)|d = 5"):
            metric.update(*arguments)
    assert all(torch.equal(getattr(metric, name), getattr(before, name)) for name in metric._defaults)


def test_regression(rng):
    samples, _ = sequences(rng)
    targets = torch.from_numpy(rng.normal(size=(len(samples), 2)))
    hidden, mask = pad(samples)
    metric = NextTokenPerceptionScore(6, num_outputs=2)
    metric.update(hidden, targets, mask)
    assert float(metric.compute()) == float(next_token_perception_score(hidden, targets, mask))
    with pytest.raises(ValueError, match="expected num_outputs=2"):
        metric.update(hidden, targets[:, :1], mask)
    with pytest.raises(ValueError, match="floating regression targets"):
        metric.update(hidden, torch.zeros(len(hidden), dtype=torch.long), mask)


def test_growing_keeps_the_sums(batches):
    grown, wide = make(batches), NextTokenPerceptionScore(6, 5)
    grown.grow(5)
    for batch in batches:
        wide.update(*_arguments(batch))
    extra = (batches[0][0], torch.full((25,), 4), batches[0][1])
    for metric in (grown, wide):
        metric.update(*extra)
    assert float(grown.compute()) == pytest.approx(float(wide.compute()), rel=1e-12)
    grown.reset()
    assert grown.pooled_target.shape == (6, 5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "num_classes .* or num_outputs"),
        ({"num_classes": 3, "num_outputs": 2}, "num_classes=3"),
        ({"num_classes": 1}, "at least 2 classes"),
        ({"num_classes": 3, "k": 7}, "d = 6"),
        ({"num_classes": 3, "pooling": "max"}, "max"),
    ],
)
def test_bad_options_are_refused_at_once(arguments, message):
    with pytest.raises(ValueError, match=message):
        NextTokenPerceptionScore(6, **arguments)


def test_nothing_to_compute_is_said(batches):
    with pytest.warns(UserWarning, match="before the ``update``"), pytest.raises(ValueError, match="no samples"):
        NextTokenPerceptionScore(6, 3).compute()
    hidden, mask, labels = batches[0]
    metric = NextTokenPerceptionScore(6, 3)
    metric.update(hidden, torch.zeros_like(labels), mask)
    with pytest.raises(ValueError, match="single class"):
        metric.compute()


def test_lives_beside_other_metrics_in_a_collection(batches):
    """A metric of another signature must not be confused by ours."""
    collection = MetricCollection({"ntps": NextTokenPerceptionScore(6, 3), "mean": MeanMetric()})
    hidden, mask, labels = batches[0]
    collection.update(hidden_states=hidden, labels=labels, attention_mask=mask, value=labels.float())
    assert set(collection.compute()) == {"ntps", "mean"}


def with_ids(batches, metric, groups=False):
    first = 0
    for hidden, mask, labels in batches:
        ids = torch.arange(first, first + len(labels))
        metric.update(hidden, labels, mask, ids, ids // 3 if groups else None)
        first += len(labels)
    return metric


def kept_rows(metric):
    rows, _ = metric._kept().rows(3)
    return [rows.states, rows.targets, rows.weights, rows.groups, rows.halves]


@pytest.mark.parametrize("way", [MERGE, "forward", "pickle", "clone", "batches", "device", "reset"])
def test_kept_rows_survive_what_metrics_go_through(batches, way):
    metric = with_ids(batches, NextTokenPerceptionScore(6, 3, kept=30))
    wanted = kept_rows(metric)
    if way == "merge":
        first, second = (NextTokenPerceptionScore(6, 3, kept=30) for _ in range(2))
        with_ids(batches[:2], first)
        with_ids(batches, second)
        first.merge_state(second)
        found = second
        assert first.kept_keys[:, 3].max() == 2, "copies are counted"
    elif way == "forward":
        found, start = NextTokenPerceptionScore(6, 3, kept=30), 0
        for hidden, mask, labels in batches:
            found(hidden, labels, mask, torch.arange(start, start + len(labels)))
            start += len(labels)
    elif way == "pickle":
        found = pickle.loads(pickle.dumps(metric))
    elif way == "clone":
        found = metric.clone()
        metric.reset()
    elif way == "batches":
        found, last = NextTokenPerceptionScore(6, 3, kept=30), len(torch.cat([labels for *_, labels in batches]))
        for hidden, mask, labels in reversed(batches):
            last -= len(labels)
            for i in range(0, len(labels), 7):
                part = slice(i, i + 7)
                ids = torch.arange(last, last + len(labels))[part]
                found.update(hidden[part], labels[part], mask[part], ids)
    elif way == "device":
        found = metric.to("cpu").to(torch.bfloat16)
    else:
        metric.reset()
        assert len(kept_rows(metric)[0]) == 0
        found = with_ids(batches, metric)
    assert all(torch.equal(a, b) for a, b in zip(kept_rows(found), wanted, strict=True))
    assert len(wanted[0]) == 30


@pytest.mark.parametrize("way", [MERGE, "forward", "pickle", "clone", "state_dict", "device", "reset"])
def test_controls_survive_what_metrics_go_through(batches, way):
    metric = with_ids(batches, NextTokenPerceptionScore(6, 3, controls=True))
    wanted = metric.details().held_out
    found = NextTokenPerceptionScore(6, 3, controls=True)
    if way == "merge":
        other = with_ids(batches[:2], NextTokenPerceptionScore(6, 3, controls=True))
        first = 2 * 25
        for hidden, mask, labels in batches[2:]:
            found.update(hidden, labels, mask, torch.arange(first, first + len(labels)))
            first += len(labels)
        found.merge_state(other)
    elif way == "forward":
        for hidden, mask, labels in batches:
            found(hidden, labels, mask, torch.arange(int(found.num_samples), int(found.num_samples) + len(labels)))
    elif way == "pickle":
        found = pickle.loads(pickle.dumps(metric))
    elif way == "clone":
        found = metric.clone()
        metric.reset()
    elif way == "state_dict":
        metric.persistent(True)
        found.persistent(True)
        found.load_state_dict(metric.state_dict())
    elif way == "device":
        found = metric.to("cpu").to(torch.bfloat16)
    else:
        metric.reset()
        assert not metric.bag_products.any()
        found = with_ids(batches, metric)
    assert found.bag_products.dtype == torch.float64
    held_out = found.details().held_out
    assert held_out.bag_r2.value == pytest.approx(wanted.bag_r2.value, abs=1e-9)
    for size, point in wanted.curves["bag_r2"].items():
        assert held_out.curves["bag_r2"][size] == pytest.approx(point, abs=1e-9)


def test_the_bag_is_the_probe_in_the_directions_without_order(batches):
    metric = with_ids(batches, NextTokenPerceptionScore(6, 3, k=2, controls=True))
    found = metric.details().held_out
    cov = covariances(metric._moments(), center=True)
    directions = oracle.generalized((cov.prefix_next + cov.prefix_next.T).numpy(), cov.bag.numpy())[1]
    basis = torch.linalg.qr(torch.from_numpy(directions.copy()))[0]
    again = read_held_out(metric._moments(), cov, metric._kept(), basis, 2)
    assert found.bag_r2.value == pytest.approx(again.captured_r2.value, abs=1e-9)
    assert found.bag_r2.se == pytest.approx(again.captured_r2.se, rel=1e-7)
    assert found.bag_r2.value != pytest.approx(found.captured_r2.value, abs=1e-3)
    assert found.curves["bag_r2"][2] == (found.bag_r2.value, found.bag_r2.se)
    assert found.curves["bag_r2"][6] == pytest.approx(found.curves["principal_r2"][6], abs=1e-9)
    plain = with_ids(batches, NextTokenPerceptionScore(6, 3, k=2)).details().held_out
    assert plain.bag_r2 is None
    assert "bag_r2" not in plain.curves
    assert plain.captured_r2.value == found.captured_r2.value


def make_larger(batches):
    """Of more samples, so that its lowest dropped hash is lower."""
    metric = NextTokenPerceptionScore(6, 3, kept=30)
    for batch in [*batches] * 4:
        metric.update(*_arguments(batch))
    return metric


@merges
def test_without_ids_samples_are_told_by_their_positions(batches):
    updated, forwarded = (NextTokenPerceptionScore(6, 3, kept=30) for _ in range(2))
    for batch in batches:
        updated.update(*_arguments(batch))
        forwarded(*_arguments(batch))
    assert all(torch.equal(a, b) for a, b in zip(kept_rows(updated), kept_rows(forwarded), strict=True))
    assert updated.kept_keys[:, 3].tolist() == [1] * 30
    before = kept_rows(updated)
    updated.merge_state(forwarded)
    assert all(torch.equal(a, b) for a, b in zip(kept_rows(updated), before, strict=True)), "no strangers as copies"
    assert int(updated.num_samples) == 2 * int(forwarded.num_samples)
    updated.merge_state(make_larger(batches))
    assert all(torch.equal(a, b) for a, b in zip(kept_rows(updated), before, strict=True)), "nor is their limit ours"


def test_held_out_numbers_are_in_the_details(batches):
    metric = with_ids(batches, NextTokenPerceptionScore(6, 3), groups=True)
    found = metric.details().held_out
    n = int(metric.num_samples)
    assert (found.num_kept, found.num_groups) == (n, -(-n // 3))
    assert 0 < found.captured_r2.value < found.probe_r2.value < 1
    assert found.probe_r2.se > 0
    assert with_ids(batches, NextTokenPerceptionScore(6, 3, kept=0)).details().not_held_out == "no rows were kept"
    few = with_ids(batches, NextTokenPerceptionScore(6, 3, kept=10)).details()
    assert few.not_held_out == "10 rows were kept, at least 20 are needed"
    assert few.score == metric.details().score


def test_what_cannot_be_held_out_is_said(rng):
    samples, classes = sequences(rng)
    (hidden, mask), labels = pad(samples, filler=0), torch.tensor(classes)
    metric = NextTokenPerceptionScore(6, 3)
    metric.update(hidden, labels, mask, torch.arange(len(labels)), (torch.arange(len(labels)) > 30).long())
    assert "more than half" in metric.details().not_held_out
    metric = NextTokenPerceptionScore(6, 3)
    metric.update(hidden, labels, mask, torch.arange(len(labels)), torch.arange(len(labels)) % 5)
    assert "of 5 groups, at least 10" in metric.details().not_held_out
    metric = NextTokenPerceptionScore(6, 3)
    metric.update(hidden, labels, mask, torch.arange(len(labels)) // 2)
    assert metric.details().held_out.num_conflicts == int((labels[::2] != labels[1::2]).sum())
    for ids in (torch.arange(3), torch.rand(len(labels)), "words"):
        with pytest.raises(ValueError, match="sample_ids must be"):
            metric.update(hidden, labels, mask, ids)
    with pytest.raises(ValueError, match="kept must be a number of rows"):
        NextTokenPerceptionScore(6, 3, kept=-1)


def _arguments(batch):
    hidden, mask, labels = batch
    return hidden, labels, mask
