"""Measuring on labelled side sets, which the model is run over beside whatever it is trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Any

from torch import nn
from typing_extensions import override

from ntps_lightning.callback.own_pass import as_sanity_check
from ntps_lightning.callback.report import Report
from ntps_lightning.callback.sharding import place_of
from ntps_lightning.callback.source import Source
from ntps_lightning.distributed import together
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.side_pass import Side, measure_side_set


class SideSets(Source):
    """Runs the model over side sets at validation epochs, at epochs' ends without, or every so many steps.

    Args:
        reports: of the watch of each set.
        sides: the sets.
        every_n_epochs: at which epochs.
        every_n_steps: at which optimizer steps instead.

    """

    def __init__(
        self, reports: Sequence[Report], sides: Sequence[Side], every_n_epochs: int, every_n_steps: int | None
    ) -> None:
        super().__init__(reports)
        self._pairs = list(zip(reports, sides, strict=True))
        self._every_n_epochs = every_n_epochs
        self._every_n_steps = every_n_steps
        self._measured_at = -1

    @override
    def fit_start(self, trainer: Any, module: nn.Module) -> None:
        self._measured_at = -1
        within = trainer.precision_plugin.val_step_context
        for report, side in self._pairs:
            side.prepare(report.watch, module)
            monitor = report.watch.tried_monitor(module, trainer.strategy.model, within)
            report.expect(trainer, monitor.layers, measured=True)
            with together():
                report.watch.check_memory(monitor, trainer.strategy.root_device, trainer.num_devices)

    @override
    def train_start(self, trainer: Any, module: nn.Module) -> None:
        with together():
            for report, _ in self._pairs:
                report.watch.entry(module, trainer.strategy.model)

    @override
    def train_batch_start(self, trainer: Any, module: nn.Module) -> None:
        for report, side in self._pairs:
            if self.wants_baseline(trainer, report.watch):
                self._measure_baseline(trainer, module, report, side)

    @override
    def train_batch_end(self, trainer: Any, module: nn.Module) -> None:
        step = trainer.global_step
        if self._every_n_steps is None or step % self._every_n_steps or step in (0, self._measured_at):
            return
        self._measured_at = step
        for report, side in self._pairs:
            with _outside_of_clocks(trainer):
                listening, found = self._run(trainer, module, report, side)
                report.row_between(trainer, self.take(trainer, report.watch, listening, found))

    @override
    def validation_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        if trainer.sanity_checking:
            return
        if trainer.state.fn == "validate":
            for report, side in self._pairs:
                side.prepare(report.watch, module)
        self._end_epoch(trainer, module)

    @override
    def train_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        if not trainer.enable_validation:
            self._end_epoch(trainer, module)

    def _end_epoch(self, trainer: Any, module: nn.Module) -> None:
        validates = trainer.state.fn == "validate"
        if self._every_n_steps is not None and not validates:
            for report in self.reports:
                report.look(trainer)
            return
        for report, side in self._pairs:
            records = report.watch.records
            if validates or not records.history or (trainer.current_epoch + 1) % self._every_n_epochs == 0:
                listening, found = self._run(trainer, module, report, side)
                report.row(trainer, module, self.take(trainer, report.watch, listening, found))
            else:
                report.skip(trainer)

    def _measure_baseline(self, trainer: Any, module: nn.Module, report: Report, side: Side) -> None:
        watch = report.watch
        with _outside_of_clocks(trainer):
            listening, found = self._run(trainer, module, report, side)
            if found:
                report.baseline(trainer, watch.take_baseline(found, listening))
            else:
                watch.give_up_baseline(watch.guard.fault)

    def _run(
        self, trainer: Any, module: nn.Module, report: Report, side: Side
    ) -> tuple[Listening, dict[int, NTPSDetails]]:
        watch = report.watch
        self.begin(trainer, watch)
        within = lambda: as_sanity_check(trainer)  # noqa: E731
        caller, whole_curve = trainer.strategy.model, report.draws(trainer)
        return measure_side_set(watch, side, module, caller, within, place_of(trainer), whole_curve=whole_curve)


@contextmanager
def _outside_of_clocks(trainer: Any) -> Iterator[None]:
    """Validations that are due by time do not come sooner for what takes time here."""
    start = monotonic()
    yield
    if getattr(trainer, "_last_val_time", None) is not None:
        trainer._last_val_time += monotonic() - start
