"""What the score's sums take, and what a device has left."""

from __future__ import annotations

import psutil
import torch
from lightning.pytorch.utilities import rank_zero_info

from ntps_lightning.errors import SetupError


def state_bytes(num_layers: int, hidden_size: int, num_outputs: int) -> int:
    """Bytes of the sums over samples of ``num_layers`` layers: layers x (3 d² + d C) x 8."""
    return num_layers * (3 * hidden_size**2 + hidden_size * num_outputs) * 8


def scratch_bytes(hidden_size: int) -> int:
    """Bytes that are taken for a while, beside the sums: while a batch is added, by 4,096 tokens x 2 d and two d x d
    products in float32, or while one layer is solved, by 13 d x d matrices in float64; and 16 MiB for what libraries
    allocate. ``benchmarks/memory.py`` holds this against what is measured.
    """
    adding = 4096 * (2 * hidden_size + 16) * 4 + 2 * hidden_size**2 * 4
    return max(adding, 13 * hidden_size**2 * 8) + 2**24


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on ``device``, or ``None`` where that is not known."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return None


def check_memory(num_layers: int, hidden_size: int, num_outputs: int | None, device: torch.device) -> None:
    """Say what will be allocated, before it is; what classes add counts where their number is known.

    Raises:
        SetupError: If the device does not have it.

    """
    states, scratch = state_bytes(num_layers, hidden_size, num_outputs or 0), scratch_bytes(hidden_size)
    free = available_bytes(device)
    formula = f"{num_layers} layers x (3 x {hidden_size}² + {hidden_size} x {num_outputs or 'C'}) x 8 bytes"
    sums = f"{_size(states)} on {device}: {formula}, and {_size(scratch)} of scratch memory"
    if free is not None and states + scratch > free:
        fit = max(0, free - scratch) * num_layers // states
        way_out = f"name at most {fit} layers with `layers=`" if fit else "not even one layer fits"
        way_out += ", or keep the sums elsewhere with `accumulate_device=`"
        raise SetupError(f"NTPS needs {sums}, and only {_size(free)} are free; {way_out}")
    rank_zero_info(f"NTPS will take {sums}")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
