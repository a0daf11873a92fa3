"""The processes of one command, where torchrun has started several."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager


def is_first() -> bool:
    """Whether this one writes and prints the result of all."""
    return not _several() or os.environ["RANK"] == "0"


def is_first_here() -> bool:
    """Whether this one says for all of this machine what is wrong."""
    return not _several() or os.environ["LOCAL_RANK"] == "0"


@contextmanager
def joined(device: str | None) -> Iterator[None]:
    """Join the others, if there are any, each on a GPU of its own where there are GPUs.

    Raises:
        SetupError: In every process of this machine, if it has more of them than GPUs, or a GPU is named for all.

    """
    if not _several():
        yield
        return

    import torch
    import torch.distributed as dist

    on_gpu = torch.cuda.is_available() and device is None
    if on_gpu:
        _take_gpu(torch.cuda.device_count())
    elif device is not None and device.startswith("cuda"):
        _refuse(f"--device {device} is one GPU for all processes of torchrun: leave it out, and each takes its own")
    dist.init_process_group("nccl" if on_gpu and dist.is_nccl_available() else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def _several() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and int(os.environ["WORLD_SIZE"]) > 1


def _take_gpu(count: int) -> None:
    import torch

    here = int(os.environ["LOCAL_WORLD_SIZE"])
    if here > count:
        _refuse(
            f"torchrun started {here} processes where PyTorch sees {count} GPUs: start as many with --nproc-per-node"
            f" {count}, or name --device cpu"
        )
    torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))


def _refuse(reason: str) -> None:
    from ntps_lightning.errors import SetupError

    raise SetupError(reason)
