"""Measuring from the module's own validation passes."""

from __future__ import annotations

from typing import Any

from torch import nn
from torchmetrics.utilities import rank_zero_warn
from typing_extensions import override

from ntps_lightning.callback.own_pass import as_sanity_check, why_no_replay
from ntps_lightning.callback.report import Report
from ntps_lightning.callback.sharding import own_samples, refuse_empty_loaders
from ntps_lightning.callback.source import Source
from ntps_lightning.distributed import together
from ntps_lightning.monitor.replay import Replay
from ntps_lightning.watch.listening import Listening


class Validation(Source):
    """Listens to the passes of validation epochs.

    Args:
        report: of the watch that measures.
        every_n_epochs: which of them.
        dataloader_idx: which of several dataloaders.

    """

    def __init__(self, report: Report, every_n_epochs: int, dataloader_idx: int) -> None:
        super().__init__([report])
        self._report = report
        self._watch = report.watch
        self._every_n_epochs = every_n_epochs
        self._dataloader_idx = dataloader_idx
        self._listening: Listening | None = None

    @override
    def fit_start(self, trainer: Any, module: nn.Module) -> None:
        monitor = self._watch.tried_monitor(module, trainer.strategy.model, trainer.precision_plugin.val_step_context)
        validates = trainer.enable_validation
        self._report.expect(trainer, monitor.layers, measured=validates)
        if not validates:
            rank_zero_warn(
                f"NTPSCallback measures `{self._watch.prefix}` on validation epochs, and this run has none; with a"
                " labelled side set (data=...) it needs none."
            )
            return
        with together():
            self._watch.check_memory(monitor, trainer.strategy.root_device, trainer.num_devices)

    @override
    def sanity_check_start(self, trainer: Any) -> None:
        refuse_empty_loaders(trainer)

    @override
    def train_start(self, trainer: Any, module: nn.Module) -> None:
        refuse_empty_loaders(trainer)
        if self._replays(trainer):
            reason = why_no_replay(trainer, module)
            if reason:
                self._watch.give_up_baseline(reason)
            else:
                with together():
                    self._watch.check_replay_memory(module, trainer.strategy.root_device, trainer.num_devices)

    @override
    def train_batch_start(self, trainer: Any, module: nn.Module) -> None:
        # Not sooner: what starts a run may still change weights.
        if self._watch.replay is None and self._replays(trainer):
            self._watch.replay = Replay(self._watch.backbone(module), module, lambda: as_sanity_check(trainer))

    def _replays(self, trainer: Any) -> bool:
        """Whether the first validation is also to be made with the weights from before the first step."""
        return bool(trainer.enable_validation) and self.wants_baseline(trainer, self._watch)

    @override
    def validation_epoch_start(self, trainer: Any, module: nn.Module) -> None:
        self.stop()
        due = not self._watch.records.history or (trainer.current_epoch + 1) % self._every_n_epochs == 0
        if due or trainer.sanity_checking or trainer.state.fn == "validate":
            self.begin(trainer, self._watch)
            within = trainer.precision_plugin.val_step_context
            caller = trainer.strategy.model
            self._listening = self._watch.listen(module, caller, within, replayed=not trainer.sanity_checking)

    @override
    def validation_batch_start(self, trainer: Any, batch: Any, dataloader_idx: int) -> None:
        if self._listening is not None and dataloader_idx == self._dataloader_idx:
            own = lambda first, count: own_samples(trainer, dataloader_idx, first, count)  # noqa: E731
            self._listening.open_batch(batch, self._watch.settings.items, own)

    @override
    def validation_batch_end(self) -> None:
        if self._listening is not None:
            self._listening.close_batch()

    @override
    def validation_epoch_end(self, trainer: Any, module: nn.Module) -> None:
        if self._listening is None:
            self._report.skip(trainer)
        elif trainer.sanity_checking:
            self._listening.check_seen()
        else:
            self._measure(trainer, module, self._listening)
        self.stop()

    def _measure(self, trainer: Any, module: nn.Module, listening: Listening) -> None:
        whole_curve = self._report.draws(trainer)
        found = listening.finish(whole_curve=whole_curve)
        first = self._watch.finish_replay(listening, whole_curve=whole_curve)
        if first is not None:
            self._report.baseline(trainer, first)
        self._report.row(trainer, module, self.take(trainer, self._watch, listening, found))

    @override
    def stop(self) -> None:
        if self._listening is not None:
            self._listening.stop()
        self._listening = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles listen to nothing."""
        return self.__dict__ | {"_listening": None}
