"""Two real processes (gloo) give the score of one, however Lightning divides the work or the model."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_module


def start(
    out: Path, *arguments: Any, script: str = "distributed_run", timeout: float = 180
) -> subprocess.CompletedProcess:
    return run_module(f"tests.callback.{script}", out, *arguments, timeout=timeout)


def launch(out: Path, strategy: str, samples: int, data: str = "sampler") -> list[dict]:
    """Each rank's note of a run."""
    run = start(out, strategy, samples, data)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(1 if strategy == "one" else 2)]


REFUSED = "refused at the start on every rank"


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    """The note of a single process, run once for each number of samples."""
    notes: dict[int, dict] = {}

    def note(samples: int) -> dict:
        if samples not in notes:
            (notes[samples],) = launch(tmp_path_factory.mktemp("one"), "one", samples)
        return notes[samples]

    return note


def case(strategy: str, samples: int, data: str, name: str, *marks: pytest.MarkDecorator):
    note = "same bits on both ranks, 1e-7 from one process"
    marks = [pytest.mark.compatibility("Strategies", name, note), *marks]
    return pytest.param(strategy, samples, data, id=name, marks=marks)


@pytest.mark.parametrize(
    ("strategy", "samples", "data"),
    [
        case("ddp", 61, "sampler", "DDP, padding duplicates"),
        case("ddp", 41, "sampler", "DDP, a batch of nothing but a padding duplicate", pytest.mark.slow),
        case("ddp", 61, "uneven", "DDP, fewer batches on one rank", pytest.mark.slow),
        case("ddp", 61, "empty", "DDP, no batches on one rank"),
        case("fsdp", 61, "sampler", "FSDP"),
        case("fsdp2", 61, "sampler", "FSDP2", pytest.mark.slow),
        case("tensor_parallel", 61, "sampler", "Tensor parallelism"),
    ],
)
def test_two_processes_give_the_score_of_one_on_both_ranks(tmp_path, single, strategy, samples, data):
    wanted, ranks = single(samples), launch(tmp_path, strategy, samples, data)
    assert ranks[0]["epochs"] == ranks[1]["epochs"], "to the bit"
    assert ranks[0]["history"] == ranks[1]["history"], "to the bit"
    assert json.loads((tmp_path / "warnings0.json").read_text()) == [], "Lightning has no advice on how we log"
    untried = "LlamaModel looks ahead: FSDP wraps it" if strategy == "fsdp" else ""
    lines = [line for rank in ranks for line in rank["untried"]]
    assert [untried in line for line in lines] == [True] * 2 * bool(untried), "in validate() and in fit()"
    for rank in ranks:
        assert rank["stopped"] == wanted["stopped"] == 2
        # Two looks of EarlyStopping and ModelCheckpoint an epoch: none of our keys is reduced one by one.
        assert rank["reductions"] <= 8 < len(rank["history"][0])
        assert len(rank["epochs"]) == 2
        assert Path(rank["checkpoint"]).exists()
        for row, expected in zip(rank["history"], wanted["history"], strict=True):
            values = {k: v for k, v in row.items() if k not in ("step", "epoch")}
            assert values == pytest.approx({k: expected[k] for k in values}, abs=1e-6)
            assert row["ntps_info/samples_per_dim"] == samples / 16


@pytest.mark.compatibility(
    "Strategies",
    "DDP, an IterableDataset that is not sharded",
    "said; its samples are counted once, 1e-7 from one process",
)
def test_ranks_that_saw_the_same_samples(tmp_path, single):
    wanted, ranks = single(61), launch(tmp_path, "ddp", 61, "unsharded")
    assert ranks[0]["history"] == ranks[1]["history"], "to the bit"
    for row, expected in zip(ranks[0]["history"], wanted["history"], strict=True):
        assert row == pytest.approx(expected, abs=1e-6)
    assert "2 ranks saw the same 61 samples" in json.loads((tmp_path / "warnings0.json").read_text())[0]


@pytest.mark.compatibility(
    "Strategies", "DDP, a batch sampler that reorders", "said; the repeated samples cannot be told, and count twice"
)
@pytest.mark.slow
def test_a_batch_sampler_that_reorders_loses_no_sample(tmp_path, single):
    wanted, ranks = single(61), launch(tmp_path, "ddp", 61, "reordered")
    assert "the 1 samples that DistributedSampler repeats" in json.loads((tmp_path / "warnings0.json").read_text())[0]
    assert ranks[0]["history"] == ranks[1]["history"], "to the bit"
    for row, expected in zip(ranks[0]["history"], wanted["history"], strict=True):
        assert row["ntps_info/samples"] == 62
        assert row["ntps/captured_in_sample"] == pytest.approx(expected["ntps/captured_in_sample"], rel=0.2)


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=[pytest.mark.compatibility("Strategies", f"{title}, an encoder", REFUSED)])
        for name, title in [
            ("ddp", "DDP"),
            ("fsdp2", "FSDP2"),
            ("tensor_parallel", "Tensor parallelism"),
        ]
    ],
)
@pytest.mark.slow
def test_an_encoder_is_refused_on_every_rank(tmp_path, strategy):
    assert start(tmp_path, strategy, 61, "encoder").returncode != 0
    first, second = (json.loads((tmp_path / f"refused{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["step"] == 0
    assert "BertModel looks ahead" in first["why"]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(
            name, marks=[pytest.mark.compatibility("Strategies", f"{title}, a fault on one rank", note), *marks]
        )
        for name, title, note, *marks in [
            ("ddp", "DDP", "every rank logs `ntps_info/valid` = 0, none waits"),
            (
                "tensor_parallel",
                "Tensor parallelism",
                "every rank logs `ntps_info/valid` = 0, none waits",
                pytest.mark.slow,
            ),
        ]
    ],
)
def test_a_fault_on_one_rank_is_one_on_all(tmp_path, strategy):
    ranks = launch(tmp_path, strategy, 61, "nan")
    assert ranks[0]["epochs"] == ranks[1]["epochs"]
    for rank in ranks:
        assert [row["ntps_info/valid"] for row in rank["history"]] == [1, 0, 1]
        assert rank["history"][0]["ntps/score"] == rank["history"][2]["ntps/score"]


@pytest.mark.slow
@pytest.mark.compatibility("Strategies", "DDP, a loader of length zero on one rank", REFUSED)
def test_a_rank_that_skips_validation_is_refused(tmp_path):
    run = start(tmp_path, "ddp", 61, "zero")
    assert run.returncode != 0
    assert "a rank has a validation dataloader of length zero" in run.stderr


def notes_of_fault(out: Path, fault: str) -> list[dict]:
    run = start(out, fault, script="fault_run")
    assert run.returncode == 0, run.stderr[-3000:]
    notes = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert notes[0]["history"] == notes[1]["history"], "to the bit"
    return notes


@pytest.mark.parametrize(
    ("fault", "reason", "step"),
    [
        pytest.param(fault, reason, step, id=row, marks=[pytest.mark.compatibility("Strategies", row, note), *marks])
        for fault, reason, step, row, note, marks in [
            ("memory", "out of memory", 0, "DDP, no memory on one rank", REFUSED, []),
            ("labels", "found no labels at", 0, "DDP, no labels on one rank", REFUSED, [pytest.mark.slow]),
            ("raise", "NaN or Inf", 3, 'DDP, `on_error="raise"`, a fault on one rank', "stops every rank",
             [pytest.mark.slow]),
            ("class", "a single class", 3, 'DDP, `on_error="raise"`, a fault that all share', "stops every rank",
             [pytest.mark.slow]),
        ]
    ],
)  # fmt: skip
def test_what_stops_one_rank_stops_both(tmp_path, fault, reason, step):
    first, second = notes_of_fault(tmp_path, fault)
    assert reason in second["error"]
    assert first["error"] in ("it failed on another rank", second["error"], f"rank 1: {second['error']}")
    assert first["step"] == second["step"] == step


@pytest.mark.compatibility(
    "Strategies",
    "DDP, no model found on one rank, a logger and a terminal that fail on the other",
    "one validation without a score, the same on every rank",
)
def test_what_fails_late_on_one_rank_costs_one_score(tmp_path):
    first, second = notes_of_fault(tmp_path, "late")
    assert "error" not in first | second
    assert [row["ntps_info/valid"] for row in first["history"]] == [1, 1, 0, 1]


def baseline(strategy: str, title: str, *marks: pytest.MarkDecorator):
    note = "what `validate()` gives, 1e-6; weights and losses are the same bits as without us"
    return pytest.param(
        strategy, id=title, marks=[pytest.mark.compatibility("Strategies", f"{title}, baseline", note), *marks]
    )


def notes_of_baseline(out: Path, strategy: str) -> list[dict]:
    run = start(out, strategy, script="baseline_run")
    assert run.returncode == 0, run.stderr[-3000:]
    notes = [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(2)]
    assert notes[0]["history"] == notes[1]["history"], "to the bit"
    assert all(note["same"] for note in notes)
    return notes


@pytest.mark.parametrize(
    "strategy",
    [
        baseline("ddp", "DDP"),
        baseline("fsdp2", "FSDP2", pytest.mark.slow),
        baseline("fsdp2_full", "FSDP2, all weights trained, some kept gathered", pytest.mark.slow),
        baseline("tensor_parallel", "Tensor parallelism", pytest.mark.slow),
    ],
)
def test_the_baseline_is_that_of_validate_on_every_rank(tmp_path, strategy):
    for note in notes_of_baseline(tmp_path, strategy):
        before, first, _ = note["history"]
        assert before == pytest.approx(note["expected"], abs=1e-6)
        assert before["ntps/gain"] == 0 != first["ntps/gain"]
        assert note["said"] == []


@pytest.mark.parametrize(
    ("strategy", "reason"),
    [
        pytest.param(strategy, reason, id=row, marks=[pytest.mark.compatibility("Strategies", row, note), *marks])
        for strategy, reason, row, note, marks in [
            ("fsdp", "FullyShardedDataParallel does not let weights be exchanged", "FSDP, baseline",
             "none, said at the start with the way out", [pytest.mark.slow]),
            ("ddp-overwriting", "up_proj.weight was frozen", "DDP, a frozen weight overwritten on one rank",
             "no baseline on any rank, none waits", [pytest.mark.slow]),
            ("fsdp2-overwriting", "up_proj.weight was frozen", "FSDP2, a frozen weight overwritten on one rank",
             "no baseline on any rank, none waits", [pytest.mark.slow]),
            ("fsdp2_full-failing", "once too often", "FSDP2, a call that fails when it is made again",
             "no baseline; weights and losses are the same bits as without us", [pytest.mark.slow]),
        ]
    ],
)  # fmt: skip
def test_ranks_agree_that_there_is_no_baseline(tmp_path, strategy, reason):
    notes = notes_of_baseline(tmp_path, strategy)
    for note in notes:
        assert [row["step"] for row in note["history"]] == [3, 6]
        assert note["history"][0]["ntps/gain"] == 0
    assert reason in notes[0]["said"][0]
    if reason != "once too often":
        assert "`trainer.validate(module)` before `trainer.fit(module)`" in notes[0]["said"][0]
