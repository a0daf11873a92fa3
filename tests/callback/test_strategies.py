"""Two real processes (gloo) give the score of one, however Lightning divides the work or the model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT


def start(out: Path, strategy: str, samples: int, data: str) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", "tests.callback.distributed_run", str(out), strategy, str(samples), data]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    return subprocess.run(
        arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )


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
        case("fsdp2", 61, "sampler", "FSDP2"),
        case("tensor_parallel", 61, "sampler", "Tensor parallelism"),
    ],
)
def test_two_processes_give_the_score_of_one_on_both_ranks(tmp_path, single, strategy, samples, data):
    wanted, ranks = single(samples), launch(tmp_path, strategy, samples, data)
    assert ranks[0]["epochs"] == ranks[1]["epochs"], "to the bit"
    assert ranks[0]["history"] == ranks[1]["history"], "to the bit"
    assert json.loads((tmp_path / "warnings0.json").read_text()) == [], "Lightning has no advice on how we log"
    untried = "LlamaModel looks ahead: FSDP wraps it" if strategy == "fsdp" else ""
    assert [untried in line for rank in ranks for line in rank["untried"]] == [True] * bool(untried)
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
        pytest.param(name, marks=pytest.mark.compatibility("Strategies", f"{title}, an encoder", REFUSED))
        for name, title in [("ddp", "DDP"), ("fsdp2", "FSDP2"), ("tensor_parallel", "Tensor parallelism")]
    ],
)
def test_an_encoder_is_refused_on_every_rank(tmp_path, strategy):
    assert start(tmp_path, strategy, 61, "encoder").returncode != 0
    first, second = (json.loads((tmp_path / f"refused{rank}.json").read_text()) for rank in range(2))
    assert first == second
    assert first["step"] == 0
    assert "BertModel looks ahead" in first["why"]


@pytest.mark.parametrize(
    "strategy",
    [
        pytest.param(name, marks=pytest.mark.compatibility("Strategies", f"{title}, a fault on one rank", note))
        for name, title, note in [
            ("ddp", "DDP", "every rank logs `ntps_info/valid` = 0, none waits"),
            ("tensor_parallel", "Tensor parallelism", "every rank logs `ntps_info/valid` = 0, none waits"),
        ]
    ],
)
def test_a_fault_on_one_rank_is_one_on_all(tmp_path, strategy):
    ranks = launch(tmp_path, strategy, 61, "nan")
    assert ranks[0]["epochs"] == ranks[1]["epochs"]
    for rank in ranks:
        assert [row["ntps_info/valid"] for row in rank["history"]] == [1, 0, 1]
        assert rank["history"][0]["ntps/score"] == rank["history"][2]["ntps/score"]


@pytest.mark.compatibility("Strategies", "DDP, a loader of length zero on one rank", REFUSED)
def test_a_rank_that_skips_validation_is_refused(tmp_path):
    run = start(tmp_path, "ddp", 61, "zero")
    assert run.returncode != 0
    assert "a rank has a validation dataloader of length zero" in run.stderr
