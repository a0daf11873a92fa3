"""Prescreening beside a peer: what is asked of rows in worlds that are known, and the way from models to rows."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from benchmarks.prescreen import __main__ as command
from benchmarks.prescreen import analysis, cost, ours, peer, report, settings, texts, truth
from benchmarks.study.training import backbones
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.estimators import log_me
from tests.prescreening import tiny
from tests.support.data import pad, sequences
from tests.support.oracle import pool

ACCURACY = [0.5, 0.6, 0.9, 0.7]
R2 = [0.1, 0.2, 0.3, 0.4]
BASE = ("ours", "probe_r2")
PEER = ("peer", "hscore")


def made_up(model="smollm2", data="bbc", accuracy=ACCURACY, scale=1.0, **numbers):
    """A row of layers 0 to 3, of which the peer has the last three; numbers that are not given are constant."""
    layers = range(len(accuracy))
    row = {"model": model, "data": data, "num_tested": 10}
    row["test"] = {
        str(i): {"r2": R2[i], "accuracy": accuracy[i], "hits": truth.packed(np.arange(10) < 10 * accuracy[i])}
        for i in layers
    }
    for party, names in analysis.NUMBERS.items():
        values = {name: numbers.get(name, [1.0] * len(accuracy)) for name in names}
        of = layers if party == "ours" else layers[1:]
        row[party] = {str(i): {name: scale * each[i] for name, each in values.items()} for i in of}
    return row


# Layers.


def test_layers_are_compared_that_both_have():
    row = made_up(accuracy=[0.99, 0.6, 0.9, 0.7], probe_r2=[9, 1, 2, 3])
    assert analysis.shared(row) == ["1", "2", "3"]
    assert analysis.regret(row, BASE) == pytest.approx(0.9 - 0.7)  # not layer 0, which the number puts first


def test_a_number_that_follows_loses_nothing_and_its_mirror_the_most():
    row = made_up(probe_r2=ACCURACY, hscore=[-value for value in ACCURACY])
    assert analysis.follows(row, BASE, "accuracy") == pytest.approx(1)
    assert analysis.regret(row, BASE) == 0
    assert analysis.follows(row, PEER, "accuracy") == pytest.approx(-1)
    assert analysis.regret(row, PEER) == pytest.approx(0.3)
    assert analysis.follows(row, BASE, "r2") == pytest.approx(0.5)  # by hand: ranks 1 3 2 and 1 2 3


def test_a_number_that_is_the_same_everywhere_chooses_at_random():
    row = made_up(hscore=[1, 1, 1 + 1e-6, 1 - 1e-6])
    assert analysis.regret(row, PEER) == pytest.approx(0.9 - np.mean(ACCURACY[1:]))
    assert analysis.follows(row, PEER, "accuracy") == 0
    assert "ours probe_r2 is the same in all layers in 1 of 1 rows." in report.constant_lines([row])


def test_negative_numbers_have_a_highest_too():
    assert analysis.highest(np.array([-3.0, -1.0, -1.00001])).tolist() == [False, True, True]


def test_intervals_are_of_sets():
    mean, low, high = analysis.interval({"a": 0.0, "b": 1.0, "c": 1.0, "d": 0.0})
    assert mean == 0.5
    assert (low, high) == (0, 1)
    assert analysis.interval({"a": 0.3}) == pytest.approx((0.3, 0.3, 0.3))


# Models.


def pair(**numbers):
    """Gemma's probe reads every layer .05 better."""
    better = [value + 0.05 for value in ACCURACY]
    return {"smollm2": made_up(probe_r2=ACCURACY, **numbers), "gemma3": made_up("gemma3", accuracy=better, **numbers)}


def test_the_model_whose_number_is_higher_is_chosen():
    rows = pair(hscore=[0, 1, 2, 3], logme=[0, 2, 3, 1])
    rows["gemma3"]["peer"]["3"]["hscore"] = 2.9  # still its highest layer, but below the other model's
    wrong = analysis.choose(rows, PEER)
    assert wrong.right == 0
    assert wrong.lost == pytest.approx(0.05)  # layer 3 of one model against layer 3 of the other
    assert wrong.lost_of_all == pytest.approx(0.95 - 0.7)
    assert wrong.levels == {"smollm2": 3, "gemma3": 2.9}
    rows["gemma3"]["peer"]["2"]["logme"] = 3.5
    right = analysis.choose(rows, ("peer", "logme"))
    assert (right.right, right.lost, right.lost_of_all) == (1, 0, 0)


def test_a_number_that_is_the_same_for_both_is_half_right():
    found = analysis.choose(pair(hscore=[0, 1, 2, 3]), PEER)
    assert found.right == 0.5
    assert found.lost == pytest.approx(0.025)


def choice_row(lead, lead_se, settled, first="smollm2"):
    second = {"smollm2": "gemma3", "gemma3": "smollm2"}[first]
    ranked = [{"name": name, "layer": 1} for name in (first, second)]
    return {"data": "bbc", "ranked": ranked, "lead": lead, "lead_se": lead_se, "settled": settled}


def test_a_tie_is_told_from_what_is_settled_and_held_against_the_test():
    rows = {"smollm2": made_up(), "gemma3": made_up("gemma3", accuracy=[0.5, 0.9, 0.9, 0.7])}  # layer 1: .6 and .9
    tie = analysis.verdict(choice_row(0.01, 0.2, False), rows)
    assert tie == analysis.Verdict(settled=False, right=False, difference=pytest.approx(-0.3), covered=True)
    # Three of ten texts differ: the test's own error is sqrt(.21 * 10/9 / 10), so that .3 is 1.96 of them away from 0.
    assert not analysis.verdict(choice_row(0.05, 0.001, True), rows).covered
    assert analysis.verdict(choice_row(-0.05, 0.001, True), rows).covered
    assert analysis.verdict(choice_row(0.3, 0.001, True, first="gemma3"), rows).right
    said = report.verdict_lines([tie, analysis.verdict(choice_row(0.3, 0.1, True, first="gemma3"), rows)])
    assert said[0].startswith("Ours settles 1 of 2 sets, 1 of them right; 1 are ties, in 0 of which")
    assert "2 of 2, 1 of 1 ties" in said[1]
    assert "30.0 points apart" in said[2]


def test_hits_come_back_as_they_were():
    hits = np.random.default_rng(0).random(83) < 0.5
    assert truth.unpacked(truth.packed(hits), 83).tolist() == hits.tolist()


# From models to rows.


@pytest.fixture
def world(tmp_path, monkeypatch):
    """Tiny models in place of both, and made-up texts in place of every set."""
    for seed, name in enumerate(settings.MODELS):
        folder = str(tiny.llama_folder(tmp_path / name, seed))
        monkeypatch.setitem(backbones.FOLDERS, name, lambda folder=folder: folder)
    monkeypatch.setattr(texts, "read", lambda _: [(row["text"], row["label"]) for row in tiny.rows(200)])
    monkeypatch.setattr(ours, "OPTIONS", ours.OPTIONS | {"cache": tmp_path / "cache"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield {"data": "bbc", "measured": 90, "tested": 60}


def test_splits_share_no_text_and_classes_of_one_text_are_left_out(monkeypatch):
    pairs = [(f"text {i}", "rare" if i == 0 else "ab"[i % 2]) for i in range(100)]
    monkeypatch.setattr(texts, "read", lambda _: list(pairs))
    found = texts.split("any", 60, 40)
    assert found.num_classes == 2
    assert len(found.measured) + len(found.tested) == 99
    assert not {text for text, _ in found.measured} & {text for text, _ in found.tested}
    assert all("ab"[label] == dict(pairs)[text] for text, label in found.measured + found.tested)


def test_states_are_means_over_the_tokens_that_prescreening_sees(world):
    reader, decoder = backbones.tokenizer("smollm2"), backbones.backbone("smollm2")
    some = [*[text for text, _ in texts.split(**world).measured[:5]], "the team " * 30]
    found = truth.pooled(decoder, reader, some)
    for row, text in enumerate(some):
        ids = torch.tensor([reader(text)["input_ids"][: settings.LENGTH]])
        for layer, states in enumerate(decoder(input_ids=ids, output_hidden_states=True).hidden_states):
            torch.testing.assert_close(found[layer][row], states[0].mean(0))


def test_rows_of_layers_have_what_is_asked_of_them(world):
    rows = []
    for model in settings.MODELS:
        test, said = truth.layers(model, **world), ours.layers(model, **world)
        assert set(test["layers"]) == set(said["layers"])
        hits = truth.unpacked(test["layers"][2]["hits"], test["num_tested"])
        assert hits.mean() == pytest.approx(test["layers"][2]["accuracy"])
        theirs = {layer: dict.fromkeys(analysis.NUMBERS["peer"], 1.0) for layer in list(said["layers"])[1:]}
        row = {"test": test.pop("layers"), **test, "ours": said["layers"], "peer": theirs, "model": model}
        rows.append(json.loads(json.dumps(row | {"data": "bbc"})))
        assert set(said["layers"][0]) == set(analysis.NUMBERS["ours"])
        # Made to be told by their words: far above the chance of a third.
        assert test["num_classes"] == 3
        assert max(layer["accuracy"] for layer in row["test"].values()) > 0.5
    choice = ours.choice(**world)
    own = {row["model"]: row["ours"] for row in rows}
    first, second = (own[each["name"]][str(each["layer"])] for each in choice["ranked"])
    assert choice["ranked"][0]["value"] == pytest.approx(first["probe_r2"])
    assert choice["lead"] == pytest.approx(first["probe_accuracy"] - second["probe_accuracy"])
    report.layer_tables(rows)
    report.choice_tables(rows, [json.loads(json.dumps(choice)) | {"data": "bbc"}])


@pytest.mark.skipif(not peer.installed(), reason="transformer-ranker is not installed: python -m benchmarks.prescreen")
def test_the_peer_reads_the_same_layers(world, monkeypatch):
    """Of texts whose words are tokens its embeddings are ours."""
    monkeypatch.syspath_prepend(str(peer.FOLDER))
    found = peer.layers("smollm2", **world)["layers"]
    pairs = texts.split(**world).measured
    states = truth.pooled(backbones.backbone("smollm2"), backbones.tokenizer("smollm2"), [text for text, _ in pairs])
    labels = torch.tensor([label for _, label in pairs])
    assert list(found) == list(range(1, len(states)))
    estimators = peer.load("transformer_ranker.estimators")
    for layer, said in found.items():
        assert said["hscore"] == pytest.approx(estimators.HScore().fit(states[layer], labels), rel=1e-3)
        assert said["knn"] == pytest.approx(estimators.NearestNeighbors().fit(states[layer], labels), abs=0.05)


def test_a_meter_tells_parts_apart():
    class Library:
        def gather(self):
            busy(0.05)
            return model.model(input_ids=torch.ones(1, 3, dtype=torch.long))

        def estimate(self):
            busy(0.2)

    def busy(seconds):
        begin = cost.time.process_time()
        while cost.time.process_time() - begin < seconds:
            pass

    model: LlamaForCausalLM = tiny.llama()
    meter = cost.Meter(model.model)
    meter.watch("gathering", Library, ["gather"])
    meter.watch("estimation", Library, ["estimate"])
    found = meter.of(lambda: (Library().gather(), Library().estimate(), torch.zeros(2**24)))
    assert found["seconds"]["gathering"] == pytest.approx(0.05, abs=0.03)
    assert found["seconds"]["estimation"] == pytest.approx(0.2, abs=0.05)
    assert found["seconds"]["model"] > 0
    assert found["peak_bytes"] > 0.9 * 2**26  # pages that were free before are not seen


def test_what_has_a_row_is_not_measured_again(tmp_path, monkeypatch):
    asked = []

    def measured(party, what, **options):
        asked.append((party, what, options.get("n")))
        return {"seconds": {"model": 1.0, "gathering": 2.0, "estimation": 3.0}, "wall": 9.0, "peak_bytes": 2**20}

    monkeypatch.setattr(command, "measure", measured)
    scale = settings.Scale(sizes=(10, 20), rounds=2)
    command.Benchmark(tmp_path, scale).cost()
    first, second = asked[: len(asked) // 2], asked[len(asked) // 2 :]
    assert first == [(who, "cost", n) for n in (10, 20) for who in settings.PARTIES.values()]
    assert second == [(who, "cost", n) for n in (10, 20) for who in list(settings.PARTIES.values())[::-1]]
    command.Benchmark(tmp_path, scale).cost()
    assert len(asked) == len(first + second)
    row = json.loads((tmp_path / "cost.jsonl").read_text().splitlines()[0])
    assert row["versions"]["transformer-ranker"] == peer.VERSION
    assert {"seed", "length", "n", "party", "round"} <= set(row)
    assert report.cost_cells([row]) == ["3.0", "1.0", "3.0", "0.0", "1"]


@pytest.mark.slow
@pytest.mark.skipif(not peer.installed(), reason="transformer-ranker is not installed: python -m benchmarks.prescreen")
def test_a_toy_measurement_of_each_library(tmp_path):
    """In processes of their own, on the real model and texts."""
    scale = settings.Scale(sizes=(30,), rounds=1)
    benchmark = command.Benchmark(tmp_path, scale)
    benchmark.cost()
    rows = [json.loads(line) for line in (tmp_path / "cost.jsonl").read_text().splitlines()]
    assert [row["party"] for row in rows] == list(settings.PARTIES)
    assert all(min(row["seconds"][part] for part in cost.PARTS) > 0 and row["peak_bytes"] > 0 for row in rows)
    benchmark.report()


@pytest.mark.skipif(not peer.installed(), reason="transformer-ranker is not installed: python -m benchmarks.prescreen")
@pytest.mark.parametrize("regression", [False, True])
def test_log_me_is_the_peers_on_the_same_states(rng, monkeypatch, regression):
    """With more texts than dimensions; it starts a class's fixed point where the one before has ended."""
    monkeypatch.syspath_prepend(str(peer.FOLDER))
    samples, labels = sequences(rng, n=300, d=24, classes=4)
    targets = torch.tensor(labels + rng.normal(size=300)) if regression else torch.tensor(labels)
    hidden, mask = pad(samples)
    estimator = peer.load("transformer_ranker.estimators").LogME(regression=regression)
    theirs = estimator.fit(torch.tensor(pool(samples)), targets)
    assert log_me(batch_moments(hidden, targets, mask)).item() == pytest.approx(theirs, rel=1e-6)
