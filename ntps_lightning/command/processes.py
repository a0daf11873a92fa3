"""The processes of one command, where torchrun has started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_first() -> bool:
    """Whether this one speaks, and writes, for all."""
    return not _several() or os.environ["RANK"] == "0"


@contextmanager
def joined(device: str | None) -> Iterator[None]:
    """Join the others, if there are any, on a GPU each where there are GPUs and no device is named.

    Raises:
        SetupError: In every process of this machine, if it has more of them than GPUs.

    """
    if not _several():
        yield
        return

    import torch
    import torch.distributed as dist

    on_gpu = torch.cuda.is_available() and (device is None or device.startswith("cuda"))
    if on_gpu and device is None:
        _take_gpu(torch.cuda.device_count())
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def _take_gpu(count: int) -> None:
    import torch

    from ntps_lightning.errors import SetupError

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if here > count:
        raise SetupError(
            f"torchrun started {here} processes where there are {count} GPUs: start as many with --nproc-per-node"
            f" {count}, or name --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
