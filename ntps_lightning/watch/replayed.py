"""The first measurement's calls, made again with the weights from before the first step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ntps_lightning.capture.call import Call, versions
from ntps_lightning.distributed import gather
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.replay import ELSEWHERE, Replay
from ntps_lightning.watch.guard import Guard


class Replayed:
    """Measures, beside another measurement, what its batches would have scored before the first step.

    Args:
        guard: keeps what goes wrong from the run, and from the score of the other itself.
        new_monitor: makes what listens to the calls that are made again.
        replay: makes them.

    Attributes:
        refusal: why a call was not made again, and no other will be; empty while all were.

    """

    def __init__(self, guard: Guard, new_monitor: Callable[[], NTPSMonitor], replay: Replay) -> None:
        self.refusal = ""
        self._guard = guard
        self._monitor: NTPSMonitor | None = None
        self._replay = replay
        self._shown: dict[str, Any] = {}
        self._versions: list[int] = []
        with guard.measuring():
            self._monitor = new_monitor()

    def expect(self, shown: dict[str, Any]) -> None:
        """What :meth:`NTPSMonitor.batch` is shown of the batch that comes; nothing where it cannot be."""
        self._shown = shown
        self._versions = versions(shown)

    def repeat(self, call: Call | None) -> None:
        """Make the call of that batch again. Ranks that share a model come here together, whatever happened to them."""
        if self.refusal:
            return
        shown, self._shown = self._shown, {}
        changed = versions(shown) != self._versions
        reason = "labels, mask or ids of a batch were changed in place" if changed else self._guard.fault
        batch = None
        if shown and not reason and self._monitor is not None:
            with self._guard.measuring(self._monitor):
                batch = self._monitor.batch(**shown)
        with self._guard.measuring(self._monitor):
            self.refusal = self._replay.repeat(call if batch else None, batch or nullcontext(), reason)

    def finish(self, *, whole_curve: bool) -> dict[int, NTPSDetails]:
        """The details of every layer; nothing if any rank has failed or refused. Every rank comes here."""
        self._guard.agree()
        faults, refusals = zip(*gather((self._guard.fault, self.refusal)), strict=True)
        if any(faults) or any(refusals):
            known = [reason for reason in refusals if reason not in ("", ELSEWHERE)]
            self.refusal = "" if any(faults) else (known or [ELSEWHERE])[0]
            return {}
        found: dict[int, NTPSDetails] = {}
        if self._monitor is not None:
            with self._guard.measuring():
                found = self._monitor.compute(whole_curve=whole_curve)
        return found if self._guard.agree() else {}
