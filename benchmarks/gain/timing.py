"""How long runs take, from rows of the same device."""

import time

from benchmarks.decisions.rows import Rows
from benchmarks.gain.machine import device_name


class Clock:
    """What is left, by the mean seconds of the rows of each kind.

    Args:
        rows: of all devices.
        minutes: that may pass from now; ``None``: any.

    """

    MARGIN = 1.25

    def __init__(self, rows: Rows, minutes: float | None):
        self._rows = rows
        self._device = device_name()
        self._end = None if minutes is None else time.perf_counter() + 60 * minutes

    def expected(self, kind: str) -> float | None:
        """Seconds of a run; ``None`` before the first one."""
        mine = [row for row in self._rows.all.values() if (row["kind"], row["device"]) == (kind, self._device)]
        return sum(row["seconds"] for row in mine) / len(mine) if mine else None

    def allows(self, kind: str) -> bool:
        """Whether a run would end in time, with some to spare."""
        if self._end is None:
            return True
        return time.perf_counter() + self.MARGIN * (self.expected(kind) or 0) < self._end

    def left(self, kinds: list[str]) -> str:
        """The time of runs to come, in words."""
        seconds = {kind: self.expected(kind) for kind in kinds}
        unknown = sum(seconds[kind] is None for kind in kinds)
        known = sum(seconds[kind] or 0 for kind in kinds)
        return f"{len(kinds)} left, {known / 60:.0f} minutes" + (
            f" and {unknown} whose time is not known" if unknown else ""
        )
