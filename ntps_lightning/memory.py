"""What the score's sums take, and what a device has left."""

from __future__ import annotations

import math
from dataclasses import dataclass

import psutil
import torch

from ntps_lightning.errors import SetupError
from ntps_lightning.functional.moments import moment_shapes

_BYTES = 8


def state_bytes(num_layers: int, hidden_size: int, num_outputs: int) -> int:
    """Bytes of the sums over samples of ``num_layers`` layers: every state of the metric, in float64."""
    shapes = moment_shapes(hidden_size, num_outputs).values()
    return num_layers * sum(math.prod(shape) for shape in shapes) * _BYTES


def scratch_bytes(hidden_size: int) -> int:
    """Bytes that are taken for a while, beside the sums: while a batch is added, by 4,096 tokens x 2 d and two d x d
    products in float32 and the sums of these in float64, or while one layer is solved, by 13 d x d matrices in float64;
    and 16 MiB for what libraries allocate. ``python -m benchmarks.memory`` holds this against what is measured.
    """
    adding = 4096 * (2 * hidden_size + 16) * 4 + 2 * hidden_size**2 * (4 + _BYTES)
    return max(adding, 13 * hidden_size**2 * _BYTES) + 2**24


def available_bytes(device: torch.device) -> int | None:
    """Bytes that can be allocated on ``device``, or ``None`` where that is not known."""
    if device.type == "cpu":
        return int(psutil.virtual_memory().available)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return None


@dataclass(frozen=True)
class MemoryEstimate:
    """What the sums over samples of some layers take.

    Args:
        num_layers: how many layers.
        hidden_size: d.
        num_outputs: C, or 0 where it is not known yet, so that what classes add is not counted.
        device: where the sums are kept.
        measurements: how many are under way at once: two in a validation that a baseline is measured in as well.

    """

    num_layers: int
    hidden_size: int
    num_outputs: int
    device: torch.device
    measurements: int = 1

    def __str__(self) -> str:
        states = self._states()
        each = f"(3 d² + d C + C² + ...) x {_BYTES} bytes at d = {self.hidden_size}, C = {self.num_outputs or '?'}"
        times = f"{self.measurements} measurements x " if self.measurements > 1 else ""
        layers = f"{times}{self.num_layers} layers"
        scratch = _size(scratch_bytes(self.hidden_size))
        return f"{_size(states)} on {self.device}: {layers} x {each}, and {scratch} of scratch memory"

    def check(self) -> None:
        """Refuse, before it is taken, what the device does not have.

        Raises:
            SetupError: If the device does not have it; the message says how many layers fit.

        """
        states = self._states()
        scratch = scratch_bytes(self.hidden_size)
        free = available_bytes(self.device)
        if free is None or states + scratch <= free:
            return
        fit = max(0, free - scratch) * self.num_layers // states
        way_out = f"name at most {fit} layers with `layers=`" if fit else "not even one layer fits"
        way_out += ", or keep the sums elsewhere with `accumulate_device=`"
        way_out += ", or spare the second measurement with `baseline=False`" if self.measurements > 1 else ""
        raise SetupError(f"NTPS needs {self}, and only {_size(free)} are free; {way_out}")

    def _states(self) -> int:
        return self.measurements * state_bytes(self.num_layers, self.hidden_size, self.num_outputs)


@dataclass(frozen=True)
class CopyEstimate:
    """What a copy of weights takes on the host.

    Args:
        count: its bytes.

    """

    count: int

    def __str__(self) -> str:
        return f"{_size(self.count)} on the host for a copy of the weights that train until the first validation"

    def check(self) -> None:
        """Refuse, before it is taken, what the host does not have.

        Raises:
            SetupError: If the host does not have it.

        """
        free = available_bytes(torch.device("cpu"))
        if free is not None and self.count > free:
            raise SetupError(f"NTPS needs {self}, and only {_size(free)} are free; `baseline=False` spares it")


def _size(count: int) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
