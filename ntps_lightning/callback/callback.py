"""The callback: what Lightning's Trainer tells of a run, handed on to what measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from typing_extensions import Unpack, override

from ntps_lightning.batch_items import BatchItem
from ntps_lightning.callback.logged import loggers_at
from ntps_lightning.callback.report import Report
from ntps_lightning.callback.run import Run
from ntps_lightning.callback.side_sets import SideSets
from ntps_lightning.callback.source import Source
from ntps_lightning.callback.validation import Validation
from ntps_lightning.capture.backbone import Layers
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.options import ScoreKeywords
from ntps_lightning.versions import callback_base
from ntps_lightning.watch.guard import OnError
from ntps_lightning.watch.records import Records
from ntps_lightning.watch.results import Results
from ntps_lightning.watch.settings import Settings
from ntps_lightning.watch.side_pass import OF_A_SIDE_SET, Data, Side, named_sets
from ntps_lightning.watch.watch import Watch

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
else:
    Callback = callback_base()

_WAY_OUT = "`trainer.validate(module)` before `trainer.fit(module)` gives one"


class NTPSCallback(Results, Callback):
    """Logs the Next Token Perception Score of each validation epoch, from the module's own forward pass.

    Nothing is required of the module: hidden states are taken by hooks from the language model that it calls in
    ``validation_step``, labels from the batch. Or, where it is trained on something else, such as next tokens, from
    a labelled side set (``data=``) that the model is run over beside: at each validation epoch, without validation at
    each epoch's end, and before the first step. All is logged before anything may monitor it, so that
    ``ModelCheckpoint("best", monitor="ntps/captured_r2", mode="max")`` and ``EarlyStopping`` work wherever they are
    listed. (Where a run has a validation accuracy, stop on that: STUDY.md.)

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
        labels: where a batch, or a row of ``data``, holds its ``(N,)`` labels, by default ``"labels"``, of a row
            ``"label"``: a key, an index, an attribute, or a function of the batch.
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
        data: a labelled side set, which every rank is given whole: a dataloader or a list of batches; or rows of text
            and label, such as a list of dictionaries or pairs, a ``datasets.Dataset`` or a pandas frame, whose text
            may be a list of chat messages, with a ``tokenizer``; rows are taken once, tokenized and batched by length.
            Or a dictionary of several by name, whose keys then start with ``ntps_NAME``. Validation batches are not
            listened to then.
        text: where a row of ``data`` holds its text.
        tokenizer: of ``data`` that is text; a Hugging Face tokenizer, its folder or id on the hub, or what is called
            likewise.
        max_tokens: of a batch of ``data`` that is text, padding included.
        every_n_steps: measure on ``data`` after every n-th optimizer step, instead of at epochs.
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

    Attributes:
        prefix: what the keys start with.
        settings: the options.

    Raises:
        ValueError: At once, if an option is out of range; before the first step, if the model cannot be found or looks
            ahead, a monitor asks for a key that is never logged or the device has no room for the sums; in the sanity
            check, if labels, mask or tokens cannot be found or no forward pass of the language model was seen. Later in
            a run nothing is raised, unless ``on_error="raise"``.

    Example::

        trainer = Trainer(callbacks=[NTPSCallback()])
        trainer.fit(module, datamodule)

        # A causal language model that learns from instructions, and the labelled set that matters
        NTPSCallback(data=[{"text": "so good", "label": "praise"}, ...], tokenizer=tokenizer)

    """

    def __init__(
        self,
        num_classes: int | None = None,
        *,
        layers: Layers = -1,
        labels: BatchItem | None = None,
        attention_mask: BatchItem | None = None,
        tokens: BatchItem | None = None,
        groups: BatchItem | None = None,
        model: nn.Module | str | None = None,
        data: Data | None = None,
        text: BatchItem = "text",
        tokenizer: str | Callable[..., Any] | None = None,
        max_tokens: int = 8192,
        every_n_steps: int | None = None,
        every_n_epochs: int = 1,
        baseline: bool = True,
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
        at_least_one = {"every_n_epochs": every_n_epochs, "every_n_steps": every_n_steps, "max_tokens": max_tokens}
        for name, value in at_least_one.items():
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if dataloader_idx < 0:
            raise ValueError(f"dataloader_idx must be at least 0, got {dataloader_idx}")
        if labels is None:
            labels = "labels" if data is None else "label"
        settings = Settings(
            prefix=prefix,
            num_classes=num_classes,
            layers=layers,
            labels=labels,
            attention_mask=attention_mask,
            tokens=tokens,
            groups=groups,
            model=model,
            baseline=baseline,
            kept=kept,
            controls=controls,
            on_error=on_error,
            accumulate_device=accumulate_device,
            allow_bidirectional=allow_bidirectional,
            **options,
        )
        self.prefix = prefix
        self.settings = settings
        self._run: Run | None = None
        self._stage = "fit"
        self._source: Source
        if data is None:
            if tokenizer is not None or every_n_steps is not None:
                raise ValueError("tokenizer and every_n_steps are of a labelled side set: give it as data=...")
            watch = Watch(settings, {"dataloader_idx": str(dataloader_idx)}, _WAY_OUT)
            self._source = Validation(Report(watch, figures=figures), every_n_epochs, dataloader_idx)
        else:
            sets = named_sets(data, prefix)
            watches = [Watch(replace(settings, prefix=each), OF_A_SIDE_SET, _WAY_OUT) for each in sets]
            reports = [Report(watch, figures=figures) for watch in watches]
            sides = [
                Side(each, text=text, tokenizer=tokenizer, max_tokens=max_tokens, what=f"data of `{name}`")
                for name, each in sets.items()
            ]
            self._source = SideSets(reports, sides, every_n_epochs, every_n_steps)

    @property
    @override
    def records(self) -> dict[str, Records]:
        """What was measured, by prefix: several where ``data`` is several sets."""
        return {watch.prefix: watch.records for watch in self._watches}

    @property
    def _watches(self) -> list[Watch]:
        return [report.watch for report in self._source.reports]

    # When to measure

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._stage = stage
        if stage not in ("fit", "validate"):
            return
        self._refuse_two(trainer)
        begins = self._begins(trainer, pl_module, stage)
        if begins:
            self._run = Run(trainer)
        for watch in self._watches:
            watch.new_run()
            if begins:
                watch.forget()
                watch.records.baseline.begin(trainer.global_step, loggers_at(trainer))
        if stage == "fit" and self._run is not None:
            self._run.fits(pl_module)
        self._source.fitted = self._run is None or self._run.fitted

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._source.fit_start(trainer, pl_module)

    @override
    def on_sanity_check_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._source.sanity_check_start(trainer)

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for report in self._source.reports:
            report.check_schedulers(trainer)
        self._source.train_start(trainer, pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._source.train_batch_start(trainer, pl_module)

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._source.train_batch_end(trainer, pl_module)

    @override
    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._source.validation_epoch_start(trainer, pl_module)

    @override
    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        self._source.validation_batch_start(trainer, batch, dataloader_idx)

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
        self._source.validation_batch_end()

    @override
    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._source.validation_epoch_end(trainer, pl_module)

    @override
    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for report in self._source.reports:
            report.draw(trainer)

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._source.train_epoch_end(trainer, pl_module)
        for report in self._source.reports:
            report.draw(trainer)
            report.monitored.end_epoch(trainer)

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "")

    @override
    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._source.stop()
        if self._run is None or self._run.is_of(trainer):
            for watch in self._watches:
                watch.replay = None

    def _begins(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> bool:
        """Whether this is another run; to validate is none where there are results."""
        if self._run is None:
            return stage == "fit" or not self.history
        return stage == "fit" and not self._run.goes_on(trainer, pl_module)

    def _refuse_two(self, trainer: Trainer) -> None:
        others = [each for each in trainer.callbacks if isinstance(each, NTPSCallback) and each is not self]  # type: ignore[attr-defined]
        twice = {prefix for each in others for prefix in each.records} & set(self.records)
        if twice:
            raise SetupError(f"two NTPSCallbacks log under {sorted(twice)}: give one of them another prefix=")

    # To go on

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no trainer and no module, whose ``log`` Lightning attaches."""
        kept = {name: value for name, value in self.__dict__.items() if name not in ("log", "log_dict")}
        return kept | {"_run": None}

    @property
    @override
    def state_key(self) -> str:
        return self._generate_state_key(prefix=self.prefix)

    @override
    def state_dict(self) -> dict[str, Any]:
        return {"sets": {prefix: records.state_dict() for prefix, records in self.records.items()}}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if self._stage == "fit" or not self.history:  # a checkpoint that is tested or validated takes nothing away
            sets = state_dict.get("sets", {self.prefix: state_dict})
            for watch in self._watches:
                if watch.prefix in sets:
                    watch.load(sets[watch.prefix])
