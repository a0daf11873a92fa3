"""When to measure, and what to log."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torchmetrics.utilities import rank_zero_info, rank_zero_warn
from typing_extensions import Unpack, override

from ntps_lightning.callback.baseline import as_sanity_check, why_no_replay
from ntps_lightning.callback.batch import BatchItem, describe
from ntps_lightning.callback.guard import Guard, OnError
from ntps_lightning.callback.logged import (
    log_values,
    logged_keys,
    logged_values,
    logger_step,
    loggers_at,
    print_line,
    summary_line,
    valid_key,
)
from ntps_lightning.callback.monitored_keys import MonitoredKeys
from ntps_lightning.callback.pictures import draws_pictures, log_pictures
from ntps_lightning.callback.records import Records
from ntps_lightning.callback.run import Run
from ntps_lightning.callback.sharding import refuse_empty_loaders
from ntps_lightning.callback.validation_epoch import ValidationEpoch
from ntps_lightning.capture.backbone import Layers, find_backbone
from ntps_lightning.capture.lookahead import refuse_lookahead
from ntps_lightning.distributed import from_first_rank, together
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.replay import Replay
from ntps_lightning.monitor.weights import copy_estimate


class NTPSCallback(Callback):
    """Logs the Next Token Perception Score of each validation epoch, from the module's own forward pass.

    Nothing is required of the module: hidden states are taken by hooks from the language model that it calls in
    ``validation_step``, labels from the batch. All is logged before anything may monitor it, so that
    ``EarlyStopping("ntps/captured_r2", mode="max")`` and ``ModelCheckpoint`` work wherever they are listed.

    Logged, as floats and the same on every rank (see :class:`~ntps_lightning.NTPSDetails`): held out, each with its
    standard error ``ntps_se/...``, ``ntps/probe_accuracy``, ``ntps/probe_r2``, ``ntps/captured_r2``,
    ``ntps/principal_r2`` and ``ntps/captured``; ``ntps/score``, ``ntps/null``, ``ntps/lift`` and
    ``ntps/captured_in_sample``; ``ntps/gain``, the score minus its baseline;
    ``ntps_info/valid``, 1, or 0 where nothing could be measured (monitors then find the last values, at no cost of
    patience); ``ntps_info/chance``, ``ntps_info/k``, ``ntps_info/ridge``, ``ntps_info/samples`` and
    ``ntps_info/samples_per_dim``; and, with several layers, ``ntps_layers/00/score`` and so on.

    Args:
        num_classes: number of classes; by default the largest label seen plus one.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, -1 the
            states after the final norm. The highest is the headline that ``ntps/score`` reports.
        labels: where a batch holds its ``(N,)`` labels: a key, an index, an attribute, or a function of the batch.
            Integers are classes, floats regression targets; words are classes too (:attr:`class_names` keeps which),
            and ``(N, C)`` integers multi-hot; samples of class -100 are left out.
        attention_mask: where a batch holds its ``(N, T)`` padding mask; by default the one the model is called with.
        tokens: which of the mask's tokens count, see :meth:`~ntps_lightning.NTPSMonitor.batch`; by default all. Where a
            batch holds ``(N, T)`` zeros and ones; or, where its item ``"labels"`` is the ``(N, T)`` token labels of a
            causal language model (the class of a sample is then elsewhere, ``labels=``): ``"supervised"``, tokens
            whose label is not -100, or ``"prompt"``, tokens whose label is.
        groups: where a batch says which samples belong together, such as windows of one text: N integers or words; held
            out numbers leave them out together. By default each sample is for itself.
        model: the language model, or its name in the module, where it cannot be found; it may be a module of plain
            PyTorch that returns ``(N, T, d)`` hidden states.
        baseline: score the model as it was before its first step: in the first validation the module's calls of the
            language model are made again with a copy of the weights that train, on the host, from before that step.
            Where that would not be the model from then (weights unfrozen since, trained ``inputs_embeds``, FSDP 1,
            DeepSpeed) it is said, not scored. ``trainer.validate`` before ``trainer.fit`` always serves; a run resumed
            from a checkpoint has the baseline that this holds, if it was saved after the first validation. State that
            a model keeps in generators of NumPy or in files is not known, and forward hooks of others hear the calls.
        every_n_epochs: measure at every n-th epoch; in between, monitors see the last values, at no cost of patience.
        dataloader_idx: which of several validation dataloaders to measure on.
        prefix: what the keys start with.
        kept: pooled states that each layer keeps for held-out numbers, the same in every epoch; 0 keeps none.
        controls: also measure what the same tokens would show in any order, ``held_out.bag_r2``: ``d^2`` numbers more,
            and float64 products that double the time of adding a batch on a CPU.
        figures: log the curves over k to loggers that take figures (with matplotlib installed).
        on_error: ``"warn"`` lets the run go on where a score fails (NaN in the hidden states, a single class, ...),
            ``"raise"`` does not.
        accumulate_device: where the sums are kept, such as ``"cpu"`` to spare a GPU's memory; by default where the
            hidden states are.
        allow_bidirectional: score a model that looks ahead, as BERT does, all the same. Without it the model is called
            once before the first step, over four short rows of tokens, and refused if its states depend on later ones.
        options: ``k``, ``ridge``, ``center``, ``orthonormal``, ``pooling`` and ``precision``, see
            :class:`~ntps_lightning.ScoreOptions`.

    Raises:
        ValueError: At once, if an option is out of range; before the first step, if the model cannot be found or looks
            ahead, a monitor asks for a key that is never logged or the device has no room for the sums; in the sanity
            check, if labels, mask or tokens cannot be found or no forward pass of the language model was seen. Later in
            a run nothing is raised, unless ``on_error="raise"``.

    Example::

        trainer = Trainer(callbacks=[NTPSCallback(), EarlyStopping("ntps/captured_r2", mode="max")])
        trainer.fit(module, datamodule)

    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        layers: Layers = -1,
        labels: BatchItem = "labels",
        attention_mask: BatchItem | None = None,
        tokens: BatchItem | None = None,
        groups: BatchItem | None = None,
        model: nn.Module | str | None = None,
        baseline: bool = True,
        every_n_epochs: int = 1,
        dataloader_idx: int = 0,
        prefix: str = "ntps",
        figures: bool = True,
        kept: int = 2048,
        controls: bool = False,
        on_error: OnError = "warn",
        accumulate_device: str | torch.device | None = None,
        allow_bidirectional: bool = False,
        **options: Unpack[ScoreKeywords],
    ) -> None:
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.num_classes = num_classes
        self.layers = layers
        self.labels = labels
        self.attention_mask = attention_mask
        self.tokens = tokens
        self.groups = groups
        self.model = model
        self.baseline = baseline
        self.every_n_epochs = every_n_epochs
        self.dataloader_idx = dataloader_idx
        self.prefix = prefix
        self.figures = figures
        self.kept = kept
        self.controls = controls
        self.accumulate_device = None if accumulate_device is None else torch.device(accumulate_device)
        self.allow_bidirectional = allow_bidirectional
        self.options = ScoreOptions(**options)
        self._records = self._new_records()
        self._guard = Guard(on_error, prefix)
        self._monitored = MonitoredKeys(prefix)
        self._keys: set[str] = set()
        self._run: Run | None = None
        self._tried: nn.Module | None = None
        self._epoch: ValidationEpoch | None = None
        self._monitor: NTPSMonitor | None = None
        self._replay: Replay | None = None
        self._undrawn = False
        self._stage = "fit"

    @property
    def _items(self) -> dict[str, BatchItem | None]:
        """Where a batch holds what the monitor is shown of it."""
        return {
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "tokens": self.tokens,
            "groups": self.groups,
        }

    @property
    def class_names(self) -> list[str]:
        """What each class is called, in the order of their indices, where labels are words."""
        return self._records.class_names

    @property
    def history(self) -> list[dict[str, float]]:
        """One dict for each measurement: ``step``, ``epoch`` and the logged values."""
        return self._records.history

    @property
    def details(self) -> dict[int, NTPSDetails]:
        """The latest details of each layer. Curves are whole for the headline where a figure of it is drawn."""
        return self._records.details

    @property
    def baseline_details(self) -> dict[int, NTPSDetails]:
        """The details of each layer from before the first step; empty where none were measured."""
        return self._records.baseline.details

    @property
    def changes(self) -> dict[str, dict[str, Estimate]]:
        """What the latest measurement has changed of the headline's held-out numbers since the ``"baseline"``, the
        ``"previous"`` measurement and the ``"best"`` one before by ``captured_r2``: each change with its own standard
        error, which is smaller than that of a difference between other samples. Nothing where other samples were read.
        """
        return self._records.changes

    # When to measure

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage = stage
        if stage not in ("fit", "validate"):
            return
        self._guard.new_run()
        self._monitor = None
        if self._begins(trainer, pl_module, stage):
            self._run = Run(trainer)
            self._tried = None
            self._records = self._new_records()
            self._records.baseline.begin(trainer.global_step, loggers_at(trainer))
        if stage == "fit" and self._run is not None:
            self._run.fits(pl_module)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        monitor = self._tried_monitor(trainer, pl_module)
        self._keys = logged_keys(self.prefix, monitor.layers, gain=self.baseline, held_out=self.kept > 0)
        validates = trainer.enable_validation
        self._monitored.check(trainer.callbacks, self._keys, validates=validates)  # type: ignore[attr-defined]
        if not validates:
            rank_zero_warn(f"NTPSCallback measures `{self.prefix}` on validation epochs, and this run has none.")
            return
        with together():
            self._check_memory(trainer, monitor)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_empty_loaders(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._monitored.check_schedulers(trainer.lr_scheduler_configs, self._keys)
        refuse_empty_loaders(trainer)
        if self._wants_baseline(trainer):
            reason = why_no_replay(trainer, pl_module)
            if reason:
                self._records.baseline.give_up(self.prefix, reason)
            else:
                with together():
                    self._check_replay_memory(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        # Not sooner: what starts a run may still change weights.
        if self._replay is None and self._wants_baseline(trainer):
            backbone = find_backbone(pl_module, self.model)
            self._replay = Replay(backbone, pl_module, lambda: as_sanity_check(trainer))

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        due = not self.history or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or trainer.sanity_checking or trainer.state.fn == "validate":
            replay = None if trainer.sanity_checking else self._replay
            self._epoch = ValidationEpoch(trainer, self._guard, lambda: self._tried_monitor(trainer, pl_module))
            if replay is not None:
                self._epoch.replay_with(replay, lambda: self._new_monitor(pl_module))

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._epoch is not None and dataloader_idx == self.dataloader_idx:
            self._epoch.open_batch(batch, dataloader_idx, self._items)

    @override
    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._epoch is not None:
            self._epoch.close_batch()

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._epoch is None:
            self._monitored.hold(trainer, self._keys, self._records.last_known)
        elif trainer.sanity_checking:
            self._epoch.check_seen()
        else:
            self._measure(trainer, pl_module, self._epoch)
        self._stop()

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not sooner: where the module logs a `step` of its own, loggers learn of it only now.
        if self._undrawn:
            with self._guard.logging(trainer, "a figure was not logged"):
                self._log_pictures(trainer, logger_step(trainer))
        self._undrawn = False

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._monitored.end_epoch(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()
        if self._run is None or self._run.is_of(trainer):
            self._replay = None

    def _begins(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> bool:
        """Whether this is another run; to validate is none where there are results."""
        if self._run is None:
            return stage == "fit" or not self.history
        return stage == "fit" and not self._run.goes_on(trainer, pl_module)

    def _new_records(self) -> Records:
        layers = self.layers if isinstance(self.layers, (int, str)) else list(self.layers)
        definition = {**asdict(self.options), "layers": layers, "dataloader_idx": self.dataloader_idx}
        definition["tokens"] = describe(self.tokens)
        return Records(self.prefix, {name: str(value) for name, value in definition.items()})

    def _tried_monitor(self, trainer: Trainer, pl_module: LightningModule) -> NTPSMonitor:
        """A monitor of a model that does not look ahead; every rank comes here."""
        with together():
            monitor = self._new_monitor(pl_module)
            backbone = find_backbone(pl_module, self.model)
        if not self.allow_bidirectional and backbone.decoder is not self._tried:
            with trainer.precision_plugin.val_step_context():  # as a validation step would call it, once for a model
                refuse_lookahead(backbone, trainer.strategy.model)  # type: ignore[arg-type]
            self._tried = backbone.decoder
        return monitor

    def _new_monitor(self, pl_module: LightningModule) -> NTPSMonitor:
        """For one validation epoch: a strategy may have wrapped the model since the last."""
        backbone = find_backbone(pl_module, self.model)
        if self._monitor is not None:
            return self._monitor.twin(backbone)
        self._monitor = NTPSMonitor(
            backbone,
            layers=self.layers,
            num_classes=self.num_classes,
            kept=self.kept,
            controls=self.controls,
            accumulate_device=self.accumulate_device,
            **asdict(self.options),
        )
        self._monitor.expect_classes(self._records.num_classes, self._records.class_names)
        self._monitor.notices = self._guard.notices
        return self._monitor

    def _wants_baseline(self, trainer: Trainer) -> bool:
        start = self._records.baseline.step
        trained = trainer.global_step != start or (start and trainer.ckpt_path)  # what is resumed has trained
        first = not self.history and not trained and trainer.enable_validation
        short = trainer.fast_dev_run or trainer.barebones  # type: ignore[attr-defined]
        return self.baseline and first and not short and not self._records.baseline.why_none

    def _check_memory(self, trainer: Trainer, monitor: NTPSMonitor) -> None:
        estimate = monitor.memory(trainer.strategy.root_device, processes=trainer.num_devices)
        if estimate is not None:
            estimate.check()
            rank_zero_info(f"NTPS will take {estimate}")

    def _check_replay_memory(self, trainer: Trainer, pl_module: LightningModule) -> None:
        copy = copy_estimate(find_backbone(pl_module, self.model).outermost)
        copy.check()
        sums = self._new_monitor(pl_module).memory(trainer.strategy.root_device, processes=trainer.num_devices)
        if sums is not None:
            replace(sums, measurements=2).check()
        rank_zero_info(f"NTPS takes {copy}, and the sums twice in that validation, for the baseline")

    def _measure(self, trainer: Trainer, pl_module: LightningModule, epoch: ValidationEpoch) -> None:
        """Scores, or the fault that there are none for, into the history and the logs; those from before come first."""
        step, records = trainer.global_step, self._records
        whole_curve = self.figures and draws_pictures(trainer)
        found = epoch.finish(whole_curve=whole_curve)
        if epoch.replayed is not None:
            self._replay = None
            self._take_baseline(trainer, epoch.replayed.finish(whole_curve=whole_curve))
            if found and epoch.replayed.refusal:
                records.baseline.give_up(self.prefix, epoch.replayed.refusal)
        if found:
            fitted = self._run is None or self._run.fitted
            untrained = not fitted and step == records.baseline.step and trainer.state.fn == "validate"
            quiet = untrained or trainer.fast_dev_run  # type: ignore[attr-defined]
            records.take(found, step, baseline=self.baseline, untrained=quiet)
            records.num_classes, records.class_names = epoch.classes
        values = from_first_rank(logged_values(self.prefix, found, records.baseline.score))
        records.append(step, trainer.current_epoch, values)
        self._log(trainer, pl_module, values)
        missing = f"{self.prefix} not measured at step {step}: {self._guard.fault}"
        line = summary_line(self.prefix, found, records.changes.get("baseline"), step) if found else missing
        with self._guard.logging(trainer, "a line could not be printed"):
            print_line(trainer, line)

    def _take_baseline(self, trainer: Trainer, found: dict[int, NTPSDetails]) -> None:
        """What the first validation's batches would have scored before the first step, as the point at step 0."""
        if not found:
            return
        records, step = self._records, self._records.baseline.step
        records.take(found, step, baseline=True, untrained=True)
        values = from_first_rank(logged_values(self.prefix, found, records.baseline.score))
        records.append(step, 0, values)
        for logger in trainer.loggers:
            with self._guard.logging(trainer, "a logger refused the baseline"):
                logger.log_metrics(values, step=records.baseline.logged_at)
        self._log_pictures(trainer, records.baseline.logged_at)
        with self._guard.logging(trainer, "a line could not be printed"):
            print_line(trainer, summary_line(self.prefix, found, None, step))

    def _stop(self) -> None:
        """Listen no more, whatever was under way."""
        if self._epoch is not None:
            self._epoch.stop()
        self._epoch = None

    def _log(self, trainer: Trainer, pl_module: LightningModule, values: dict[str, float]) -> None:
        self._undrawn = bool(values[valid_key(self.prefix)])
        # Where nothing could be measured, or one number has no value, such as the ratio of two that may be nothing.
        held = {key: value for key, value in self._records.last_known.items() if key not in values}
        log_values(pl_module, self.prefix, held | values)
        self._monitored.hold(trainer, self._keys - set(values), held)

    def _log_pictures(self, trainer: Trainer, step: int) -> None:
        if self.figures:
            log_pictures(trainer, f"{self.prefix}/curves", step, self._records, self._guard)

    # To go on

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no trainer and no module, whose ``log`` Lightning attaches."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        carried = dict.fromkeys(("_run", "_epoch", "_monitor", "_tried", "_replay"))
        return kept | carried

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    @override
    def state_dict(self) -> dict[str, Any]:
        return self._records.state_dict()

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage == "fit" or not self.history:  # a checkpoint that is tested or validated takes nothing away
            self._records.load_state_dict(state_dict)
            self._monitor = None
