"""The command as a stranger meets it: in a process of its own, with a tiny model in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from ntps_lightning import prescreen
from ntps_lightning.command.main import main
from ntps_lightning.command.prescreen import in_shell, named
from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.result import Prescreen
from tests.prescreening.tiny import llama_folder, rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two models, ``one`` and ``two``, and two sets, ``films.csv`` and ``meals.jsonl``."""
    path = tmp_path_factory.mktemp("prescreen")
    for seed, name in enumerate(("one", "two")):
        llama_folder(path / name, seed)
    lines = [f"{row['text']},{row['label']}" for row in rows(60, seed=0)]
    (path / "taken" / "report.html").mkdir(parents=True)
    (path / "films.csv").write_text("\n".join(["text,label", *lines]))
    (path / "meals.jsonl").write_text("\n".join(map(json.dumps, rows(60, seed=1))))
    return path


@pytest.fixture
def command(folder, tmp_path):
    """Runs it in the folder, with a cache of this test's own."""

    def run(*arguments, **options):
        line = [sys.executable, "-m", "ntps_lightning", "prescreen", *arguments, "--cache", str(tmp_path / "cache")]
        return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=300, **options)

    return run


SHELL = "Prescreening"
BOTH = ("--model", "one", "--model", "second=two", "--data", "films.csv", "--data", "dinners=meals.jsonl")


@pytest.mark.compatibility(
    SHELL, "`ntps prescreen`, the same again", "the same report to the byte, out of what was kept"
)
def test_a_report_of_two_models_and_two_sets(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    line = ["prescreen", *BOTH, "--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    assert main(line) == 0
    found = capsys.readouterr().out
    assert "Which layer to read" in found
    assert f"The report: {tmp_path / 'out' / 'report.html'}" in found
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "report.html",
        "report.md",
        "layers.csv",
        "result.json",
    }
    result = Prescreen.load(tmp_path / "out" / "result.json")
    assert (result.models, result.data) == (("one", "second"), ("films", "dinners"))
    assert [layer.layer for layer in result.measured[0].layers] == [0, 1, 2]
    assert all(f"read layer {result.best_layer(m, d)} of {m}" in found for m in result.models for d in result.data)
    before = {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()}
    kept = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()}
    monkeypatch.setattr("ntps_lightning.prescreening.prescreen.measure_layers", pytest.fail)
    assert main(line) == 0
    assert capsys.readouterr().out == found
    assert {file.name: file.read_bytes() for file in (tmp_path / "out").iterdir()} == before
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").iterdir()} == kept


def test_json_alone_is_on_stdout(command):
    found = command("--model", "one", "--data", "films.csv", "--layers", "0,-1", "--limit", "40", "--json")
    assert found.returncode == 0, found.stderr
    facts = json.loads(found.stdout)
    assert [row["layer"] for row in facts["layers"]] == [0, 2]
    assert {row["samples"] for row in facts["layers"]} == {40}
    assert facts["settings"]["limit"] == 40


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "nowhere/at/all", "--data", "films.csv"), "there is no folder nowhere/at/all"),
        (("--model", "one", "--data", "films.csv", "--label-column", "stars"), "'stars'"),
        (("--model", "one", "--data", "films.csv", "--output", "films.csv"), "--output films.csv cannot be made"),
        (("--model", "a=one", "--model", "a=two", "--data", "films.csv"), "--model 'a' was given twice"),
        (("--model", "one", "--data", "films.csv", "--device", "toaster"), "toaster"),
        (("--model", "one", "--data", "films.csv", "--layers", "0,77"), "layers must be all or indices in [-3, 2]"),
        (("--model", "one", "--data", "films.csv", "--layers", "-1,77"), "layers must be all or indices in [-3, 2]"),
        (("--model", "one", "--data", "films.csv", "--text-column", "x"), "holds the text with --text-column NAME"),
        (("--model", "one", "--data", "films.csv", "--output", "taken"), "holds a folder report.html, where a file"),
    ],
)
@pytest.mark.compatibility(SHELL, "`ntps prescreen` of what is not there", "one line on stderr, exit code 1")
def test_what_cannot_be_measured_is_one_line(folder, monkeypatch, capsys, tmp_path, arguments, said):
    monkeypatch.chdir(folder)
    assert main(["prescreen", *arguments, "--cache", str(tmp_path)]) == 1
    found = capsys.readouterr()
    assert found.out == ""
    (line,) = found.err.splitlines()
    assert line.startswith("ntps prescreen: ")
    assert said in line


@pytest.mark.parametrize("arguments", [(), ("--model", "one"), ("--model", "one", "--data", "x", "--layers", "few")])
def test_arguments_that_are_not_understood(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prescreen", *arguments])
    assert stopped.value.code == 2
    assert "usage: ntps prescreen" in capsys.readouterr().err


STOPPED = """
import os, signal
from ntps_lightning.command.main import main
from ntps_lightning.prescreening.cache import Cache

signal.signal(signal.SIGINT, signal.default_int_handler)  # shells have what runs in the background ignore it
write = Cache.write

def then_stop(*given):
    said = write(*given)
    os.kill(os.getpid(), signal.SIGINT)
    return said

Cache.write = then_stop
raise SystemExit(main())
"""


@pytest.mark.compatibility(
    SHELL, "`ntps prescreen`, Ctrl-C", "says what is kept; the same command measures the rest alone"
)
def test_interrupted_it_says_what_is_kept(folder, tmp_path, monkeypatch, capsys):
    """Ctrl-C as soon as a first measurement is kept; the same command then measures the rest."""
    cache = tmp_path / "cache"
    arguments = ["prescreen", *BOTH, "--cache", str(cache), "--json"]
    line = [sys.executable, "-c", STOPPED, *arguments]
    run = subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=200, check=False)
    assert run.returncode == 130, run.stderr
    said = run.stderr.splitlines()[-1]
    assert said.startswith("ntps prescreen: stopped; ")
    assert str(cache) in said
    (kept,) = cache.glob("*.json")
    written = kept.stat().st_mtime_ns
    monkeypatch.chdir(folder)
    assert main(arguments) == 0, capsys.readouterr().err
    assert len(list(cache.glob("*.json"))) == 4
    assert kept.stat().st_mtime_ns == written
    resumed = capsys.readouterr().out
    assert main(["prescreen", *BOTH, "--cache", str(tmp_path / "another"), "--json"]) == 0
    assert capsys.readouterr().out == resumed


SHARED = """
import sys
import torch.distributed as dist
import ntps_lightning.prescreening.prescreen
from ntps_lightning.command.main import main

module = sys.modules["ntps_lightning.prescreening.prescreen"]
measure = module.measure_layers

def told(*given, **options):
    print(f"measured by {dist.get_world_size()}", file=sys.stderr)
    return measure(*given, **options)

module.measure_layers = told
raise SystemExit(main())
"""


def test_several_processes_share_the_texts_and_one_speaks(folder, tmp_path):
    """Under torchrun: the numbers of one process, and one report."""
    (tmp_path / "shared.py").write_text(SHARED)
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    line = [*start, tmp_path / "shared.py", "prescreen", "--model", "one", "--data", "films.csv", "--json"]
    places = ["--cache", str(tmp_path / "cache"), "--output", str(tmp_path / "out")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    run = subprocess.run([*line, *places], **options)
    assert run.returncode == 0, run.stderr
    assert run.stderr.count("measured by 2") == 2
    assert run.stderr.count("The report: ") == 1
    both = json.loads(run.stdout)
    result = Prescreen.load(tmp_path / "out" / "result.json")
    assert len(list((tmp_path / "cache").iterdir())) == 1
    alone = prescreen({"one": str(folder / "one")}, {"films": str(folder / "films.csv")}, cache=tmp_path / "alone")
    values = [[layer.probe_r2.value for layer in each.measured[0].layers] for each in (result, alone)]
    assert values[0] == pytest.approx(values[1], abs=1e-5)
    assert both["layers"][0]["samples"] == alone.measured[0].num_samples
    wrong = subprocess.run([*line, *places, "--label-column", "stars"], **options)
    assert wrong.returncode == 1
    (line,) = [each for each in wrong.stderr.splitlines() if each.startswith("ntps prescreen: ")]
    assert "'stars'" in line


def test_more_processes_than_gpus_are_refused(monkeypatch, capsys):
    ranks = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"}
    for name, value in {"TORCHELASTIC_RUN_ID": "x", **ranks}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    assert main(["prescreen", "--model", "one", "--data", "films.csv"]) == 1
    assert "torchrun started 2 processes where PyTorch sees 1 GPUs" in capsys.readouterr().err
    assert main(["prescreen", "--model", "one", "--data", "films.csv", "--device", "cuda:1"]) == 1
    assert "--device cuda:1 is one GPU for all processes" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert main(["prescreen", "--model", "one", "--data", "films.csv"]) == 1
    assert capsys.readouterr().err == ""


def test_the_report_is_there_whatever_becomes_of_the_output(folder, tmp_path):
    """A reader that has left, and a terminal that has no letter of R²."""
    places = f"--cache {tmp_path}/cache --output {tmp_path}"
    line = f"{sys.executable} -m ntps_lightning prescreen --model one --data films.csv {places}"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    options = {"cwd": folder, "env": environment, "capture_output": True, "text": True, "timeout": 300}
    left = subprocess.run(["bash", "-o", "pipefail", "-c", f"{line}/left | true"], **options)
    assert left.returncode == 0
    assert "rror" not in left.stderr
    assert (tmp_path / "left" / "result.json").exists()
    plain = subprocess.run(["bash", "-c", f"{line}/plain"], **options)
    assert plain.returncode == 0
    assert "R? 0." in plain.stdout
    assert (tmp_path / "plain" / "report.html").read_bytes() == (tmp_path / "left" / "report.html").read_bytes()


def test_arguments_of_python_are_options_here_but_not_in_paths():
    kept = r"seed=3/x.csv, C:\runs\seed=3 and out/seed=3/limit=5 have no column 'max_length'"
    assert in_shell(f"{kept} (limit=40, seed=0); `label=...` says which, max_length=2") == (
        f"{kept} (--limit 40, --seed 0); `--label-column NAME` says which, --max-length 2"
    )


def test_a_report_that_cannot_be_written_is_one_line(folder, monkeypatch, capsys, tmp_path):
    def full(result, where):
        raise OSError(28, "No space left on device", "out/report.html")

    monkeypatch.chdir(folder)
    monkeypatch.setattr("ntps_lightning.prescreening.report.write_report", full)
    line = ["--model", "one", "--data", "films.csv", "--layers", "-1", "--limit", "60"]
    assert main(["prescreen", *line, "--cache", str(tmp_path), "--output", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "ntps prescreen: out/report.html: No space left on device"


def test_names(tmp_path):
    (tmp_path / "a=b").mkdir()
    for run in ("x", "y"):
        (tmp_path / run / "last").mkdir(parents=True)
    assert named([f"{tmp_path}/a=b"], "--model") == {"a=b": f"{tmp_path}/a=b"}
    assert named(["n=some/where", "org/model"], "--model") == {"n": "some/where", "org/model": "org/model"}
    paths = [f"{tmp_path}/{run}/last" for run in ("x", "y")]
    assert named(paths, "--model") == dict(zip(paths, paths, strict=True))
    assert named(paths[:1], "--model") == {"last": paths[0]}
    with pytest.raises(SetupError, match=r"--data 'n' was given twice: name each, as --data NAME=b"):
        named(["n=a", "n=b"], "--data")


def test_help_teaches_two_examples(capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["prescreen", "--help"])
    assert stopped.value.code == 0
    text = capsys.readouterr().out
    assert text.count("\n  ntps prescreen --model") == 2
    assert "130 stopped by Ctrl-C" in text
