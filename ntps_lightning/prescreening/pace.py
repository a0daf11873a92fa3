"""How many tokens a call of the model is over: on a GPU as many as there is room for."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ntps_lightning.available import available_bytes
from ntps_lightning.side_set import SideBatch

# Where calls begin, and stay on a CPU, whose caches larger ones leave; past the most a GPU gains nothing.
_FIRST = 8192
_MOST = 2**18
# Of the free memory, what twice a call's may take.
_ROOM = 0.7


class Pace:
    """Grows where memory allows it, and halves where a call has found none.

    Args:
        device: of the model.

    Attributes:
        tokens: rows times tokens of the longest, of the next call.

    """

    def __init__(self, device: torch.device) -> None:
        self.tokens = _FIRST
        self._device = device
        self._grows = device.type == "cuda"
        self._before = 0

    def count(self, batches: Sequence[SideBatch]) -> int:
        """How many of these, each of one row and the longest first, the next call takes: at least one."""
        return max(1, min(len(batches), self.tokens // batches[0].inputs["input_ids"].shape[1]))

    def begin(self) -> None:
        """A call comes."""
        if self._grows:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)

    def end(self, tokens: int) -> None:
        """The call, over so many, has come through."""
        if not self._grows or tokens <= self.tokens / 2 or self.tokens >= _MOST:
            return
        taken = torch.cuda.max_memory_allocated(self._device) - self._before
        free = available_bytes(self._device)
        if free is not None and 2 * taken <= _ROOM * free:
            self.tokens *= 2

    def halve(self) -> None:
        """There was no memory; it does not grow again."""
        self.tokens = max(1, self.tokens // 2)
        self._grows = False
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
