"""How Lightning's loggers, monitors and terminal are told of what was measured on one labelled set."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from ntps_lightning.callback.logged import log_values, logger_step, loggers_at, print_line
from ntps_lightning.callback.monitored_keys import MonitoredKeys
from ntps_lightning.callback.pictures import draws_pictures, log_pictures
from ntps_lightning.watch.names import valid_key
from ntps_lightning.watch.watch import Row, Watch


class Report:
    """Tells of the rows of a watch.

    Args:
        watch: what measures.
        figures: whether curves are drawn.

    """

    def __init__(self, watch: Watch, *, figures: bool) -> None:
        self.watch = watch
        self.monitored = MonitoredKeys(watch.prefix)
        self._figures = figures
        self._keys: set[str] = set()
        self._undrawn = False
        self._new: set[str] = set()

    def expect(self, trainer: Any, layers: list[int], *, measured: bool) -> None:
        """Before a run: refuse monitors of keys that are not logged."""
        self._keys = self.watch.keys(layers)
        self.monitored.check(trainer.callbacks, self._keys, measured=measured)

    def check_schedulers(self, trainer: Any) -> None:
        """The same for learning-rate schedulers, which are known later."""
        self.monitored.check_schedulers(trainer.lr_scheduler_configs, self._keys)

    def draws(self, trainer: Any) -> bool:
        """Whether curves will be drawn."""
        return self._figures and draws_pictures(trainer)

    def baseline(self, trainer: Any, row: Row) -> None:
        """The point from before the first step, which loggers get at the step that they had then."""
        self._tell_loggers(trainer, row.values, self.watch.records.baseline.logged_at, "a logger refused the baseline")
        self._draw(trainer, self.watch.records.baseline.logged_at)
        self._print(trainer, row)

    def row(self, trainer: Any, pl_module: Any, row: Row) -> None:
        """A measurement at the end of an epoch, where a module may log."""
        self._undrawn = bool(row.values[valid_key(self.watch.prefix)])
        # Where nothing could be measured, or one number has no value, such as the ratio of two that may be nothing.
        held = self.watch.held(row.values)
        log_values(pl_module, self.watch.prefix, held | row.values)
        self.monitored.hold(trainer, self._keys - set(row.values), held)
        self._print(trainer, row)

    def row_between(self, trainer: Any, row: Row) -> None:
        """A measurement between two training batches: loggers get it now, monitors when they look."""
        values = self.watch.held(row.values) | row.values
        self._tell_loggers(trainer, values, loggers_at(trainer), "a logger refused a measurement")
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in values.items()})
        if row.values[valid_key(self.watch.prefix)]:
            self._draw(trainer, loggers_at(trainer))
        self._new |= set(row.values)
        self._print(trainer, row)

    def skip(self, trainer: Any) -> None:
        """Monitors are about to look, and nothing is new: they find the last values, at no cost of patience."""
        self.monitored.hold(trainer, self._keys, self.watch.records.last_known)

    def look(self, trainer: Any) -> None:
        """Monitors are about to look: of some keys something is new since they last did."""
        self.monitored.hold(trainer, self._keys - self._new, self.watch.records.last_known)
        self._new = set()

    def draw(self, trainer: Any) -> None:
        """At a validation's end: where the module logs a `step` of its own, loggers learn of it only then."""
        if self._undrawn:
            with self.watch.guard.logging("a figure was not logged"):
                self._draw(trainer, logger_step(trainer))
        self._undrawn = False

    def _draw(self, trainer: Any, step: int) -> None:
        if self._figures:
            log_pictures(trainer, f"{self.watch.prefix}/curves", step, self.watch.records, self.watch.guard)

    def _tell_loggers(self, trainer: Any, values: Mapping[str, float], step: int, refused: str) -> None:
        for logger in trainer.loggers:
            with self.watch.guard.logging(refused):
                logger.log_metrics(dict(values), step=step)

    def _print(self, trainer: Any, row: Row) -> None:
        with self.watch.guard.logging("a line could not be printed"):
            print_line(trainer, row.line)
