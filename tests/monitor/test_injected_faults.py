"""Whatever fails on one rank between two collectives fails on both: none waits for the other."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any
from unittest import mock

import pytest
import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from ntps_lightning import NTPSMonitor, distributed
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.kept_samples import KeptSamples
from ntps_lightning.memory import MemoryEstimate
from ntps_lightning.metric import NextTokenPerceptionScore
from ntps_lightning.monitor.labels import LabelKind
from ntps_lightning.monitor.measurement import Measurement
from tests.monitor.test_distributed import show, tiny_model, worded

PLACES = {
    "batch": (Measurement, "add"),
    "memory of a batch": (MemoryEstimate, "check"),
    "classes learned": (LabelKind, "agree_on_names"),
    "classes grown": (NextTokenPerceptionScore, "grow"),
    "classes moved": (NextTokenPerceptionScore, "move_classes"),
    "copies dropped": (Measurement, "_drop_copies"),
    "shapes": (Measurement, "_give_one_shape"),
    "a metric for a rank without a batch": (Measurement, "_add_metric"),
    "room for what crosses": (distributed, "_stage"),
    "kept rows placed": (KeptSamples, "placed"),
    "layers solved": (NextTokenPerceptionScore, "details"),
}


@contextmanager
def failing(place: str, when: bool) -> Iterator[None]:
    """Out of memory there, on this rank, once the batches are in."""
    if not when:
        yield
        return
    error = torch.OutOfMemoryError(f"CUDA out of memory: {place}")
    with mock.patch.object(*PLACES[place], side_effect=error):
        yield


def outcome(compute: Callable[[], Any]) -> tuple[str, str]:
    try:
        compute()
    except Exception as error:
        return type(error).__name__, str(error)
    return "", ""


def worker(rank: int, out: str) -> None:
    torch.set_num_threads(1)
    limit = datetime.timedelta(seconds=60)
    dist.init_process_group("gloo", init_method=f"file://{out}/meeting", rank=rank, world_size=2, timeout=limit)
    model, batches = tiny_model(), worded()
    monitor = NTPSMonitor(model, layers="all")
    found: dict[str, Any] = {}
    for place in PLACES:
        monitor.reset()
        mine = [] if place.startswith("a metric") and rank else batches[rank::2]
        if "batch" in place.split()[-1] and "metric" not in place:
            with failing(place, rank == 1):
                outcome(partial(show, monitor, model, mine))
            found[place] = outcome(monitor.compute)
        else:
            show(monitor, model, mine)
            with failing(place, rank == 1):
                found[place] = outcome(monitor.compute)
    monitor.reset()
    show(monitor, model, batches[rank::2])
    found["after"] = {layer: details.score for layer, details in monitor.compute().items()}
    torch.save(found, f"{out}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.compatibility(
    "Strategies",
    "a fault on one rank between any two collectives",
    "raised on every rank, none waits; the next is right",
)
def test_every_fault_is_agreed_upon(tmp_path):
    spawn(worker, args=(str(tmp_path),), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    for place in PLACES:
        assert f"CUDA out of memory: {place}" in second[place][1]
        reason = second[place][1]
        assert first[place][1] in ("it failed on another rank", reason, f"rank 1: {reason}"), place
    assert first["after"] == second["after"]
    model, batches = tiny_model(), worded()
    alone = NTPSMonitor(model, layers="all")
    show(alone, model, batches)
    expected = {layer: details.score for layer, details in alone.compute().items()}
    assert first["after"] == pytest.approx(expected, abs=1e-6)


def test_of_several_faults_each_rank_tells_its_own():
    with pytest.raises(SetupError, match="mine"), distributed.together():
        raise SetupError("mine")
