"""Orders of layers, models and data sets, and how sure they are said to be."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import pytest
from scipy.stats import norm

from ntps_lightning import NTPSMonitor
from ntps_lightning.prescreening.ranking import KEPT, layer_to_read, rank_data, rank_layers, rank_models, two_digits
from ntps_lightning.prescreening.report.words import labels_cell, to_settle
from tests.support.measured import estimate, measured


@pytest.fixture(scope="module")
def one():
    return measured()


def with_r2(row, *estimates):
    """The row with these estimates as its layers' R²."""
    layers = [replace(row.layers[0], layer=i, probe_r2=each) for i, each in enumerate(estimates)]
    return replace(row, layers=tuple(layers))


def test_layers_are_ordered_by_r2_and_the_first_is_the_one_to_read(one):
    found = rank_layers(one)
    values = {layer.layer: layer.probe_r2.value for layer in one.layers}
    assert [each.layer for each in found.ranked] == sorted(values, key=values.get, reverse=True)
    assert layer_to_read(one).layer == found.ranked[0].layer == 1
    assert (found.of, found.labels) == ("layers", one.num_kept)
    assert all(each.value == values[each.layer] for each in found.ranked)
    assert found.ranked[0].behind == (0, 0)


def test_differences_on_the_same_texts_are_paired(one):
    first, second, _ = rank_layers(one).ranked
    estimates = {layer.layer: layer.probe_r2 for layer in one.layers}
    paired = estimates[first.layer].minus(estimates[second.layer])
    assert second.behind == pytest.approx((paired.value, paired.se), rel=1e-6)
    assert second.behind[1] < math.hypot(first.se, second.se)


def test_models_stand_by_r2_with_accuracy_beside_it(one):
    other = measured("other", noises=(0.9, 3.0), seed=7)
    found = rank_models([one, other])
    by_name = {each.name: each for each in found.ranked}
    for name, layer in (("model", one.layers[1]), ("other", other.layers[0])):
        assert by_name[name].value == layer.probe_r2.value
        assert by_name[name].accuracy == (layer.probe_accuracy.value, layer.probe_accuracy.se)
    paired = one.layers[1].probe_r2.minus(other.layers[0].probe_r2)
    assert found.ranked[1].behind[1] == pytest.approx(paired.se, rel=1e-6)


def test_a_model_that_reads_nothing_is_not_the_best_whatever_its_accuracy(one):
    """A silenced probe's accuracy, left out one by one, is anything with any error."""
    layer = one.layers[1]
    deaf = measured("deaf", noises=(1e4,), seed=5).layers[0]
    assert deaf.reads_nothing
    assert deaf.accuracy is None
    lucky = replace(deaf, probe_accuracy=replace(layer.probe_accuracy, value=0.99, own=9 * layer.probe_accuracy.own))
    found = rank_models([one, replace(measured("deaf", noises=(1e4,), seed=5), layers=(lucky,))])
    assert [each.name for each in found.ranked] == ["model", "deaf"]
    assert not found.ranked[1].may_be_best
    assert found.ranked[1].accuracy is None


@pytest.mark.parametrize("change", [{"data_id": "else"}, {"num_samples": 151}, {"groups": 5}])
def test_models_that_read_other_texts_are_not_paired(one, change):
    other = measured("other", seed=7)
    if "groups" in change:
        layers = tuple(replace(layer, **change) for layer in other.layers)
        change = {"layers": layers}
    found = rank_models([one, replace(other, **change)])
    first, second = found.ranked
    assert second.behind[1] == pytest.approx(math.hypot(first.se, second.se), rel=1e-6)
    (said,) = found.remarks
    assert said.startswith(f"{second.name}: not read on the same texts as {first.name}")
    assert not rank_models([one, other]).remarks


def test_models_without_classes_have_no_accuracy():
    found = rank_models([measured("a", classes=False), measured("b", classes=False, seed=3)])
    assert [each.accuracy for each in found.ranked] == [None, None]


def test_data_sets_stand_by_r2_unpaired(one):
    found = rank_data([one, measured(data="other", noises=(0.2,))])
    first, second = found.ranked
    assert second.behind[1] == pytest.approx(math.hypot(first.se, second.se), rel=1e-6)


def test_a_clear_first_is_settled_and_a_copy_of_it_is_not(one):
    clear = with_r2(one, estimate(0.9, [0.01, -0.01] * 20), estimate(0.1, [0.01, -0.01, -0.01, 0.01] * 10))
    assert rank_layers(clear).settled
    assert [each.ranks for each in rank_layers(clear).ranked] == [(1, 1), (2, 2)]
    twice = with_r2(one, *[estimate(0.9, [0.01, -0.01] * 20)] * 2)
    found = rank_layers(twice)
    assert [each.layer for each in found.ties] == [1]
    assert found.labels_to_settle is None


def test_labels_that_would_settle_it_follow_the_square_root():
    """With so many a difference of .02 is 2.8 standard errors, of which a test at 95% finds four in five (scipy)."""
    row = with_r2(measured(), estimate(0.52, [0.05, -0.05] * 10), estimate(0.5, [0.0] * 20))
    se = rank_layers(row).ranked[1].behind[1]
    found = rank_layers(row).labels_to_settle
    reached = 0.02 / (se / math.sqrt(found / 150))
    assert 0.8 <= norm.sf(1.96 - reached) < 0.83


def test_the_same_number_of_other_predictions_and_the_same_predictions_have_no_labels_to_settle(one):
    other = [estimate(0.5, [0.05, -0.05] * 10), estimate(0.5, [0.0] * 20)]
    found = rank_layers(with_r2(one, *other))
    assert found.labels_to_settle is None
    assert "have the same number here, ± 0.2" in to_settle(found)
    same = rank_layers(with_r2(one, other[0], other[0]))
    assert same.labels_to_settle is None
    assert "they read the same" in to_settle(same)
    assert rank_layers(with_r2(one, other[0], replace(other[0], value=0.4))).labels_to_settle is None


def test_labels_are_those_of_kept_texts_and_no_more_than_are_kept_settle_it(one):
    """A quarter of 600 texts was kept: 150 were read on."""
    pair = [
        replace(estimate(value, own), unseen=60.0) for value, own in ((0.52, [0.05, -0.05] * 10), (0.5, [0.0] * 20))
    ]
    found = rank_layers(replace(with_r2(one, *pair), num_samples=600))
    assert found.labels == 150
    se = found.ranked[1].behind[1]
    assert found.labels_to_settle == two_digits(150 * (2.8 * se / 0.02) ** 2) > 2048
    assert found.beyond_kept
    assert "no more than 2,048 texts of a set are read" in to_settle(found)
    near = rank_layers(replace(with_r2(one, replace(pair[0], value=0.7), pair[1]), num_samples=600))
    assert not near.beyond_kept
    assert 150 < near.labels_to_settle <= 2048
    assert "2,048" not in to_settle(near)


def test_as_many_labels_as_a_monitor_keeps_are_read():
    assert inspect.signature(NTPSMonitor).parameters["kept"].default == KEPT


def test_a_table_has_no_labels_to_settle_that_are_at_hand(one):
    found = rank_layers(with_r2(one, estimate(0.52, [0.05, -0.05] * 10), estimate(0.5, [0.0] * 20)))
    assert labels_cell(found) == f"{found.labels_to_settle:,}"
    assert labels_cell(replace(found, at_hand=True)) == "at hand"
    assert labels_cell(replace(found, labels_to_settle=None)) == "not known"
    assert labels_cell(replace(found, labels_to_settle=24_000_000)) == "> 1,000,000"
    assert labels_cell(rank_layers(with_r2(one, estimate(0.9, [0.01, -0.01] * 10), estimate(0.1, [0.0] * 20)))) == "-"


def test_labels_are_at_hand_where_both_have_so_many(one):
    """Two by two ahead by 2.85 standard errors, among sixty not; a smaller set lacks labels that a larger one has."""
    influences = [[0.05 * (j == 2 * i) - 0.05 * (j == 2 * i + 1) for j in range(120)] for i in range(60)]
    lead = 2.85 * 0.05 * 2
    layers = [estimate(0.5 + lead * (i == 0), each) for i, each in enumerate(influences)]
    found = rank_layers(with_r2(one, *layers))
    assert found.ranked[1].behind[0] / found.ranked[1].behind[1] == pytest.approx(2.85, rel=0.01)
    assert len(found.ties) == 59
    assert found.at_hand
    assert to_settle(found).startswith("Two by two layer 0 is ahead of layer 1, the hardest of these, already")
    large = replace(with_r2(one, estimate(0.57, [0.0025, -0.0025] * 10)), num_samples=2000)
    small = replace(with_r2(measured(data="b"), estimate(0.5, [0.01, -0.01] * 10)), num_samples=100)
    found = rank_data([large, small])
    assert found.ties
    assert 100 < found.labels_to_settle <= found.labels == 2000
    assert not found.at_hand
    assert "would take about" in to_settle(found)


def test_of_two_data_sets_each_needs_so_many():
    one = replace(with_r2(measured(), estimate(0.6, [0.02, -0.02] * 10)), num_samples=100)
    other = replace(with_r2(measured(data="b"), estimate(0.5, [0.04, -0.04] * 10)), num_samples=400)
    found = rank_data([one, other]).labels_to_settle
    errors = (math.sqrt(20) * 0.02) ** 2 * 100 / found + (math.sqrt(20) * 0.04) ** 2 * 400 / found
    assert 0.95 * 0.1 <= 2.8 * math.sqrt(errors) <= 0.1


@pytest.mark.parametrize(("count", "said"), [(0.2, 1), (7.1, 8), (99.5, 100), (101, 110), (1234, 1300), (1000, 1000)])
def test_two_digits_are_rounded_up(count, said):
    assert two_digits(count) == said


def test_a_choice_among_equal_layers_is_remarked_on(one):
    """Ten layers with errors of their own, none better: the highest is 1.54 standard errors too high."""
    layers = []
    for i in range(10):
        influences = [0.0] * 20
        influences[2 * i : 2 * i + 2] = [0.05, -0.05]
        layers.append(estimate(0.5, influences))
    found = rank_layers(with_r2(one, *layers))
    first = found.ranked[0]
    assert first.flatters / first.se == pytest.approx(1.54, abs=0.05)
    assert len(found.remarks) == 1
    assert found.remarks[0].startswith("layer 0: its number may be about 0.10")
    clear = rank_layers(with_r2(one, layers[0], replace(layers[1], value=0.0)))
    assert not clear.remarks


def test_a_lead_that_more_layers_flatter_is_remarked_on(one):
    """Ten equal layers against one that reads the same texts: the lead, not the number, is what is compared with."""
    shared = [0.2, -0.2] * 10
    layers = []
    for i in range(10):
        influences = list(shared)
        influences[2 * i] += 0.05
        influences[2 * i + 1] -= 0.05
        layers.append(estimate(0.5, influences))
    many, single = with_r2(one, *layers), replace(with_r2(one, estimate(0.49, shared)), model="single")
    found = rank_models([many, single])
    first, second = found.ranked
    assert first.flatters < 0.5 * first.se
    assert first.flatters > 0.5 * second.behind[1]
    (said,) = found.remarks
    assert said.startswith(f"model may be about {first.flatters:.3f} too far ahead of single")
    assert not rank_models([many, replace(many, model="like it")]).remarks


def test_a_ranking_is_the_same_every_time(one):
    assert rank_layers(one) == rank_layers(one)


def test_what_settles_it_is_the_hardest_of_those_that_may_be_best(one):
    """The second is close behind with a small error, and is none of them."""
    near = [0.5, -0.5] * 10
    far = [0.5, -0.5, -0.5, 0.5] * 5
    close = [near[i] + (0.001 if i % 2 else -0.001) for i in range(20)]
    row = with_r2(one, estimate(0.5, near), estimate(0.46, close), estimate(0.4, far))
    found = rank_layers(row)
    assert [each.layer for each in found.ranked] == [0, 1, 2]
    assert [each.layer for each in found.ties] == [2]
    assert found.hardest == "layer 2"
    assert found.labels_to_settle == two_digits(found.labels * (2.8 * found.ranked[2].behind[1] / 0.1) ** 2)
    assert to_settle(found).startswith("To tell layer 0 from layer 2 in four of five samples")
    more = rank_layers(with_r2(one, *[layer.probe_r2 for layer in row.layers], estimate(0.1, far)))
    assert [each.layer for each in more.ties] == [2, 3]
    assert more.hardest == "layer 2"
    assert "from layer 2, the hardest of these, in four" in to_settle(more)
    assert rank_layers(with_r2(one, estimate(0.9, near), estimate(0.1, close))).hardest is None
