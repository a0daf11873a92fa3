"""Two real processes (gloo) give the score of one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.multiprocessing as mp
from data import pad, sequences

from ntps_lightning import NextTokenPerceptionScore

HERE = Path(__file__).parent


def launch(out: Path, processes: int, samples: int) -> list[dict]:
    out.mkdir()
    arguments = [sys.executable, str(HERE / "distributed_run.py"), str(out), str(processes), str(samples)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    run = subprocess.run(arguments, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    return [json.loads((out / f"rank{rank}.json").read_text()) for rank in range(processes)]


@pytest.mark.parametrize("samples", [61, 41])
def test_ddp_gives_the_single_process_score_on_both_ranks(tmp_path, samples):
    """61: one padding duplicate; 41: one, in a last batch that holds nothing else on its rank."""
    (single,) = launch(tmp_path / "one", 1, samples)
    ranks = launch(tmp_path / "two", 2, samples)
    assert ranks[0]["epochs"] == ranks[1]["epochs"], "to the bit"
    for rank in ranks:
        assert rank["stopped"] == single["stopped"] == 2
        assert len(rank["epochs"]) == 2
        for row, wanted in zip(rank["history"], single["history"], strict=True):
            values = {k: v for k, v in row.items() if k not in ("step", "epoch")}
            assert values == pytest.approx({k: wanted[k] for k in values}, abs=1e-6)
            assert row["ntps/samples_per_dim"] == samples / 16


def _metric_worker(rank: int, out: str, address: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    hidden, mask, labels = torch.load(f"{out}/data.pt")
    metric = NextTokenPerceptionScore(6, 3)
    # Rank 0 gets 80 samples, then, after a first result, the rest; rank 1 never gets any.
    results = []
    for part in (slice(0, 80), slice(80, None)):
        if rank == 0:
            metric.update(hidden[part], labels[part], mask[part])
        details = metric.details()
        results.append((details.score, details.num_samples, int(metric.num_samples)))
    torch.save(results, f"{out}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_an_empty_rank_and_going_on_after_a_result(rng, tmp_path):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples, filler=0)
    labels = torch.tensor(labels)
    torch.save((hidden, mask, labels), tmp_path / "data.pt")
    mp.spawn(_metric_worker, args=(str(tmp_path), str(tmp_path / "meeting")), nprocs=2)
    expected = []
    for end in (80, 120):
        metric = NextTokenPerceptionScore(6, 3)
        metric.update(hidden[:end], labels[:end], mask[:end])
        expected.append(float(metric.compute()))
    for rank in range(2):
        for (score, total, own), wanted, end in zip(
            torch.load(tmp_path / f"rank{rank}.pt"), expected, (80, 120), strict=True
        ):
            assert score == pytest.approx(wanted, rel=1e-10)
            assert total == end
            assert own == (end if rank == 0 else 0), "local sums are restored after a sync"
