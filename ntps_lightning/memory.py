"""What the score's sums take, and whether there is room for them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from ntps_lightning.available import available_bytes, processes_on_this_host
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.kept_samples import kept_shapes
from ntps_lightning.functional.moments import moment_shapes

_BYTES = 8


def state_bytes(
    num_layers: int, hidden_size: int, num_outputs: int, *, classes: bool = True, kept: int = 0, controls: bool = False
) -> int:
    """Bytes of ``num_layers`` layers: every state of the metric, float64 sums over samples and rows that are kept."""
    shapes = moment_shapes(hidden_size, num_outputs, classes=classes, controls=controls).values()
    rows = kept_shapes(kept, hidden_size, num_outputs, classes=classes).values()
    sums = sum(math.prod(shape) for shape in shapes) * _BYTES
    return num_layers * (sums + sum(math.prod(shape) * dtype.itemsize for shape, dtype, _ in rows))


def scratch_bytes(hidden_size: int, kept: int = 0, *, controls: bool = False) -> int:
    """Bytes that are taken for a while, beside the sums: while a batch is added, by 4,096 tokens x 2 d and two d x d
    products in float32 and the sums of these in float64, or while one layer is solved, by 13 d x d matrices in float64
    (17 with controls), and for m kept rows by 4 m x m and 8 m x d; and 16 MiB for what libraries allocate.
    ``python -m benchmarks.memory`` holds this against what is measured.
    """
    adding = 4096 * (2 * hidden_size + 16) * 4 + 2 * hidden_size**2 * (4 + _BYTES)
    solving = (17 if controls else 13) * hidden_size**2 + 4 * kept**2 + 8 * kept * hidden_size
    return max(adding, solving * _BYTES) + 2**24


@dataclass(frozen=True)
class MemoryEstimate:
    """What the sums over samples of some layers take.

    Args:
        num_layers: how many layers.
        hidden_size: d.
        num_outputs: C, or 0 where it is not known yet, so that what classes add is not counted.
        device: where the sums are kept.
        classes: whether C counts classes, and not targets.
        kept: pooled states that each layer keeps.
        processes: how many keep such sums in the same memory; of a host by default those that the launcher names.
        measurements: how many are under way at once: two in a validation that a baseline is measured in as well.
        controls: whether what the directions without order need is summed too.

    """

    num_layers: int
    hidden_size: int
    num_outputs: int
    device: torch.device
    classes: bool = True
    kept: int = 0
    processes: int | None = None
    measurements: int = 1
    controls: bool = False

    def __str__(self) -> str:
        free = self._free()
        return self._need() if free is None else f"{self._need()}; at most {self._room(free)} are free"

    @property
    def fit(self) -> int | None:
        """How many such layers there is room for; ``None`` where what is free is not known."""
        free = self._free()
        if free is None:
            return None
        return max(0, free - self._scratch()) * self.num_layers // self._states()

    def check(self) -> None:
        """Refuse, before it is taken, what the device does not have.

        Raises:
            SetupError: If the device does not have it; the message says how many layers fit.

        """
        free, fit = self._free(), self.fit
        if free is None or fit is None or fit >= self.num_layers:
            return
        way_out = f"name at most {fit} layers with `layers=`" if fit else "not even one layer fits"
        way_out += ", or keep the sums elsewhere with `accumulate_device=`"
        way_out += ", or spare the second measurement with `baseline=False`" if self.measurements > 1 else ""
        raise SetupError(f"NTPS needs {self._need()}, and at most {self._room(free)} are free; {way_out}")

    def _need(self) -> str:
        square = "" if self.classes else " + C²"
        numbers = f"{3 + self.controls} d² + d C{square} + ..."
        each = f"({numbers}) x {_BYTES} bytes at d = {self.hidden_size}, C = {self.num_outputs or '?'}"
        each += f" and {self.kept} kept states" if self.kept else ""
        layers = f"{self.measurements} measurements x " if self.measurements > 1 else ""
        layers += f"{self.num_layers} layers"
        states, scratch = size_in_words(self._states()), size_in_words(self._scratch())
        return f"{states} on {self.device}: {layers} x {each}, and {scratch} of scratch memory"

    def _room(self, free: int) -> str:
        sharing = self._sharing()
        return size_in_words(free) + (f" for each of {sharing} processes" if sharing > 1 else "")

    def _sharing(self) -> int:
        """A GPU is a process's own."""
        return (self.processes or processes_on_this_host()) if self.device.type == "cpu" else 1

    def _free(self) -> int | None:
        free = available_bytes(self.device)
        return None if free is None else free // self._sharing()

    def _scratch(self) -> int:
        return scratch_bytes(self.hidden_size, self.kept, controls=self.controls)

    def _states(self) -> int:
        each = state_bytes(
            self.num_layers,
            self.hidden_size,
            self.num_outputs,
            classes=self.classes,
            kept=self.kept,
            controls=self.controls,
        )
        return self.measurements * each


@dataclass(frozen=True)
class CopyEstimate:
    """What a copy of weights takes on the host.

    Args:
        count: its bytes.

    """

    count: int

    def __str__(self) -> str:
        return (
            f"{size_in_words(self.count)} on the host for a copy of the weights that train until the first validation"
        )

    def check(self) -> None:
        """Refuse, before it is taken, what the host does not have.

        Raises:
            SetupError: If the host does not have it.

        """
        free = available_bytes(torch.device("cpu"))
        if free is not None and self.count > free:
            raise SetupError(
                f"NTPS needs {self}, and at most {size_in_words(free)} are free; `baseline=False` spares it"
            )


def size_in_words(count: int) -> str:
    """Such as ``"1.5 GiB"``."""
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
