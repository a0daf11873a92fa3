"""Two processes (gloo) give the numbers of one, also where accelerate repeats samples to even them out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.support.processes import run_module


def launch(out: Path, processes: int, samples: int, kind: str) -> list[dict[str, Any]]:
    """Each rank's note of a run."""
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m"]
    script = ["tests.huggingface.distributed_run", out, samples, kind]
    run = run_module(*(torchrun if processes > 1 else ()), *script, OMP_NUM_THREADS="1")
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("samples", "kind"),
    [(61, "listening"), (51, "listening"), (64, "listening"), (61, "stream"), (59, "side set")],
    ids=["odd", "three in the last batch", "even", "a stream", "a side set"],
)
def test_two_processes_give_the_numbers_of_one(tmp_path, samples, kind):
    (one,) = launch(tmp_path / "one", 1, samples, kind)
    first, second = launch(tmp_path / "two", 2, samples, kind)
    assert first == second, "to the bit"
    assert len(one["history"]) == len(one["log"]) == 3
    assert [row["eval_ntps_info/samples"] for row in first["history"]] == [samples] * 3
    for row, wanted in zip(first["history"], one["history"], strict=True):
        found = {key: value for key, value in row.items() if key not in ("step", "epoch")}
        assert found == pytest.approx({key: wanted[key] for key in found}, abs=1e-6)


@pytest.mark.slow
def test_a_fault_on_one_rank(tmp_path):
    first, second = launch(tmp_path, 2, 61, "fault")
    assert first == second
    assert [row["eval_ntps_info/valid"] for row in first["log"]][-2:] == [0, 0]
