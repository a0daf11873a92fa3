"""Measuring from the passes that a loop makes anyway: from the first batch to the details of every layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ntps_lightning.batch_items import BatchItem, count_samples, read_item
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.batch import MonitoredBatch
from ntps_lightning.monitor.replay import Replay
from ntps_lightning.watch.batch import input_ids, read_tokens
from ntps_lightning.watch.guard import Guard
from ntps_lightning.watch.replayed import Replayed

# Which of a rank's samples no other rank counts, by how many it has seen before and how many there are.
Own = Callable[[int, int], Tensor | None]


class Listening:
    """Shows a monitor the batches of one evaluation; what goes wrong costs its score alone.

    Args:
        guard: keeps what goes wrong from the run.
        new_monitor: makes the monitor; a strategy may have wrapped the model since the last evaluation.

    Attributes:
        replayed: what the batches would have scored before the first step; ``None`` where that is not measured.
        classes: how many were declared or seen, and their names where labels are words, once it is finished.

    """

    def __init__(self, guard: Guard, new_monitor: Callable[[], NTPSMonitor]) -> None:
        self.replayed: Replayed | None = None
        self.classes: tuple[int, list[str]] = (0, [])
        self._guard = guard
        self._monitor: NTPSMonitor | None = None
        self._batch: MonitoredBatch | None = None
        self._expected = False
        with guard.measuring():
            self._monitor = new_monitor()

    def replay_with(self, replay: Replay, new_monitor: Callable[[], NTPSMonitor]) -> None:
        """Make every call again with the weights from before the first step, and show it to a monitor of its own."""
        self.replayed = Replayed(self._guard.beside(), new_monitor, replay)

    def open_batch(self, batch: Any, items: Mapping[str, BatchItem | None], own: Own) -> None:
        """Before the model sees a batch, which holds each of ``items`` where it says."""
        self._expected = True
        if self._monitor is None:
            return
        with self._guard.measuring(self._monitor):
            if batch is None:
                raise SetupError(
                    "validation_step takes a dataloader_iter, so that no batch is seen; take (batch, batch_idx)"
                )
            shown: dict[str, Any] = {
                what: read_tokens(batch, where) if what == "tokens" else read_item(batch, where, what)
                for what, where in items.items()
                if where is not None
            }
            count = count_samples(shown["labels"])
            shown["input_ids"] = input_ids(batch)
            shown["sample_mask"] = own(self._monitor.samples_seen, count)
            self._open(self._monitor, shown)

    def show(self, shown: dict[str, Any]) -> None:
        """Before the model sees a batch of which :meth:`NTPSMonitor.batch` is shown this."""
        self._expected = True
        if self._monitor is not None:
            with self._guard.measuring(self._monitor):
                self._open(self._monitor, shown)

    def _open(self, monitor: NTPSMonitor, shown: dict[str, Any]) -> None:
        self._batch = monitor.batch(**shown)
        if self.replayed is not None:
            self.replayed.expect(shown)
            self._batch.record()
        self._batch.open()

    def close_batch(self) -> None:
        """After the model has seen a batch, whether it was opened or not."""
        call = None
        if self._batch is not None:
            with self._guard.measuring():
                self._batch.close()
            call = self._batch.call
            self._batch = None
        if self._expected and self.replayed is not None:
            self.replayed.repeat(call)
        self._expected = False

    def check_seen(self) -> None:
        """End at a few batches that no score comes of: they show whether one can be measured."""
        if self._guard.agree() and self._monitor is not None:
            with self._guard.measuring():
                self._monitor.check_seen()
            self._guard.agree()

    def finish(self, *, whole_curve: bool) -> dict[int, NTPSDetails]:
        """The details of every layer; nothing if any rank failed. Every rank comes here, whatever happened to it."""
        found: dict[int, NTPSDetails] = {}
        if self._guard.agree() and self._monitor is not None:
            with self._guard.measuring():
                found = self._monitor.compute(whole_curve=whole_curve)
            self.classes = (self._monitor.num_classes, self._monitor.class_names)
            if not self._guard.agree():
                found = {}
        return found

    def stop(self) -> None:
        """Listen no more, whatever was under way."""
        if self._batch is not None:
            self._batch.abandon("the evaluation ended within a batch")
        self._batch = None
        self._monitor = None
        self.replayed = None
