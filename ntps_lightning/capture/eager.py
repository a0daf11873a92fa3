"""Compiled models run as they were written while they are listened to."""

from __future__ import annotations

from contextlib import ExitStack

import torch


class _ForceEager:
    """Compiled code ignores hooks that it was not compiled with, and would be compiled anew, deaf again, with them."""

    def __init__(self) -> None:
        self._listeners = 0
        self._stance = ExitStack()

    def enter(self) -> None:
        """One more listener."""
        if self._listeners == 0:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        self._listeners += 1

    def leave(self) -> None:
        """One less; after the last, compiled code runs again."""
        self._listeners -= 1
        if self._listeners == 0:
            self._stance.close()


FORCE_EAGER = _ForceEager()
