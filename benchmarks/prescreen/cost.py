"""Seconds and memory of a library that runs a model and estimates."""

import time
from collections.abc import Callable

import torch
from torch import nn

from benchmarks.helpers.clock import Clock
from benchmarks.helpers.peak import peak_bytes

PARTS = ("model", "gathering", "estimation")


class Meter:
    """Seconds of the processor in the calls of the model, in gathering what they give, and in estimation.

    Args:
        model: in memory, and used once, so that its weights count as memory that was there before.

    """

    def __init__(self, model: nn.Module) -> None:
        with torch.no_grad():
            model(input_ids=torch.ones(1, 2, dtype=torch.long))
        self._clock = Clock("rest", "nobody")
        self.watch("model", type(model), ["forward"])

    def watch(self, part: str, owner: type, names: list[str]) -> None:
        """Methods whose time is of a part; but not that of other parts that they call."""
        self._clock.watch(part, owner, names)

    def of(self, work: Callable[[], object]) -> dict:
        """Seconds by part, and of everything else; those on the wall; bytes at the peak beyond those before."""
        self._clock.stop()
        begin = time.perf_counter()
        peak = peak_bytes(work)
        wall = time.perf_counter() - begin
        return {"seconds": dict(self._clock.stop()), "wall": wall, "peak_bytes": peak}
