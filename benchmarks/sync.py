"""Summing the states over ranks: peak extra memory and bytes sent per rank, and what sharing out the layers saves.

Bytes are those that the loopback interface counts, over real processes (gloo).

python -m benchmarks.sync
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn
from torchmetrics.utilities.distributed import gather_all_tensors

from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.progress import doing
from benchmarks.helpers.synthetic import hidden_states
from benchmarks.helpers.timing import goal, ratios, spread, table
from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.distributed import gather


def sent_bytes():
    line = next(line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:"))
    return int(line.split()[9])


def metric_of(rank, d, **options):
    metric = NextTokenPerceptionScore(d, 5, kept=0, **options)  # the sums; kept rows are m (4 d + 48) bytes more
    metric.update(*hidden_states(64, 16, d, seed=rank))
    return metric


def by_torchmetrics(metric):
    metric.sync(dist_sync_fn=lambda tensor, group=None: gather_all_tensors(tensor, group))


WAYS = {
    "one all-reduce each (metric)": lambda metric: metric.sync(),
    "reduced to one rank (callback)": lambda metric: metric.reduce_(0),
    "gathered (torchmetrics)": by_torchmetrics,
}


def worker(rank, world_size, d, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    dist.all_reduce(torch.zeros(2**18))  # connections are made, and counted, once
    found = {}
    for name, way in WAYS.items():
        metric = metric_of(rank, d)
        dist.barrier()
        before = sent_bytes()
        dist.barrier()
        peak = peak_bytes(lambda metric=metric, way=way: way(metric))
        dist.barrier()
        peaks = [None] * world_size
        sent = sent_bytes() - before
        dist.all_gather_object(peaks, peak)
        found[name] = (max(peaks), sent / world_size)
        del metric
    if rank == 0:
        torch.save(found, f"{folder}/found.pt")
    dist.destroy_process_group()


def solver(rank, world_size, d, folder):
    """Seconds until every rank has the scores of eight layers, layer i solved by rank i mod W, on one thread a rank."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=world_size)
    seconds = []
    for _ in range(3):
        metrics = [metric_of(rank, d) for _ in range(8)]
        dist.barrier()
        start = time.perf_counter()
        for i, metric in enumerate(metrics):
            metric.reduce_(i % world_size)
        gather([metric.details(whole_curve=False, sync=False).score for metric in metrics[rank::world_size]])
        seconds.append(time.perf_counter() - start)
    if rank == 0:
        torch.save(seconds, f"{folder}/found.pt")
    dist.destroy_process_group()


def measure(world_size, d, work=worker):
    doing(f"d={d}: {'summing and solving' if work is solver else 'summing'} over ranks: {world_size}")
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (world_size, d, folder), nprocs=world_size)
        return torch.load(f"{folder}/found.pt")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=1024)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    d = args.hidden_size
    states = (3 * d**2 + 12 * d) * 8
    found = {world_size: measure(world_size, d) for world_size in (2, 4, 8)}
    rows = []
    for name in WAYS:
        for world_size, ways in found.items():
            peak, sent = ways[name]
            ring = 2 * (world_size - 1) / world_size * states
            ours = "torchmetrics" not in name
            growth = (peak - found[2][name][0]) / states
            judged = goal(round(sent / ring, 2), 2) if ours else ("", "")
            flat = goal(round(growth, 2), 0.1) if ours else ("", "")
            rows.append(
                [
                    f"{name}, {world_size} ranks",
                    f"{peak / states:.2f}",
                    f"{growth:+.2f}",
                    *flat,
                    f"{sent / 2**20:.0f}",
                    f"{sent / ring:.2f}",
                    *judged,
                ]
            )
    columns = [
        "sync",
        "peak extra / states",
        "more than with 2",
        "goal",
        "",
        "MiB sent a rank",
        "to ring all-reduce",
        "goal",
        "",
    ]
    table(f"5. Sync of {states / 2**20:.0f} MiB of states, d = {d} [gloo]", columns, rows)
    shared = {world_size: measure(world_size, 768, solver) for world_size in (1, 2)}
    found = ratios(shared[2], shared[1])
    rows = [["one rank", spread(shared[1]), "", "", ""]]
    rows += [["two ranks", spread(shared[2]), spread(found), *goal(round(statistics.median(found), 2), 0.6)]]
    table(
        "5. Eight layers of d = 768, summed and solved [gloo, one thread a rank]", ["", "s", "ratio", "goal", ""], rows
    )


if __name__ == "__main__":
    main()
