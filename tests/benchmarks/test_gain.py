"""The study of LoRA's gain: its tasks, its arithmetic in known worlds, and its way from run to row to report."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.stats import rankdata
from transformers import LlamaModel

from benchmarks.decisions.rows import Rows
from benchmarks.gain import __main__ as command
from benchmarks.gain import analysis, bases, machine, report, settings, texts, timing, training
from benchmarks.gain.analysis import (
    NUMBERS,
    Outcome,
    correlations,
    outcomes,
    partial_rank_correlations,
    rank_correlations,
)
from benchmarks.gain.settings import FREQUENT, SEEDS, SETS, Scale, tasks
from benchmarks.study.analysis.candidate import spearman
from benchmarks.study.report.tables import verdict
from benchmarks.study.texts import archives
from benchmarks.study.texts.readers import OTHERS, READERS, read
from tests.support import ROOT
from tests.support.models import tiny_config

SMALL = Scale(texts=40, length=6, validation=8, steps=4, batch_size=8, evaluations=2, lora_rank=4)


# Tasks.


def test_tasks_are_whole_sets_and_consecutive_pairs_of_frequent_classes():
    whole = [task.data for task in tasks() if not task.classes]
    assert whole == list(SETS)
    assert set(SETS) == {*READERS, *OTHERS} - {"tweets3"}  # which contains airline3
    pairs = [(task.data, *task.classes) for task in tasks() if task.classes]
    assert pairs == [(data, a, b) for data, classes in FREQUENT.items() for a, b in pairwise(classes)]
    assert len({(data, frozenset(classes)) for data, *classes in pairs}) == len(pairs)
    assert len({task.name for task in tasks()}) == len(tasks()) >= 25


@pytest.mark.slow
@pytest.mark.skipif(not all((archives.FOLDER / name).exists() for name in archives.ARCHIVES), reason="no archives")
def test_the_classes_are_those_that_the_rule_chooses():
    for data in SETS:
        counts = Counter(label for _, label in read(data))
        chosen = sorted(counts, key=lambda label: (-counts[label], label))[:4]
        assert FREQUENT.get(data) == (tuple(chosen) if len(counts) > 2 else None)


def pairs(count, classes=("b", "a")):
    return [((i % 20, i // 20, 1, 2), classes[i % len(classes)]) for i in range(count)]


@pytest.mark.parametrize(("count", "size"), [(100, 40), (61, 30)])
def test_windows_are_split_once_and_in_whole_batches(count, size):
    found = texts.split(pairs(count), SMALL)
    again = texts.split(pairs(count), SMALL)
    parts = found.held_back(SMALL)
    assert len(found.train) == len(found.test) == size
    assert len(parts[0]) % SMALL.batch_size == 0
    assert len(parts[1]) >= min(SMALL.validation, size // 4)
    seen = [tuple(ids) for part in (*parts, found.test) for ids in part.ids.tolist()]
    assert len(set(seen)) == len(seen) == 2 * size
    assert torch.equal(found.test.ids, again.test.ids)
    truth = {ids: ["a", "b"].index(label) for ids, label in pairs(count)}
    for part in (*parts, found.test):
        assert part.labels.tolist() == [truth[tuple(ids)] for ids in part.ids.tolist()]


def test_windows_are_the_first_tokens_and_no_two_alike(tmp_path, monkeypatch):
    rows = [("a b c d e f g h", "x"), ("a b c d e f other", "y"), ("z y x w v", "y"), ("z y x", "x"), ("q r s t", "w")]
    words = sorted({word for text, _ in rows for word in text.split()})
    monkeypatch.setattr(texts, "FOLDER", tmp_path)
    monkeypatch.setattr(texts, "read", lambda name: rows)
    encode = lambda given, **_: {"input_ids": [[words.index(word) for word in text.split()] for text in given]}  # noqa: E731
    monkeypatch.setattr(texts, "tokenizer", lambda name: encode)
    found = texts.texts(settings.Task("set", ("x", "y")), "model", SMALL)
    kept = found.train.ids.tolist() + found.test.ids.tolist()
    assert sorted(len(ids) for ids in kept) == [5, 6]
    assert found.num_classes == 2
    monkeypatch.setattr(texts, "read", None)  # it is not read again
    assert texts.texts(settings.Task("set"), "model", SMALL).num_classes == 3


# Arithmetic.


def outcome(name="task", data="set", probe=0.8, lora=0.9, num_test=400, **numbers):
    return Outcome(name, data, numbers, probe, lora, lora, num_test, num_test)


def test_gain_is_the_share_of_the_probes_errors_that_lora_does_not_make(rng):
    assert outcome(probe=0.8, lora=0.9).gain == pytest.approx(0.5)
    assert outcome(probe=0.8, lora=0.7).gain == pytest.approx(-0.5)
    probe, lora = (rng.binomial(400, share, 20_000) / 400 for share in (0.8, 0.9))
    assert outcome().gain_error == pytest.approx(((lora - probe) / (1 - probe)).std(), rel=0.05)


def test_rank_correlations_are_those_of_repeated_samples(rng):
    x, y = rng.integers(12, size=(2, 20))
    weights = rng.multinomial(20, [1 / 20] * 20, size=50)
    found = rank_correlations(x, y, weights)
    assert found == pytest.approx([spearman(x.repeat(each), y.repeat(each)) for each in weights])
    assert (rank_correlations(x * 0, y, weights) == 0).all()


def test_the_partial_rank_correlation_is_that_of_residuals(rng):
    given = rng.normal(size=40)
    x, y = given + rng.normal(size=(2, 40))
    ranks = [rankdata(each) - 20.5 for each in (x, y, given)]
    left = [each - ranks[2] * (each @ ranks[2]) / (ranks[2] @ ranks[2]) for each in ranks[:2]]
    once = np.ones((1, 40))
    assert partial_rank_correlations(x, y, given, once) == pytest.approx(np.corrcoef(*left)[0, 1])
    assert partial_rank_correlations(given, y, given, once) == 0


def test_the_bootstrap_draws_sets_with_all_their_tasks():
    sizes = {"a": 4, "b": 1, "c": 3}
    found = [outcome(f"{data}{i}", data) for data, size in sizes.items() for i in range(size)]
    weights = analysis.draws(found)
    assert weights.shape == (1 + 2000, 8)
    assert (weights[0] == 1).all()
    for columns in (weights[:, :4], weights[:, 5:]):
        assert (columns == columns[:, :1]).all()
    assert (weights[:, [0, 4, 5]].sum(1) == 3).all()
    assert weights[1:].mean(0) == pytest.approx(1, abs=0.06)
    assert analysis.interval(weights.sum(1)) == {"mean": 8, "low": 3, "high": 12}


def world(seed, slope, probed=0.0):
    """Rows of all tasks: the gain is ``slope`` times the score and noise, and ``probed`` times the probe's accuracy."""
    rng = np.random.default_rng(seed)
    rows = []
    for task in tasks():
        of_set = np.random.default_rng(sum(map(ord, task.data)) + 1000 * seed).normal()
        probe = float(np.clip(0.75 + 0.08 * of_set + 0.04 * rng.normal(), 0.5, 0.97))
        score = float(rng.normal() + probed * (probe - 0.75) * 10)
        gain = 0.3 + 0.05 * slope * score + 0.4 * probed * (probe - 0.75) + 0.03 * rng.normal()
        numbers = {name: [score, 0.1] if name == "probe_r2" else score for name in NUMBERS} | {"captured": None}
        about = {"model": "smollm2", "task": task.name, "data": task.data, "device": "fake"}
        rows.append(
            about
            | {"kind": "base", "num_train": 4000, "num_test": 4000, "probe_accuracy": probe}
            | {"layers": {"last": numbers, "middle": numbers}}
        )
        lora = probe + gain * (1 - probe)
        rows += [
            about | {"kind": "lora", "seed": s, "accuracy": lora + d, "last_accuracy": lora}
            for s, d in ((0, 0.01), (1, -0.01))
        ]
    return rows


@pytest.mark.parametrize(("slope", "said"), [(-1, "yes"), (1, "no")])
def test_a_world_where_the_claim_holds_and_one_where_its_opposite_does(slope, said):
    numbers = correlations(outcomes(world(1, slope), "smollm2", SEEDS))
    for kind in ("gain", "gain given the probe"):
        found = numbers["score, last"][kind]
        assert verdict(found, negative=True) == said
        assert abs(found["mean"]) > 0.7
    assert numbers["captured, last"] == {}
    assert "gain given the probe" not in numbers["probe, test texts"]


def test_a_world_without_relation_is_not_said_to_have_one(monkeypatch):
    monkeypatch.setattr(analysis, "NUMBERS", ("score",))
    found = [correlations(outcomes(world(seed, 0), "smollm2", SEEDS))["score, last"]["gain"] for seed in range(20)]
    assert sum(each["low"] <= 0 <= each["high"] for each in found) >= 16
    assert abs(np.mean([each["mean"] for each in found])) < 0.12


def test_what_the_probe_tells_by_itself_is_not_put_down_to_the_score():
    found = correlations(outcomes(world(4, 0, probed=1.0), "smollm2", SEEDS))["score, last"]
    assert found["gain"]["low"] > 0
    assert found["gain given the probe"]["low"] < 0 < found["gain given the probe"]["high"]


def test_tasks_without_all_runs_or_without_errors_are_left_out():
    rows = world(0, 0)
    rows[0]["probe_accuracy"] = 1.0
    del rows[-1]
    names = [each.name for each in outcomes(rows, "smollm2", SEEDS)]
    assert names == [task.name for task in tasks()][1:-1]
    assert outcomes(rows, "gemma3", SEEDS) == []


# Models and runs.


@pytest.fixture
def tiny(monkeypatch):
    """A decoder in the place of SmolLM2."""

    def make(name):
        torch.manual_seed(0)
        return LlamaModel(tiny_config(num_hidden_layers=3, vocab_size=200)).eval().requires_grad_(False)

    monkeypatch.setattr(bases, "backbone", make)
    monkeypatch.setattr(training, "backbone", make)
    return make("tiny")


def test_lora_is_in_all_blocks_and_padding_changes_nothing(tiny):
    model = training.Classifier("tiny", SMALL, 3, seed=0).to(training.DEVICE).eval()
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    blocks = {(name.split("layers.")[1][0], name.split("self_attn.")[1][0]) for name in trained if "lora" in name}
    assert blocks == {(block, part) for block in "012" for part in "qkv"}
    assert {name for name in trained if "lora" not in name} == {"head.weight", "head.bias"}
    found = texts.split(pairs(40), SMALL).train
    more = torch.nn.functional.pad(found.ids, (0, 3), value=7), torch.nn.functional.pad(found.mask, (0, 3))
    assert torch.allclose(model(found.ids, found.mask), model(*more), atol=1e-5)


def test_a_base_row_has_all_numbers_of_the_training_texts_and_the_probe_reads_the_test_texts(tiny, monkeypatch):
    found = texts.split(pairs(600), Scale(texts=280, length=6))
    monkeypatch.setattr(bases, "BATCH", 64)
    metrics, pooled = bases.base_pass("tiny", found)
    hidden = tiny.to(bases.DEVICE)(input_ids=found.test.ids, attention_mask=found.test.mask).last_hidden_state
    mask = found.test.mask.unsqueeze(-1)
    assert torch.allclose(pooled["test"], ((hidden * mask).sum(1) / mask.sum(1)).cpu(), atol=1e-5)
    assert {name: int(metric.num_samples) for name, metric in metrics.items()} == {"last": 280, "middle": 280}
    row = bases.base_row("tiny", found)
    assert set(row["layers"]) == {"last", "middle"}
    for layer in row["layers"].values():
        assert {*NUMBERS, "null"} <= set(layer)
        accuracy, error, size = layer["predicted_accuracy"]
        assert size == 560
        assert error > 0
        assert accuracy == pytest.approx(layer["probe_accuracy"][0], abs=0.2)
    assert row["probe_accuracy"] == pytest.approx(layer["probe_accuracy"][0], abs=0.15)
    assert (row["num_train"], row["num_test"], row["num_classes"]) == (280, 280, 2)


def test_a_run_is_chosen_by_validation_accuracy(tiny):
    stages = [{"val_accuracy": v, "test_accuracy": t} for v, t in ((0.5, 0.9), (0.8, 0.6), (0.8, 0.7), (0.7, 0.8))]
    assert training.chosen(stages)["test_accuracy"] == 0.6
    row = training.run_row("tiny", texts.split(pairs(100), SMALL), SMALL, 0, iter)
    assert [stage["step"] for stage in row["stages"]] == [2, 4]
    assert row["accuracy"] == training.chosen(row["stages"])["test_accuracy"]
    assert row["last_accuracy"] == row["stages"][-1]["test_accuracy"]
    assert (row["num_trained"], row["num_validation"]) == (32, 8)


def test_a_run_learns_what_can_be_learned(tiny):
    """The first token tells the class: LoRA finds it in new texts."""
    rng = np.random.default_rng(0)
    easy = [((10 + i % 2, *rng.integers(20, 200, 5).tolist()), "ab"[i % 2]) for i in range(300)]
    scale = Scale(
        texts=150, length=6, validation=20, steps=120, batch_size=16, evaluations=3, learning_rate=1e-2, lora_rank=4
    )
    row = training.run_row("tiny", texts.split(easy, scale), scale, 0, iter)
    assert row["accuracy"] > 0.95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need CUDA")
def test_graphs_change_no_step(tiny):
    """Without dropout, whose random numbers they draw in another order."""
    found = texts.split(pairs(80), SMALL).train
    weights = []
    for graphs in (False, True):
        model = training.Classifier("tiny", SMALL, 2, seed=0).cuda()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        model = training.graphed(model, found, SMALL) if graphs else model.train()
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
        for part in torch.arange(len(found)).split(SMALL.batch_size):
            torch.nn.functional.cross_entropy(model(*found.batch(part)), found.labels[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
        weights.append([p.detach().clone() for p in model.parameters() if p.requires_grad])
    for plain, replayed in zip(*weights, strict=True):
        assert torch.allclose(plain, replayed, atol=1e-5)


# From run to row.


def timed(folder, entries):
    rows = Rows("rows", folder)
    for number, (kind, device, seconds) in enumerate(entries):
        rows.add(str(number), {"kind": kind, "device": device, "seconds": seconds})
    return rows


def test_the_estimate_is_of_rows_of_the_same_kind_and_device(tmp_path):
    here = machine.device_name()
    rows = timed(
        tmp_path, [("lora", here, 20.0), ("lora", here, 40.0), ("lora", "another", 900.0), ("base", here, 6.0)]
    )
    clock = timing.Clock(rows, None)
    assert (clock.expected("lora"), clock.expected("base"), clock.expected("other")) == (30, 6, None)
    assert clock.left(["lora"] * 10 + ["base"] * 10) == "20 left, 6 minutes"
    assert clock.left(["lora", "lora", "other"]) == "3 left, 1 minutes and 1 whose time is not known"
    assert clock.allows("lora")
    assert timing.Clock(rows, 1).allows("lora")
    assert not timing.Clock(rows, 0.6).allows("lora")  # 36 seconds: too little to spare
    assert timing.Clock(rows, 0.6).allows("base")
    assert not timing.Clock(rows, 0).allows("other")


def test_what_has_a_row_is_not_run_again_and_what_breaks_off_loses_itself_alone(tmp_path, capsys):
    made = []

    def work(fails=()):
        def make(name):
            if name in fails:
                raise KeyboardInterrupt
            made.append(name)
            return {"accuracy": 0.5}

        return {name: ({"kind": "lora"}, lambda name=name: make(name)) for name in ("a", "b", "c")}

    with pytest.raises(KeyboardInterrupt):
        command.run(Rows("rows", tmp_path), work(fails=["b"]), SMALL, None)
    command.run(Rows("rows", tmp_path), work(), SMALL, 0)
    assert made == ["a"]
    assert "stopped before b: 0 minutes do not hold it" in capsys.readouterr().out
    command.run(Rows("rows", tmp_path), work(), SMALL, None)
    command.run(Rows("rows", tmp_path), work(), SMALL, None)
    assert made == ["a", "b", "c"]
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert [row["name"] for row in rows] == made
    assert rows[0]["device"] == machine.device_name()
    assert {"torch", "transformers"} <= set(rows[0]["versions"])
    assert rows[0]["scale"]["batch_size"] == SMALL.batch_size


def test_every_task_has_a_base_and_a_run_for_each_seed():
    work = command.todo("smollm2", tasks(), settings.USUAL, False)
    assert len(work) == len(tasks()) * (1 + len(SEEDS))
    kinds = Counter((about["task"], about["kind"], about.get("seed")) for about, _ in work.values())
    assert set(kinds.values()) == {1}


def test_what_is_not_at_hand_is_said_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(archives, "FOLDER", tmp_path / "archives")
    monkeypatch.setattr(texts, "FOLDER", tmp_path / "texts")
    with pytest.raises(SystemExit) as error:
        machine.check_at_hand(tasks(), "smollm2", tmp_path)
    said = str(error.value)
    assert said.startswith("not at hand:")
    assert all(str(archives.FOLDER / name) in said for name in archives.ARCHIVES)
    assert str(tmp_path / "config.json") in said
    assert str(tmp_path / "*.safetensors") in said
    assert "--prepare" in said
    (tmp_path / "texts").mkdir()
    for data in SETS:
        texts.file(data, "smollm2").touch()
    assert texts.missing(tasks(), "smollm2") == []
    assert len(texts.missing(tasks(), "gemma3")) == len(archives.ARCHIVES)


def test_the_report_fills_its_place_with_enough_tasks_alone(tmp_path):
    document = tmp_path / "STUDY.md"
    before = "a\n<!-- gain -->\nNot run: no GPU was at hand.\n<!-- end -->\nz\n"
    document.write_text(before)
    assert report.write([], tmp_path, document) == "not run"
    assert "fewer than 25 tasks of smollm2" in report.write(world(0, -1)[:60], tmp_path, document)
    assert document.read_text() == before
    assert not (tmp_path / "gain.png").exists()
    report.write(world(0, -1), tmp_path / "docs", document)
    filled = document.read_text()
    assert filled.startswith("a\n<!-- gain -->\n\nsmollm2, 27 tasks of 13 sets, fake. ")
    assert "![Gains by score and by the probe's accuracy](docs/gain.png)\n\n<!-- end -->\nz\n" in filled
    assert "| bbc:business-sports | 4000 | 4000 |" in filled
    assert (tmp_path / "docs" / "gain.png").stat().st_size > 0


def test_the_document_has_a_place_for_it():
    assert (ROOT / "STUDY.md").read_text().count("<!-- gain -->") == 1


def test_files_import_from_those_before_them():
    folder = ROOT / "benchmarks" / "gain"
    order = ["settings", "texts", "machine", "timing", "bases", "training", "analysis", "report", "__main__"]
    assert {path.stem for path in folder.glob("*.py")} == {*order, "__init__"}
    for path in (folder / f"{name}.py" for name in order):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("benchmarks.gain."):
                imported = node.module.split(".")[2]
                assert order.index(imported) < order.index(path.stem), f"{path} imports {node.module}"


@pytest.mark.slow
def test_a_toy_run_stops_resumes_and_reports(tmp_path):
    def run(*options):
        line = [sys.executable, "-m", "benchmarks.gain", "--toy", *options]
        done = subprocess.run(line, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=900, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    study = (ROOT / "STUDY.md").read_text()
    run("--prepare")
    assert "minutes do not hold it" in run("--output", str(tmp_path), "--minutes", "0")
    assert not (tmp_path / "rows.jsonl").exists()
    assert run("--output", str(tmp_path)).count(" left, ") == 9
    lines = (tmp_path / "rows.jsonl").read_text().splitlines()
    assert len(lines) == 9
    (tmp_path / "rows.jsonl").write_text("".join(f"{line}\n" for line in lines[:-1]))
    again = run("--output", str(tmp_path))
    assert "[9/9]" in again
    assert again.count(" left, ") == 1
    first, second = (json.loads(line) for line in (lines[-1], (tmp_path / "rows.jsonl").read_text().splitlines()[-1]))
    same = ("accuracy", "last_accuracy", "step", "num_trained")
    assert [first[key] for key in same] == [second[key] for key in same]
    assert "3 tasks of 2 sets" in again
    assert (tmp_path / "gain.png").stat().st_size > 0
    assert (ROOT / "STUDY.md").read_text() == study
