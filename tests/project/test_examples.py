"""The example on a tiny model and a file of one's own: a real process, a real event file."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaModel, PreTrainedTokenizerFast

from examples.tables import changes_in_words, held_out_table
from ntps_lightning.watch.names import logged_keys
from tests.support import ROOT
from tests.support.models import tiny_config

SUBJECTS = {"sport": "the team won the match and the coach cheered", "money": "the bank raised its rate as shares fell"}


@pytest.fixture
def files(tmp_path):
    """A two-layer random Llama with a BPE tokenizer, and a csv of labelled text."""
    texts = [(f"{text} {i % 7} {text}", label) for i in range(40) for label, text in SUBJECTS.items()]
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(vocab_size=90, special_tokens=["<unk>", "<pad>", "<eos>"])
    bpe.train_from_iterator((text for text, _ in texts), trainer)
    special = {"pad_token": "<pad>", "unk_token": "<unk>", "eos_token": "<eos>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, **special)
    tokenizer.save_pretrained(tmp_path / "model")
    LlamaModel(tiny_config(vocab_size=100, pad_token_id=1)).save_pretrained(tmp_path / "model")
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("body", "topic"), *texts])
    return tmp_path


def test_example_on_a_local_model_and_a_csv_file(files):
    arguments = ["--model", str(files / "model"), "--dataset", str(files / "texts.csv"), "--logs", str(files / "logs")]
    arguments += ["--text-column", "body", "--label-column", "topic", "--epochs", "2", "--train-samples", "32"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(files / "cache")}
    command = [sys.executable, "-m", "examples.finetune_lora", *arguments]
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    table = run.stdout.splitlines()
    (head,) = (i for i, line in enumerate(table) if line.split()[:1] == ["epoch"])
    columns = [
        "epoch",
        "train_loss",
        "val_accuracy",
        "probe_accuracy",
        "probe_r2",
        "captured_r2",
        "principal_r2",
        "score",
    ]
    assert table[head].split() == columns
    assert [line.split()[0] for line in table[head + 1 : head + 4]] == ["before", "0", "1"]
    assert table[head + 4].endswith("on 40 windows; n/d = 2.5.")
    words = "\n".join(table[head + 5 :])
    assert re.search(r"^Captured R², .*, (rose by|fell by|did not change)", words, flags=re.MULTILINE)
    assert re.search(r"^The accuracy of a probe .* (rose by|fell by|did not change)", words, flags=re.MULTILINE)
    picture = re.search(r"over k: (\S+curves\.png)\.", words)
    assert picture is not None
    assert (ROOT / picture[1]).stat().st_size > 0
    assert f"tensorboard --logdir {files / 'logs'}" in words
    (event_file,) = (files / "logs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(event_file))
    events.Reload()
    for key in logged_keys("ntps", [1], gain=True, held_out=True):
        if not key.endswith("/captured"):  # of so few samples there may be no ratio
            assert len(events.Scalars(key)) == 3, key
    assert "ntps/curves" in events.Tags()["images"]


def test_table_has_a_cell_for_each_number():
    row = {"step": 30, "loss": 0.5, "p/a": 0.25, "p_se/a": 0.125, "p/score": 0.0625}
    lines = held_out_table([{**row, "step": 0, "p/a": -0.25}, row], "step", ("a",), plain=("loss", "none"), prefix="p")
    assert [re.split(r"\s{2,}", line.strip()) for line in lines.splitlines()] == [
        ["step", "loss", "none", "a", "score"],
        ["0", "0.500", "-", "-0.250 ± 0.125", "0.0625"],
        ["30", "0.500", "-", "0.250 ± 0.125", "0.0625"],
    ]
    assert len({len(line) for line in lines.splitlines()}) == 1


@pytest.mark.parametrize(
    ("value", "se", "said"),
    [
        (0.0625, 0.0125, "rose by 0.062 ± 0.013."),
        (-0.5, 0.125, "fell by 0.500 ± 0.125."),
        (0.25, 0.125, "did not change beyond its error (+0.250 ± 0.125)."),
        (-0.125, 0.125, "did not change beyond its error (-0.125 ± 0.125)."),
    ],
)
def test_words_are_those_of_the_numbers(value, se, said):
    changes = {"captured_r2": SimpleNamespace(value=value, se=se), "principal_r2": SimpleNamespace(value=9.0, se=1.0)}
    (line,) = changes_in_words(SimpleNamespace(changes={"baseline": changes})).splitlines()
    assert line == f"Captured R², what a linear probe reads in the leading autoregressive directions, {said}"
    assert changes_in_words(SimpleNamespace(changes={})) == "Nothing was measured before the first step that compares."


@pytest.mark.slow
@pytest.mark.parametrize(
    ("example", "size", "steps"), [("huggingface_trainer", "--eval-samples", 4), ("sft_side_set", "--side-samples", 4)]
)
def test_example_of_hugging_face(files, example, size, steps):
    """BBC news on the tiny model; the event file holds our keys beside Trainer's."""
    arguments = ["--model", str(files / "model"), "--logs", str(files / "logs"), "--train-samples", "32", size, "60"]
    command = [sys.executable, "-m", f"examples.{example}", *arguments]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(files / "cache")}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    table = run.stdout.splitlines()
    (head,) = (i for i, line in enumerate(table) if line.split()[:1] == ["step"])
    assert [line.split()[0] for line in table[head + 1 : head + 4]] == ["0", str(steps // 2), str(steps)]
    (event_file,) = (files / "logs").rglob("events.out.tfevents.*")
    events = EventAccumulator(str(event_file))
    events.Reload()
    assert [event.step for event in events.Scalars("eval/ntps/captured_r2")] == [0, steps // 2, steps]
    assert "train/train_loss" in events.Tags()["scalars"] or "train/loss" in events.Tags()["scalars"]


def test_prescreening_tells_what_it_saw_and_where_the_report_is(files, monkeypatch, capsys):
    """On the tiny model, and two sets where the packaged ones would be."""
    from examples import prescreen

    rows = [(f"{text} {i % 7} {text} {i}", label) for i in range(40) for label, text in SUBJECTS.items()]
    monkeypatch.setattr(prescreen, "SETS", {"one": "of the first", "other": "of the second"})
    monkeypatch.setattr(prescreen, "read", lambda name: rows if name == "one" else rows[::-1][:60])
    monkeypatch.setattr(prescreen.offline, "smollm2", lambda: str(files / "model"))
    output = files / "report"
    monkeypatch.setattr("sys.argv", ["prescreen", "--output", str(output)])
    for _ in range(2):
        prescreen.main()
        said = capsys.readouterr().out
        assert "- Data sets for SmolLM2-135M-Instruct: " in said
        assert f"The report: {output / 'report.html'}" in said
        assert f"ntps prescreen --model {files / 'model'} --data yours.csv" in said
        assert len(list((output / "measured").glob("*.json"))) == 2
    assert {"report.html", "report.md", "layers.csv", "result.json"} <= {file.name for file in output.iterdir()}
