"""NTPS on every validation epoch of a Lightning run: when to measure, and what to log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.capture import Backbone, find_backbone
from ntps_lightning.functional import NTPSDetails
from ntps_lightning.functional.moments import Pooling
from ntps_lightning.functional.score import check_options
from ntps_lightning.measurement import Batch, Measurement, padding_duplicates

BatchItem = str | int | Callable[[Any], Any]

_LOGGED = ("captured", "null", "lift", "chance", "probe_mse", "samples_per_dim")
_LOWER_IS_BETTER = ("/null", "/chance", "/probe_mse")


class NTPSCallback(Callback):
    """Logs the Next Token Perception Score of each validation epoch, from the module's own forward pass.

    Nothing is required of the module: hidden states are taken by hooks from the language model that it calls in
    ``validation_step``, labels from the batch. The score is logged as ``ntps`` before anything may monitor it:
    ``EarlyStopping("ntps", mode="max")`` and ``ModelCheckpoint(monitor="ntps", mode="max")`` work in any order.

    Logged, as floats and the same on every rank: ``ntps``; ``ntps/captured``, ``ntps/null``, ``ntps/lift``,
    ``ntps/chance``, ``ntps/probe_mse`` and ``ntps/samples_per_dim`` (see :class:`~ntps_lightning.NTPSDetails`);
    ``ntps/gain``, the score minus its baseline; and, with several layers, ``ntps/layer_00`` and so on.

    Args:
        num_classes: number of classes; by default the largest label seen plus one.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, -1 the
            states after the final norm. The highest is the headline that ``ntps`` reports.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.
        labels: where a batch holds its ``(N,)`` labels: a key, an index, an attribute, or a function of the batch.
            Integers are classes, floats regression targets.
        attention_mask: where a batch holds its ``(N, T)`` padding mask; by default the one the model is called with.
        model: the language model, or its name in the module, where it cannot be found.
        k: number of autoregressive directions: a count in [1, d], or a fraction of d in (0, 1]. By default the number
            of classes or 1% of d, whichever is more.
        ridge: added to the perception covariance B, relative to tr(B)/d.
        center: measure hidden states and targets from their means.
        orthonormal: compare the subspaces alone, with an orthonormal basis of the perception subspace.
        baseline: score the model before its first step, by letting the sanity check run over the whole validation
            set, whatever ``num_sanity_val_steps`` says (``trainer.validate`` before ``trainer.fit`` serves as well).
        every_n_epochs: measure at every n-th epoch; in between, monitors see the last values.
        dataloader_idx: which of several validation dataloaders to measure on.
        prefix: the key of the score, and what the other keys start with.
        figures: log the curves over k to loggers that take figures (with matplotlib installed).

    Attributes:
        history: one dict for each measurement: ``step``, ``epoch`` and the logged values.
        details: the latest :class:`~ntps_lightning.NTPSDetails` of each layer.
        baseline_details: those of the baseline, once it is measured.

    Raises:
        ValueError: If an option is out of range; at the start of a run, if the language model cannot be found or a
            monitor asks for a key that is never logged; in the sanity check or first validation batch, if labels or
            mask cannot be found.
        RuntimeError: In that same batch, if no forward pass of the language model was seen.

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
    ) -> None:
        check_options(k=k, ridge=ridge, pooling=pooling)
        if every_n_epochs < 1:
            raise ValueError(f"every_n_epochs must be at least 1, got {every_n_epochs}")
        self.num_classes, self.layers, self.labels, self.attention_mask = num_classes, layers, labels, attention_mask
        self.model, self.baseline, self.every_n_epochs = model, baseline, every_n_epochs
        self.dataloader_idx, self.prefix, self.figures = dataloader_idx, prefix, figures
        self.history: list[dict[str, float]] = []
        self.details: dict[int, NTPSDetails] = {}
        self.baseline_details: dict[int, NTPSDetails] = {}
        self._options = {"k": k, "ridge": ridge, "center": center, "orthonormal": orthonormal, "pooling": pooling}
        self._trainer: Trainer | None = None
        self._measurement: Measurement | None = None
        self._full_sanity_check = False
        self._user_sanity_steps: int | float | None = None
        self._baseline_score: float | None = None

    # When to measure

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer is not self._trainer:
            self._trainer, self._baseline_score = trainer, None
            self.history, self.details, self.baseline_details = [], {}, {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._check_monitors(trainer, self._find_backbone(pl_module).resolve(self.layers))
        if not trainer.enable_validation:
            rank_zero_warn(f"NTPSCallback measures `{self.prefix}` on validation epochs, and this run has none.")
            return
        untrained = not self.history and trainer.global_step == 0
        if self.baseline and untrained and not (trainer.fast_dev_run or trainer.barebones):  # type: ignore[attr-defined]
            self._full_sanity_check = True
            if trainer.num_sanity_val_steps != math.inf:
                self._user_sanity_steps, trainer.num_sanity_val_steps = trainer.num_sanity_val_steps, math.inf

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measured = self._full_sanity_check and bool(self.history)
        self._end_sanity_check(trainer)
        if measured:
            # Lightning drops what is logged in the sanity check: the loggers get it here, as the point at step 0.
            for logger in trainer.loggers:
                logger.log_metrics(self._values(), step=trainer.global_step)
            self._log_figures(trainer)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._stop()
        due = not self.history or (trainer.current_epoch + 1) % self.every_n_epochs == 0
        if due or trainer.sanity_checking or trainer.state.fn == "validate":
            backbone = self._find_backbone(pl_module)
            layers = backbone.resolve(self.layers)
            self._measurement = Measurement(backbone, layers, num_classes=self.num_classes, options=self._options)
            self._measurement.start()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        if self._measurement is None or dataloader_idx != self.dataloader_idx:
            return
        labels = _item(batch, self.labels, "labels")
        mask = None if self.attention_mask is None else _item(batch, self.attention_mask, "attention_mask")
        ids = batch.get("input_ids") if isinstance(batch, Mapping) else None
        loader = _nth_loader(trainer.val_dataloaders, dataloader_idx)
        keep = padding_duplicates(loader, self._measurement.samples_seen, len(labels))
        self._measurement.begin_batch(Batch(labels, mask, ids, keep))

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
            self._measurement.end_batch()

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        measurement, sanity = self._measurement, trainer.sanity_checking
        self._stop()
        if measurement is None:
            self._keep_for_monitors(trainer)
            return
        if sanity and not self._full_sanity_check:
            return
        self.details = measurement.details(lambda t: trainer.strategy.reduce(t, reduce_op="max"))
        untrained = trainer.global_step == 0 and (sanity or trainer.state.fn == "validate")
        if self.baseline and untrained and not self.history:
            self.baseline_details, self._baseline_score = self.details, self._headline.score
        self.history.append({"step": trainer.global_step, "epoch": trainer.current_epoch, **self._values()})
        if not sanity:
            self._log(pl_module)
            self._log_figures(trainer)
        self._say(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._stop()
        self._end_sanity_check(trainer)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stop()
        self._end_sanity_check(trainer)

    def _end_sanity_check(self, trainer: Trainer) -> None:
        self._full_sanity_check = False
        if self._user_sanity_steps is not None:
            trainer.num_sanity_val_steps, self._user_sanity_steps = self._user_sanity_steps, None

    def _stop(self) -> None:
        if self._measurement is not None:
            self._measurement.stop()
            self._measurement = None

    # What to log

    @property
    def _headline(self) -> NTPSDetails:
        return self.details[max(self.details)]

    def _values(self) -> dict[str, float]:
        details, prefix = self._headline, self.prefix
        values = {prefix: details.score}
        values |= {f"{prefix}/{name}": getattr(details, name) for name in _LOGGED}
        if self._baseline_score is not None:
            values[f"{prefix}/gain"] = details.score - self._baseline_score
        names = _layer_names(self.details)
        values |= {f"{prefix}/{name}": d.score for name, d in zip(names, self.details.values(), strict=False)}
        return values

    def _log(self, pl_module: LightningModule) -> None:
        for key, value in self._values().items():
            # The maximum over ranks that agree is the value, to the bit, which a mean need not be.
            pl_module.log(key, value, prog_bar=key == self.prefix, on_epoch=True, sync_dist=True, reduce_fx="max")

    def _keep_for_monitors(self, trainer: Trainer) -> None:
        """Between measurements monitors see the last values; after the sanity check or a resumption they are gone."""
        for key, value in self.history[-1].items():
            if key not in ("step", "epoch"):
                trainer.callback_metrics.setdefault(key, torch.tensor(value))

    def _log_figures(self, trainer: Trainer) -> None:
        if not self.figures or not trainer.is_global_zero or find_spec("matplotlib") is None:
            return
        from ntps_lightning.figures import curve_figure, log_figure

        before = self.baseline_details.get(max(self.details)) if len(self.history) > 1 else None
        for logger in trainer.loggers:
            log_figure(logger, f"{self.prefix}/curves", curve_figure(self._headline, before), trainer.global_step)

    def _say(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero:
            return
        d = self._headline
        gain = "" if self._baseline_score is None else f", gain {d.score - self._baseline_score:+.4f}"
        line = (
            f"{self.prefix} {d.score:.4f} (null {d.null:.4f}, lift {d.lift:+.4f}{gain}) | captured {d.captured:.4f} |"
            f" k {d.k} | layer {max(self.details)} | n/d {d.samples_per_dim:.2g} | step {trainer.global_step}"
        )
        bar = trainer.progress_bar_callback
        if bar is not None and getattr(bar, "is_enabled", True):
            bar.print(line)
        else:
            logging.getLogger(type(trainer).__module__.partition(".trainer")[0]).info(line)

    # What could go wrong, found early

    def _find_backbone(self, pl_module: LightningModule) -> Backbone:
        if not isinstance(self.model, str):
            return find_backbone(pl_module if self.model is None else self.model)
        try:
            return find_backbone(pl_module.get_submodule(self.model))
        except AttributeError as error:
            names = [name for name, _ in pl_module.named_children()]
            raise ValueError(f"model={self.model!r} names no submodule of the module, which has {names}") from error

    def _check_monitors(self, trainer: Trainer, layers: list[int]) -> None:
        keys = self._keys(layers)
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            monitor, mode = getattr(callback, "monitor", None), getattr(callback, "mode", None)
            if not isinstance(monitor, str) or not f"{monitor}/".startswith(f"{self.prefix}/"):
                continue
            name = f"{type(callback).__name__}(monitor={monitor!r})"
            if monitor not in keys:
                raise ValueError(f"{name}: NTPSCallback does not log it, only {sorted(keys)}")
            if mode == "min" and not monitor.endswith(_LOWER_IS_BETTER):
                rank_zero_warn(f'{name} has mode="min", but higher is better: did you mean mode="max"?')
            if getattr(callback, "patience", self.every_n_epochs) < self.every_n_epochs:
                raise ValueError(
                    f"{name} has patience={callback.patience}, which counts validation epochs, but every_n_epochs ="
                    f" {self.every_n_epochs}: it would stop between two measurements; give it a multiple of that"
                )

    def _keys(self, layers: list[int]) -> set[str]:
        names = [*_LOGGED, *(["gain"] if self.baseline else []), *(_layer_names(layers))]
        return {self.prefix, *(f"{self.prefix}/{name}" for name in names)}

    # To go on

    @property
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix, layers=self.layers, dataloader_idx=self.dataloader_idx)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "baseline_score": self._baseline_score}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history, self._baseline_score = state_dict["history"], state_dict["baseline_score"]


def _item(batch: Any, where: BatchItem, what: str) -> Tensor:
    """The item of a batch that ``where`` names, as a tensor."""
    try:
        if callable(where):
            found = where(batch)
        elif isinstance(where, str) and not isinstance(batch, Mapping):
            found = getattr(batch, where)
        else:
            found = batch[where]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        size = f" of {len(batch)}" if isinstance(batch, (list, tuple)) else ""
        raise ValueError(
            f"found no {what} at {where!r} in a batch that is a {type(batch).__name__}{keys}{size}; say where they are"
            f" with NTPSCallback({what}=...): a key, an index, an attribute, or a function of the batch"
        ) from error
    return torch.as_tensor(found)


def _layer_names(layers: Collection[int]) -> list[str]:
    return [f"layer_{layer:02d}" for layer in layers] if len(layers) > 1 else []


def _nth_loader(loaders: Any, index: int) -> Any:
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return loaders[index] if isinstance(loaders, (list, tuple)) else loaders
