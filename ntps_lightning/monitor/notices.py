"""What a user is told once."""

from __future__ import annotations

from torchmetrics.utilities import rank_zero_warn


class Notices:
    """Warns, on the first rank, at most once of each thing."""

    def __init__(self) -> None:
        self._given: set[str] = set()

    def give(self, what: str, message: str) -> None:
        """Warn with ``message``, if it is the first of ``what``."""
        if what not in self._given:
            self._given.add(what)
            rank_zero_warn(message)
