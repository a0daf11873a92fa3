"""Where the numbers of a callback come from: which passes over which labelled samples, and when."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from ntps_lightning.callback.report import Report
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.watch import Row, Watch


class Source:
    """Follows a Trainer's events, as :class:`~ntps_lightning.NTPSCallback` hands them on.

    Args:
        reports: one for each labelled set.

    Attributes:
        reports: the same.
        fitted: whether the run has fitted a module, or is about to.

    """

    def __init__(self, reports: Sequence[Report]) -> None:
        self.reports = list(reports)
        self.fitted = False

    def fit_start(self, trainer: Any, module: nn.Module) -> None:
        """Refuse what cannot work."""

    def sanity_check_start(self, trainer: Any) -> None:
        """The first batches are about to come."""

    def train_start(self, trainer: Any, module: nn.Module) -> None:
        """The strategy has its model."""

    def train_batch_start(self, trainer: Any, module: nn.Module) -> None:
        """Before a step, which may be the first."""

    def train_batch_end(self, trainer: Any, module: nn.Module) -> None:
        """After a batch, which need not be a step."""

    def train_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        """Before monitors look."""

    def validation_epoch_start(self, trainer: Any, module: nn.Module) -> None:
        """Before the first batch."""

    def validation_batch_start(self, trainer: Any, batch: Any, dataloader_idx: int) -> None:
        """Before the module sees a batch."""

    def validation_batch_end(self) -> None:
        """After it has."""

    def validation_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        """While the module may log."""

    def stop(self) -> None:
        """Listen no more, whatever was under way."""

    def wants_baseline(self, trainer: Any, watch: Watch) -> bool:
        """Whether a point from before the first step is still to be had."""
        start = watch.records.baseline.step
        trained = trainer.global_step != start or bool(start and trainer.ckpt_path)  # what is resumed has trained
        short = trainer.fast_dev_run or trainer.barebones
        return not short and watch.may_have_baseline(trained=trained)

    def begin(self, trainer: Any, watch: Watch) -> None:
        """A measurement begins; what cannot work at all is raised where nothing is lost yet."""
        early = trainer.sanity_checking or trainer.state.fn == "validate" or bool(trainer.fast_dev_run)
        watch.guard.begin(trainer.global_step, early=early)

    def take(self, trainer: Any, watch: Watch, listening: Listening, found: dict[int, NTPSDetails]) -> Row:
        """What was measured, into the history."""
        step = trainer.global_step
        untrained = not self.fitted and step == watch.records.baseline.step and trainer.state.fn == "validate"
        quiet = untrained or bool(trainer.fast_dev_run)
        return watch.take(listening, found, step, trainer.current_epoch, untrained=quiet)
