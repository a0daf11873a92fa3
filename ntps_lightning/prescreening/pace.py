"""How many tokens a call of the model is over: on a GPU as many as there is room for."""

from __future__ import annotations

import torch

from ntps_lightning.available import available_bytes

# Tokens of a call on a CPU, whose caches larger ones leave, and where calls begin elsewhere; past the most a GPU gains
# nothing.
_ON_CPU = 1024
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
        self.tokens = _ON_CPU if device.type == "cpu" else _FIRST
        self._device = device
        self._grows = device.type == "cuda"
        self._before = 0
        self._under_way = self.tokens

    def rows(self, length: int) -> int:
        """How many rows the next call takes, the longest of which has so many tokens: at least one."""
        return max(1, self.tokens // length)

    def begin(self, tokens: int) -> None:
        """A call over so many comes."""
        self._under_way = tokens
        if self._grows:
            torch.cuda.reset_peak_memory_stats(self._device)
            self._before = torch.cuda.memory_allocated(self._device)

    def end(self) -> None:
        """The call has come through."""
        if not self._grows or self._under_way <= self.tokens / 2 or self.tokens >= _MOST:
            return
        taken = torch.cuda.max_memory_allocated(self._device) - self._before
        free = available_bytes(self._device)
        if free is not None and 2 * taken <= _ROOM * free:
            self.tokens *= 2

    def halve(self) -> None:
        """There was no memory; it does not grow again."""
        self.tokens = max(1, min(self.tokens, self._under_way) // 2)
        self._grows = False
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
