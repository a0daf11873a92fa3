"""The devices that a model can be on here: room, and what they compute in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from ntps_lightning.available import available_bytes, processes_on_this_host

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


@dataclass(frozen=True)
class Device:
    """A device.

    Args:
        name: as PyTorch calls it.
        what: what it is.
        free_bytes: what a process may still take of its memory, where that is known.
        dtypes: those that it multiplies matrices in.
        sums: whether a model can be measured there, which takes float64.
        note: what to know of it.
        problem: why it cannot be used, if so.

    """

    name: str
    what: str
    free_bytes: int | None
    dtypes: list[str]
    sums: bool
    note: str = ""
    problem: str = ""


def find_devices() -> list[Device]:
    """The CPU, CUDA devices and Apple's MPS."""
    return [_device(name, what) for name, what in _names()]


def _names() -> Iterator[tuple[str, str]]:
    threads, processes = torch.get_num_threads(), processes_on_this_host()
    sharing = f", memory shared by {processes} processes" if processes > 1 else ""
    yield "cpu", f"{threads} thread{'s' if threads > 1 else ''}{sharing}"
    for index in range(torch.cuda.device_count()):
        yield f"cuda:{index}", torch.cuda.get_device_name(index)
    if torch.backends.mps.is_available():
        yield "mps", "Apple's GPU"


def _device(name: str, what: str) -> Device:
    device = torch.device(name)
    try:
        dtypes = [str(dtype).removeprefix("torch.") for dtype in _DTYPES if _multiplies(device, dtype)]
        free = available_bytes(device)
    except RuntimeError as error:  # such as a GPU that another process has filled
        reason = str(error).strip().splitlines()[0]
        return Device(
            name, what, None, [], False, problem=f"cannot be used ({reason}); free it or hide it from PyTorch"
        )
    share = free // processes_on_this_host() if free is not None and name == "cpu" else free
    sums = "float64" in dtypes
    note = "" if sums else "no float64, which the sums take: a model is not measured here, but on the CPU"
    return Device(name, what, share, dtypes, sums, note)


def _multiplies(device: torch.device, dtype: torch.dtype) -> bool:
    try:
        matrix = torch.ones(2, 2, dtype=dtype, device=device)
        return bool((matrix @ matrix).sum().item() == 8)
    except (TypeError, NotImplementedError):
        return False
    except RuntimeError as error:
        if "not implemented" in str(error):
            return False
        raise
