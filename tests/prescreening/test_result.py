"""What a result answers, and that it survives a file."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace

import pytest
import torch

from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.prescreening.result import Prescreen
from tests.support.measured import measured


@pytest.fixture(scope="module")
def found():
    rows = [measured(model, data, seed=i) for i, model in enumerate("ab") for data in ("x", "y")]
    return Prescreen(tuple(rows), {"limit": 150, "layers": "all"}, {"torch": "2.13.0"})


def same(first, second):
    """Every field, bit by bit."""
    if isinstance(first, torch.Tensor):
        return first.dtype == second.dtype and torch.equal(first, second)
    if hasattr(first, "__dataclass_fields__"):
        names = [field.name for field in fields(first)]
        return type(first) is type(second) and all(same(getattr(first, n), getattr(second, n)) for n in names)
    if isinstance(first, (tuple, list)):
        return type(first) is type(second) and len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[key], second[key]) for key in first)
    if isinstance(first, float) and math.isnan(first):
        return isinstance(second, float) and math.isnan(second)
    return type(first) is type(second) and first == second


@pytest.mark.compatibility("Prescreening", "result.json", "loads what was saved, every bit")
def test_a_file_holds_every_bit(found, tmp_path):
    odd = replace(found.measured[0].layers[0], log_me=-math.inf, rankme=math.nan, remarks=('"<&\n', "ü"))
    whole = replace(found.measured[0], model="odd", layers=(odd,), remarks=("one", "two"))
    regression = measured("c", "x", classes=False)
    written = replace(found, measured=(*found.measured, whole, regression))
    written.save(tmp_path / "result.json")
    json.loads((tmp_path / "result.json").read_text(), parse_constant=pytest.fail)
    again = Prescreen.load(tmp_path / "result.json")
    assert same(written.measured, again.measured)
    assert (again.settings, again.versions) == (written.settings, written.versions)
    assert again.to_json() == written.to_json()
    assert again.rank_models("x") == written.rank_models("x")


def test_the_comparison_above_sees_a_bit(found):
    layer = found.measured[0].layers[0]
    nudged = math.nextafter(layer.probe_r2.value, 1)
    assert not same(layer, replace(layer, probe_r2=replace(layer.probe_r2, value=nudged)))
    assert not same(
        Estimate(0.5, torch.zeros(2), torch.zeros(2), 2, 0.0), Estimate(0.5, torch.zeros(2), torch.ones(2), 2, 0.0)
    )


def test_a_file_of_another_format_is_refused(tmp_path):
    for text in ('{"format": 99}', "[]"):
        (tmp_path / "r.json").write_text(text)
        with pytest.raises(ValueError, match="this version reads 1"):
            Prescreen.load(tmp_path / "r.json")


def test_a_file_that_is_no_result_or_of_another_version_is_one_line(found, tmp_path):
    (tmp_path / "broken.json").write_text('{"format": 1, ')
    with pytest.raises(ValueError, match=r"broken.json is no result of prescreening: Expecting"):
        Prescreen.load(tmp_path / "broken.json")
    found.save(tmp_path / "result.json")
    state = json.loads((tmp_path / "result.json").read_text())
    changed = [
        {name: part for name, part in state.items() if name != "remarks"},
        {**state, "measured": [{"model": "a"}]},
    ]
    changed += [{**state, "measured": [{**state["measured"][0], "of_tomorrow": 1}]}]
    for each in changed:
        (tmp_path / "old.json").write_text(json.dumps(each))
        with pytest.raises(ValueError, match=r"old.json was written by another version .* prescreen again"):
            Prescreen.load(tmp_path / "old.json")


def test_names_may_be_left_out_where_there_is_one(found):
    assert found.best_layer("a", "x") == found.rank_layers("a", "x").ranked[0].layer == 1
    with pytest.raises(ValueError, match=r"there are several models \('a', 'b'\): say which"):
        found.best_layer(data="x")
    with pytest.raises(ValueError, match=r"there are several data sets \('x', 'y'\): say which"):
        found.rank_models()
    with pytest.raises(ValueError, match=r"there is no model 'c', but 'a', 'b'"):
        found.rank_data("c")
    one = replace(found, measured=found.measured[:1])
    assert one.best_layer() == 1
    assert len(one.rank_models().ranked) == len(one.rank_data().ranked) == 1
    gap = replace(found, measured=found.measured[:3])
    with pytest.raises(ValueError, match="model 'b' was not measured on data 'y'"):
        gap.of("b", "y")


def test_rankings_are_of_what_was_asked_for(found):
    assert {each.name for each in found.rank_models("x").ranked} == {"a", "b"}
    assert {each.name for each in found.rank_data("b").ranked} == {"x", "y"}


def test_a_pair_is_there_once(found):
    with pytest.raises(ValueError, match="model 'a' on data 'x' is there twice"):
        replace(found, measured=(*found.measured, found.measured[0]))
    with pytest.raises(ValueError, match="nothing was measured"):
        replace(found, measured=())


def test_a_frame_has_a_row_a_layer(found):
    frame = found.to_pandas()
    assert len(frame) == sum(len(each.layers) for each in found.measured)
    row = frame[(frame.model == "b") & (frame.data == "y") & (frame.layer == 2)].iloc[0]
    layer = found.of("b", "y").layers[2]
    assert (row.probe_r2, row.probe_r2_se) == (layer.probe_r2.value, layer.probe_r2.se)
    assert (row.with_twice_the_texts, row.with_twice_the_texts_se) == layer.expected[300]
    assert (row.with_four_times_the_texts, row.with_four_times_the_texts_se) == layer.expected[600]
    assert list(frame[frame.to_read].layer) == [found.best_layer(e.model, e.data) for e in found.measured]


def test_a_picture_has_a_panel_a_data_set(found):
    axes = found.plot().axes
    assert [axis.get_title() for axis in axes] == ["x", "y"]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["a", "b"]
    layers = found.of("b", "x").layers
    line = next(line for line in axes[0].lines if line.get_label() == "b")
    assert list(line.get_ydata()) == [layer.probe_r2.value for layer in layers]
    edges = {round(float(y), 9) for y in axes[0].collections[1].get_paths()[0].vertices[:, 1]}
    assert edges == {round(e.probe_r2.value + s * 2 * e.probe_r2.se, 9) for e in layers for s in (-1, 1)}


def test_a_picture_of_one_model_shows_few_directions_too(found):
    (axis,) = replace(found, measured=(measured(data="a $x_ b"),)).plot().axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == [
        "whole state",
        "3 autoregressive directions",
        "3 principal components",
    ]
    axis.figure.draw_without_rendering()
