"""NTPS on every validation epoch of a Lightning run: when to measure, and what to log."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib.util import find_spec
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import nn
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning import report
from ntps_lightning.backbone import Backbone, find_backbone
from ntps_lightning.batches import Batch, BatchItem, input_ids, item, own_samples, refuse_empty_loaders
from ntps_lightning.errors import SetupError
from ntps_lightning.functional import NTPSDetails
from ntps_lightning.functional.accumulate import Pooling, Precision
from ntps_lightning.functional.score import check_options
from ntps_lightning.measurement import Measurement
from ntps_lightning.memory import check_memory
from ntps_lightning.monitors import Monitors


class NTPSCallback(Callback):
    """Logs the Next Token Perception Score of each validation epoch, from the module's own forward pass.

    Nothing is required of the module: hidden states are taken by hooks from the language model that it calls in
    ``validation_step``, labels from the batch. The score is logged as ``ntps`` before anything may monitor it:
    ``EarlyStopping("ntps", mode="max")`` and ``ModelCheckpoint(monitor="ntps", mode="max")`` work in any order.

    Logged, as floats and the same on every rank: ``ntps``; ``ntps/valid``, 1, or 0 where the score could not be
    measured (monitors then find its last value, at no cost of patience); ``ntps/captured``, ``ntps/null``,
    ``ntps/lift``, ``ntps/chance``, ``ntps/probe_mse`` and ``ntps/samples_per_dim`` (see
    :class:`~ntps_lightning.NTPSDetails`); ``ntps/gain``, the score minus its baseline; and, with several layers,
    ``ntps/layer_00`` and so on.

    Args:
        num_classes: number of classes; by default the largest label seen plus one.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, -1 the
            states after the final norm. The highest is the headline that ``ntps`` reports.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.
        labels: where a batch holds its ``(N,)`` labels: a key, an index, an attribute, or a function of the batch.
            Integers are classes, floats regression targets; samples of class -100 are left out.
        attention_mask: where a batch holds its ``(N, T)`` padding mask; by default the one the model is called with.
        model: the language model, or its name in the module, where it cannot be found; it may be a module of plain
            PyTorch that returns ``(N, T, d)`` hidden states.
        k: number of autoregressive directions: a count in [1, d], or a fraction of d in (0, 1]. By default the number
            of classes or 1% of d, whichever is more.
        ridge: added to the perception covariance B, relative to tr(B)/d.
        center: measure hidden states and targets from their means.
        orthonormal: compare the subspaces alone, with an orthonormal basis of the perception subspace.
        baseline: score the model before its first step, by letting the sanity check run over the whole validation
            set, whatever ``num_sanity_val_steps`` says (``trainer.validate`` before ``trainer.fit`` serves as well).
        every_n_epochs: measure at every n-th epoch; in between, monitors see the last values, at no cost of patience.
        dataloader_idx: which of several validation dataloaders to measure on.
        prefix: the key of the score, and what the other keys start with.
        figures: log the curves over k to loggers that take figures (with matplotlib installed).
        on_error: ``"warn"`` lets the run go on where a score fails (NaN in the hidden states, a single class, ...),
            ``"raise"`` does not.
        precision: of float32 products: ``"highest"`` is float32, ``"high"`` is TensorFloat32 on GPUs that have it,
            whatever :func:`torch.set_float32_matmul_precision` says.
        accumulate_device: where the sums are kept, such as ``"cpu"`` to spare a GPU's memory; by default where the
            hidden states are.

    Attributes:
        history: one dict for each measurement: ``step``, ``epoch`` and the logged values.
        details: the latest :class:`~ntps_lightning.NTPSDetails` of each layer. Curves are whole for the headline where
            figures are logged; else they end at k.
        baseline_details: those of the baseline, once it is measured.

    Raises:
        ValueError: If an option is out of range; at the start of a run, if the language model cannot be found, a
            monitor asks for a key that is never logged or the device has no room for the sums; in the sanity check, if
            labels or mask cannot be found or no forward pass of the language model was seen. Later in a run nothing
            is raised, unless ``on_error="raise"``.

    Example::

        trainer = Trainer(callbacks=[NTPSCallback(), EarlyStopping("ntps", mode="max")])
        trainer.fit(module, datamodule)

    """

    def __init__(
        self,
        num_classes: int | None = None,
        layers: int | list[int] | Literal["all"] = -1,
        pooling: Pooling = "mean",
        labels: BatchItem = "labels",
        attention_mask: BatchItem | None = None,
        model: nn.Module | str | None = None,
        k: int | float | None = None,
        ridge: float = 0.1,
        center: bool = True,
        orthonormal: bool = False,
        baseline: bool = True,
        every_n_epochs: int = 1,
        dataloader_idx: int = 0,
        prefix: str = "ntps",
        figures: bool = True,
        on_error: Literal["warn", "raise"] = "warn",
        precision: Precision = "highest",
        accumulate_device: str | torch.device | None = None,
    ) -> None:
        check_options(k=k, ridge=ridge, pooling=pooling, precision=precision)
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.num_classes, self.layers, self.labels, self.attention_mask = num_classes, layers, labels, attention_mask
        self.model, self.baseline, self.every_n_epochs = model, baseline, every_n_epochs
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}')
        self.dataloader_idx, self.prefix, self.figures, self.on_error = dataloader_idx, prefix, figures, on_error
        self.history: list[dict[str, float]] = []
        self.details: dict[int, NTPSDetails] = {}
        self.baseline_details: dict[int, NTPSDetails] = {}
        self.accumulate_device = None if accumulate_device is None else torch.device(accumulate_device)
        self._options = {
            "k": k,
            "ridge": ridge,
            "center": center,
            "orthonormal": orthonormal,
            "pooling": pooling,
            "precision": precision,
        }
        self._trainer: Trainer | None = None
        self._measurement: Measurement | None = None
        self._full_sanity_check = False
        self._user_sanity_steps: int | float | None = None
        self._baseline_score: float | None = None
        self._num_classes = 0
        self._keys: set[str] = set()
        self._monitors = Monitors(prefix)
        self._due, self._fault, self._warned = False, "", False

    # When to measure

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer is not self._trainer:
            self._trainer, self._baseline_score, self._num_classes, self._warned = trainer, None, 0, False
            self.history, self.details, self.baseline_details = [], {}, {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        backbone = find_backbone(pl_module, self.model)
        layers = backbone.resolve(self.layers)
        self._keys = report.keys(self.prefix, layers, gain=self.baseline)
        self._monitors.check(trainer.callbacks, self._keys)  # type: ignore[attr-defined]
        if not trainer.enable_validation:
            rank_zero_warn(f"NTPSCallback measures `{self.prefix}` on validation epochs, and this run has none.")
            return
        self._check_memory(trainer, backbone, layers)
        untrained = not self.history and trainer.global_step == 0
        if self.baseline and untrained and not (trainer.fast_dev_run or trainer.barebones):  # type: ignore[attr-defined]
            self._full_sanity_check = True
            if trainer.num_sanity_val_steps != math.inf:
                self._user_sanity_steps, trainer.num_sanity_val_steps = trainer.num_sanity_val_steps, math.inf

    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        refuse_empty_loaders(trainer)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = self._full_sanity_check and bool(self.history)
        self._end_sanity_check(trainer)
        refuse_empty_loaders(trainer)
        if measured:
            # Lightning drops what is logged in the sanity check: the loggers get it here, as the point at step 0.
            for logger in trainer.loggers:
                with self._guard(trainer, "a logger refused the baseline"):
                    logger.log_metrics(_logged(self.history[-1]), step=trainer.global_step)
            self._log_figures(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        due = not self.history or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        self._due = due or trainer.sanity_checking or trainer.state.fn == "validate"
        self._fault = ""
        if self._due:
            with self._guard(trainer):
                backbone = find_backbone(pl_module, self.model)
                layers = backbone.resolve(self.layers)
                if trainer.state.fn == "validate":
                    self._check_memory(trainer, backbone, layers)
                self._measurement = Measurement(
                    backbone,
                    layers,
                    num_classes=self.num_classes,
                    known_classes=self._num_classes,
                    options=self._options,
                    device=trainer.strategy.root_device,
                    accumulate_device=self.accumulate_device,
                )

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        measurement = self._measurement
        if measurement is None or dataloader_idx != self.dataloader_idx:
            return
        with self._guard(trainer):
            labels = item(batch, self.labels, "labels")
            mask = None if self.attention_mask is None else item(batch, self.attention_mask, "attention_mask")
            own = own_samples(trainer, dataloader_idx, measurement.samples_seen, len(labels))
            measurement.begin_batch(Batch(labels, mask, input_ids(batch), own))

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        if self._measurement is not None:
            with self._guard(trainer):
                self._measurement.end_batch()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not self._due:
            self._monitors.hold(trainer, self._keys, self._last_values)
            return
        sanity = trainer.sanity_checking
        found = self._finish(trainer, glance=sanity and not self._full_sanity_check)
        if sanity and not self._full_sanity_check:
            return
        if found:
            self._take(trainer, found)
        logged = report.values(self.prefix, found, self._baseline_score)
        self.history.append({"step": trainer.global_step, "epoch": trainer.current_epoch, **logged})
        if not sanity:
            report.log(pl_module, self.prefix, logged)
            if found:
                self._monitors.measured()
                self._log_figures(trainer)
            else:
                self._monitors.hold(trainer, self._keys, self._last_values)
        missing = f"{self.prefix} not measured at step {trainer.global_step}: {self._fault}"
        line = report.sentence(self.prefix, found, self._baseline_score, trainer.global_step) if found else missing
        report.say(trainer, line)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._monitors.end_epoch(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()
        self._end_sanity_check(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()
        self._end_sanity_check(trainer)

    def _check_memory(self, trainer: Trainer, backbone: Backbone, layers: list[int]) -> None:
        if backbone.hidden_size is not None:
            device = self.accumulate_device or trainer.strategy.root_device
            check_memory(len(layers), backbone.hidden_size, self.num_classes, device)

    def _finish(self, trainer: Trainer, *, glance: bool) -> dict[int, NTPSDetails]:
        """The details of every layer; nothing if any rank failed. Every rank comes here, whatever happened to it.

        At a ``glance``, a few batches of a sanity check that no score comes of, nothing is solved.
        """
        measurement, found = self._measurement, {}
        if self._agreed(trainer) and measurement is not None:
            reduce_max = partial(trainer.strategy.reduce, reduce_op="max")
            with self._guard(trainer):
                if glance:
                    measurement.check_seen(reduce_max)
                else:
                    found = measurement.details(reduce_max, whole_curve=self._draws(trainer))
                    self._num_classes = measurement.num_classes
        self._stop()
        return found if self._agreed(trainer) else {}

    def _agreed(self, trainer: Trainer) -> bool:
        """Whether no rank has failed."""
        failed = torch.tensor(float(bool(self._fault)), device=trainer.strategy.root_device)
        agreed = not float(trainer.strategy.reduce(failed, reduce_op="max"))
        if not agreed and not self._fault:
            self._fault = "it failed on another rank"
        return agreed

    def _take(self, trainer: Trainer, found: dict[int, NTPSDetails]) -> None:
        """New details, and the baseline if these are the first."""
        before, self.details = self.details, found
        untrained = trainer.global_step == 0 and (trainer.sanity_checking or trainer.state.fn == "validate")
        if self.baseline and self._baseline_score is None:
            self.baseline_details, self._baseline_score = found, self._headline.score
            if not untrained and not trainer.fast_dev_run:  # type: ignore[attr-defined]
                rank_zero_warn(
                    f"`{self.prefix}/gain` counts from step {trainer.global_step}: there is no score from before the"
                    " first step"
                )
        if before and before[max(before)].k != self._headline.k:
            rank_zero_warn(
                f"`{self.prefix}` is measured with k = {self._headline.k} from step {trainer.global_step} on, it was"
                f" {before[max(before)].k}: more classes were seen. The two do not compare; pass num_classes or k"
            )

    def _end_sanity_check(self, trainer: Trainer) -> None:
        self._full_sanity_check = False
        if self._user_sanity_steps is not None:
            trainer.num_sanity_val_steps, self._user_sanity_steps = self._user_sanity_steps, None

    def _stop(self) -> None:
        if self._measurement is not None:
            self._measurement.stop()
            self._measurement = None

    # What goes wrong

    @contextmanager
    def _guard(self, trainer: Trainer, what: str = "") -> Iterator[None]:
        """The run goes on without the score; with ``on_error="raise"``, or if it cannot work at all and nothing is
        lost yet, it does not. Nothing but the score can fail in here.
        """
        try:
            yield
        except Exception as error:
            early = trainer.sanity_checking or trainer.state.fn == "validate" or trainer.fast_dev_run  # type: ignore[attr-defined]
            if self.on_error == "raise" or (early and isinstance(error, SetupError)):
                raise
            reason = f"{what}: {error!r}" if what else str(error) or repr(error)
            if not what:
                self._fault = self._fault or reason
                if self._measurement is not None:
                    self._measurement.fail()
            self._warn_once(trainer, reason)

    def _warn_once(self, trainer: Trainer, reason: str) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"NTPSCallback, step {trainer.global_step}: {reason}. The run goes on; `{self.prefix}/valid` = 0 marks"
                ' validations without a score. This is said once; on_error="raise" stops the run instead.',
                stacklevel=2,
            )

    # What to log

    @property
    def _headline(self) -> NTPSDetails:
        return self.details[max(self.details)]

    @property
    def _last_values(self) -> dict[str, float]:
        """Those of the latest measurement that did not fail."""
        rows = [row for row in self.history if row[f"{self.prefix}/valid"]]
        return _logged(rows[-1]) if rows else report.values(self.prefix, {}, None)

    def _draws(self, trainer: Trainer) -> bool:
        return self.figures and bool(trainer.loggers) and find_spec("matplotlib") is not None

    def _log_figures(self, trainer: Trainer) -> None:
        if not self._draws(trainer) or not self.details or not trainer.is_global_zero:
            return
        from ntps_lightning.figures import curve_figure, log_figure

        before = self.baseline_details.get(max(self.details)) if len(self.history) > 1 else None
        for logger in trainer.loggers:
            with self._guard(trainer, "a figure was not logged"):
                log_figure(logger, f"{self.prefix}/curves", curve_figure(self._headline, before), trainer.global_step)

    # To go on

    @property
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix, layers=self.layers, dataloader_idx=self.dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        return {
            "history": self.history,
            "baseline_score": self._baseline_score,
            "baseline_details": {layer: asdict(details) for layer, details in self.baseline_details.items()},
            "num_classes": self._num_classes,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self._baseline_score = state_dict["history"], state_dict["baseline_score"]
        self.baseline_details = {k: NTPSDetails(**fields) for k, fields in state_dict["baseline_details"].items()}
        self._num_classes = state_dict["num_classes"]


def _logged(row: dict[str, float]) -> dict[str, float]:
    """What was logged, of a row of the history."""
    return {key: value for key, value in row.items() if key not in ("step", "epoch")}
