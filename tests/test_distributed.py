"""The metric over two real processes (gloo)."""

from __future__ import annotations

import pytest
import torch
from torch.multiprocessing.spawn import spawn

from ntps_lightning import NextTokenPerceptionScore
from tests.support.data import pad, sequences


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
    metric.reduce_(1)
    if rank == 1:
        details = metric.details(sync=False)
        results.append((details.score, details.num_samples, 0))
    torch.save(results, f"{out}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_an_empty_rank_and_going_on_after_a_result(rng, tmp_path):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples, filler=0)
    labels = torch.tensor(labels)
    torch.save((hidden, mask, labels), tmp_path / "data.pt")
    spawn(_metric_worker, args=(str(tmp_path), str(tmp_path / "meeting")), nprocs=2)
    expected = []
    for end in (80, 120):
        metric = NextTokenPerceptionScore(6, 3)
        metric.update(hidden[:end], labels[:end], mask[:end])
        expected.append(float(metric.compute()))
    reduced = torch.load(tmp_path / "rank1.pt")[2]
    assert reduced[0] == pytest.approx(expected[1], rel=1e-10)
    assert reduced[1] == 120
    for rank in range(2):
        for (score, total, own), wanted, end in zip(
            torch.load(tmp_path / f"rank{rank}.pt")[:2], expected, (80, 120), strict=True
        ):
            assert score == pytest.approx(wanted, rel=1e-10)
            assert total == end
            assert own == (end if rank == 0 else 0), "local sums are restored after a sync"


CAPACITY = 40


def _rows(metric):
    rows, _ = metric._kept().rows(3)
    return {name: getattr(rows, name) for name in ("states", "targets", "weights", "groups", "halves")}


def _kept_worker(rank: int, out: str, address: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{address}", rank=rank, world_size=2)
    hidden, mask, labels, ids, groups = torch.load(f"{out}/data.pt")
    found = []
    for own_groups in (None, groups):
        metric = NextTokenPerceptionScore(6, 3, kept=CAPACITY, controls=True)
        for part in torch.arange(rank, len(labels), 2).flip(0).split(7 + rank):
            metric.update(
                hidden[part], labels[part], mask[part], ids[part], None if own_groups is None else groups[part]
            )
        with metric.sync_context():
            found.append(_rows(metric))
        assert len(_rows(metric)["states"]) > 0, "its own again"
        held_out = metric.details().held_out
        found.append((held_out.probe_r2.value, held_out.bag_r2.value, held_out.rows))
        metric.reduce_(1)
        if rank == 1:
            found.append(_rows(metric))
    torch.save(found, f"{out}/rank{rank}.pt")
    torch.distributed.destroy_process_group()


def test_the_kept_rows_of_two_processes_are_those_of_one(rng, tmp_path):
    samples, labels = sequences(rng)
    hidden, mask = pad(samples, filler=0)
    labels, ids = torch.tensor(labels), torch.from_numpy(rng.integers(10**9, size=len(samples)))
    ids[60:70], hidden[60:70], mask[60:70], labels[60:70] = ids[:10], hidden[:10], mask[:10], labels[:10]
    groups = ids % 23
    torch.save((hidden, mask, labels, ids, groups), tmp_path / "data.pt")
    spawn(_kept_worker, args=(str(tmp_path), str(tmp_path / "meeting")), nprocs=2)
    ranks = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2)]
    reduced = [ranks[1].pop(5), ranks[1].pop(2)][::-1]
    for i, own_groups in enumerate((None, groups)):
        one = NextTokenPerceptionScore(6, 3, kept=CAPACITY, controls=True)
        one.update(hidden, labels, mask, ids, own_groups)
        wanted = _rows(one)
        assert 20 <= len(wanted["states"]) <= CAPACITY
        assert wanted["weights"].max() == 2
        for rows in (ranks[0][2 * i], ranks[1][2 * i], reduced[i]):
            assert all(torch.equal(rows[name], wanted[name]) for name in wanted), "to the bit"
        for rank in ranks:
            held_out = one.details().held_out
            assert rank[2 * i + 1][:2] == pytest.approx((held_out.probe_r2.value, held_out.bag_r2.value), abs=1e-9)
            assert rank[2 * i + 1][2] == held_out.rows, "the same rows, wherever they were brought together"
