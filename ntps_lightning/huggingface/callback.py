"""Watching a run of Hugging Face's Trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torchmetrics.utilities import rank_zero_info, rank_zero_warn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from typing_extensions import Unpack, override

from ntps_lightning.batch_items import BatchItem
from ntps_lightning.distributed import together
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.huggingface.kept import go_on, keep
from ntps_lightning.huggingface.refusals import check_best_key, check_first_rows, refuse_twice
from ntps_lightning.huggingface.trainer import WatchedTrainer
from ntps_lightning.monitor.replay import Replay
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.names import is_ours
from ntps_lightning.watch.records import Records
from ntps_lightning.watch.results import Results
from ntps_lightning.watch.settings import Settings, SettingsKeywords
from ntps_lightning.watch.side_pass import OF_A_SIDE_SET, Data, Side, measure_side_set, named_sets
from ntps_lightning.watch.watch import Row, Watch

_WAY_OUT = "`eval_on_start=True` among the TrainingArguments gives one"


class WatchKeywords(SettingsKeywords, total=False):
    """What :func:`watch` takes beside the Trainer."""

    labels: BatchItem | None
    data: Data | None
    text: BatchItem
    tokenizer: str | Callable[..., Any] | None
    max_tokens: int
    every_n_steps: int | None


def watch(trainer: Any, **options: Unpack[WatchKeywords]) -> NTPSTrainerCallback:
    """Watch a run of Hugging Face's Trainer, or of what is built on it: one line after the Trainer is made.

    The numbers, as :class:`~ntps_lightning.NTPSCallback` logs them, are called ``eval_ntps/captured_r2`` and so on.
    They are in the metrics that ``evaluate()`` returns, and with these in ``log_history``, in what TensorBoard, W&B and
    MLflow get, and where ``EarlyStoppingCallback``, ``load_best_model_at_end`` and
    ``metric_for_best_model="eval_ntps/captured_r2"`` look. History and baseline are kept in checkpoints.

    Args:
        trainer: a ``transformers.Trainer`` or a subclass.
        labels: where a batch of the evaluation set holds its ``(N,)`` labels, by default ``"labels"``; or where a row
            of ``data`` does, by default ``"label"``. A key, or a function of the batch.
        data: a labelled side set, see :class:`~ntps_lightning.NTPSCallback`, that is measured on with each evaluation,
            without evaluations at each epoch's end, and before the first step. What is evaluated is not listened to
            then.
        text: where a row of ``data`` holds its text.
        tokenizer: of ``data`` that is text, by default the Trainer's ``processing_class``.
        max_tokens: of a batch of ``data`` that is text, padding included.
        every_n_steps: measure on ``data`` after every n-th step instead.
        options: the others are those of :class:`~ntps_lightning.NTPSCallback`: ``layers``, ``num_classes``,
            ``prefix`` and so on.

    Returns:
        What watches: its ``history``, ``details``, ``changes`` and so on are those of
        :class:`~ntps_lightning.NTPSCallback`.

    Raises:
        SetupError: (a ``ValueError``) If ``trainer`` is no such Trainer, its model cannot be scored, or it is watched
            under this prefix already. When training begins, if there is nothing to measure on.

    Example::

        trainer = SFTTrainer(model, args, train_dataset=instructions)
        watch(trainer, data=[{"text": "so good", "label": "praise"}, ...])
        trainer.train()

    """
    callback = NTPSTrainerCallback(trainer, **options)
    trainer.add_callback(callback)
    return callback


class NTPSTrainerCallback(Results, TrainerCallback):
    """What :func:`watch` adds to a Trainer, for plugins that are handed the Trainer and add the callbacks that they
    return.

    Args:
        trainer: see :func:`watch`, as for all others.
        labels: see there.
        data: see there.
        text: see there.
        tokenizer: see there.
        max_tokens: see there.
        every_n_steps: see there.
        settings: see there.

    """

    def __init__(
        self,
        trainer: Any,
        *,
        labels: BatchItem | None = None,
        data: Data | None = None,
        text: BatchItem = "text",
        tokenizer: str | Callable[..., Any] | None = None,
        max_tokens: int = 8192,
        every_n_steps: int | None = None,
        **settings: Unpack[SettingsKeywords],
    ) -> None:
        if every_n_steps is not None and (data is None or every_n_steps < 1):
            raise SetupError(f"every_n_steps must be at least 1, and of a side set (data=...), got {every_n_steps}")
        self._trainer = WatchedTrainer(trainer)
        if labels is None:
            labels = "labels" if data is None else "label"
        self._settings = Settings(labels=labels, **settings)
        self._every_n_steps = every_n_steps
        self._watches: dict[str, Watch] = {}
        self._sides: dict[str, Side] = {}
        self._listening: Listening | None = None
        self._measured_at = -1
        self._latest: dict[str, float] = {}
        self._began = False
        for kind in self._trainer.evaluations if data is None else ():
            self._watch(kind)
        for prefix, each in named_sets(data, self._settings.prefix).items() if data is not None else ():
            name = f"eval_{prefix}"
            tokenizer = tokenizer or self._trainer.tokenizer
            self._watches[name] = self._new_watch(name, OF_A_SIDE_SET)
            self._sides[name] = Side(
                each, text=text, tokenizer=tokenizer, max_tokens=max_tokens, what=f"data of `{name}`"
            )
        for each in self._watches.values():
            each.new_monitor(self._trainer.model)
        others = [each for each in self._trainer.callbacks if isinstance(each, NTPSTrainerCallback)]
        refuse_twice(set(self._watches), [set(each.records) for each in others])
        self._trainer.hear_evaluations(self._evaluation_loop, None if self._sides else self._prediction_step)

    @property
    @override
    def records(self) -> dict[str, Records]:
        """What was measured, by what keys start with: several of several sets."""
        return {name: each.records for name, each in self._watches.items()}

    # When to measure

    @override
    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._measured_at = -1
        keys: set[str] = set()
        for each in self._watches.values():
            each.new_run()
            each.replay = None
            if self._began:
                each.forget()
            go_on(state, each)
            each.records.baseline.begin(0, 0)
            self._begin(each, early=True)
            keys |= self._check(each)
            keep(state, each)
        prefixes = (*self._watches, f"eval_{self._settings.prefix}")
        check_best_key(self._best_key, prefixes, keys, every_n_steps=self._every_n_steps)
        self._began = True

    @override
    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for name, each in self._watches.items():
            if each.replay is not None or not each.may_have_baseline(trained=state.global_step > 0):
                continue
            if name in self._sides:
                self._measure_baseline(each, self._sides[name])
            elif self._replays(each):
                each.replay = Replay(each.backbone(self._trainer.model), self._trainer.model, self._trainer.within)
            elif self._evaluates:
                each.give_up_baseline(self._trainer.why_no_replay())

    @override
    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self._every_n_steps is not None and state.global_step % self._every_n_steps == 0:
            self._trainer.log(self._measure_sides())

    @override
    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._sides and self._every_n_steps is None and not self._evaluates:
            self._trainer.log(self._measure_sides())

    @override
    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for each in self._watches.values():
            each.replay = None

    def _replays(self, each: Watch) -> bool:
        """Whether the first evaluation is also to be made with the weights from before the first step."""
        wanted = each.may_have_baseline(trained=self._trainer.state.global_step > 0)
        return wanted and not self._sides and self._evaluates and not self._trainer.why_no_replay()

    @property
    def _evaluates(self) -> bool:
        return str(getattr(self._trainer.args.eval_strategy, "value", self._trainer.args.eval_strategy)) != "no"

    # What measures

    def _evaluation_loop(self, original: Any, *args: Any, **kwargs: Any) -> Any:
        """Instead of the Trainer's: around its own, what it evaluates, beside its own metrics."""
        kind = kwargs.get("metric_key_prefix", "eval")
        ours = any(each is self for each in self._trainer.callbacks)
        if not ours or kwargs.get("description", "Evaluation") == "Prediction" or not kind.startswith("eval"):
            return original(*args, **kwargs)
        if self._sides:
            output = original(*args, **kwargs)
            others = self._trainer.evaluations[1:]  # of several evaluation sets the first has the numbers
            if self._every_n_steps is None and kind not in others:
                output.metrics.update(self._sides_now())
            return output
        each = self._watch(kind)
        self._begin(each, early=False)
        listening = each.listen(self._trainer.model, self._trainer.caller, self._trainer.within, replayed=True)
        self._listening = listening
        try:
            output = original(*args, **kwargs)
            output.metrics.update(self._take(each, listening))
        finally:
            listening.stop()
            self._listening = None
        return output

    def _prediction_step(self, original: Any, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Instead of the Trainer's: listens to the model while it sees a batch."""
        if self._listening is None:
            return original(model, inputs, *args, **kwargs)
        self._listening.open_batch(inputs, self._settings.items, self._trainer.own_samples)
        found = original(model, inputs, *args, **kwargs)
        self._listening.close_batch()
        return found

    def _take(self, each: Watch, listening: Listening) -> dict[str, float]:
        found = listening.finish(whole_curve=False)
        first = each.finish_replay(listening, whole_curve=False)
        if first is not None:
            self._tell(each, first)
            self._trainer.log(first.values, first.step)
        return self._values(each, self._row(each, listening, found))

    def _sides_now(self) -> dict[str, float]:
        """What side sets say; within training once a step, however often it is evaluated then."""
        again = self._trainer.trains and self._measured_at == self._trainer.state.global_step
        return self._latest if again else self._measure_sides()

    def _measure_sides(self) -> dict[str, float]:
        """On every side set."""
        self._measured_at = self._trainer.state.global_step
        values: dict[str, float] = {}
        for name, side in self._sides.items():
            each = self._watches[name]
            listening, found = self._run(each, side, early=False)
            values |= self._values(each, self._row(each, listening, found))
        self._latest = values
        return values

    def _measure_baseline(self, each: Watch, side: Side) -> None:
        listening, found = self._run(each, side, early=True)
        if not found:
            each.give_up_baseline(each.guard.fault)
            return
        row = each.take_baseline(found, listening)
        self._tell(each, row)
        self._trainer.log(row.values, row.step)

    def _run(self, each: Watch, side: Side, *, early: bool) -> tuple[Listening, dict[int, NTPSDetails]]:
        side.prepare(each, self._trainer.model)
        self._begin(each, early=early)
        return measure_side_set(each, side, self._trainer.model, self._trainer.caller, self._trainer.within)

    def _row(self, each: Watch, listening: Listening, found: dict[int, NTPSDetails]) -> Row:
        state = self._trainer.state
        row = each.take(listening, found, state.global_step, int(state.epoch or 0), untrained=state.global_step == 0)
        self._tell(each, row)
        return row

    def _tell(self, each: Watch, row: Row) -> None:
        keep(self._trainer.state, each)
        rank_zero_info(row.line)

    def _values(self, each: Watch, row: Row) -> dict[str, float]:
        """With the last of what has no new value, and of what the best model is told by in any case something."""
        values = each.held(row.values) | row.values
        best = self._best_key
        if best is not None and is_ours(each.prefix, best) and best not in row.values:
            values.setdefault(best, self._trainer.worst)
            for callback in self._trainer.callbacks:
                if hasattr(callback, "early_stopping_patience_counter"):
                    callback.early_stopping_patience_counter -= 1  # it looks next, and finds nothing new
        return values

    # Before training

    @property
    def _best_key(self) -> str | None:
        key = self._trainer.args.metric_for_best_model
        return key if key is None or key.startswith("eval_") else f"eval_{key}"

    def _check(self, each: Watch) -> set[str]:
        """Refuse what cannot work. Returns the keys that will be logged."""
        trainer = self._trainer
        side = self._sides.get(each.prefix)
        if side is not None:
            side.prepare(each, trainer.model)
        monitor = each.tried_monitor(trainer.model, trainer.caller, trainer.within)
        with together():
            each.check_memory(monitor, trainer.args.device, None)
            if self._replays(each):
                each.check_replay_memory(trainer.model, trainer.args.device, None)
            if side is not None:
                each.entry(trainer.model, trainer.caller)
            elif self._evaluates:
                check_first_rows(trainer, each, each.prefix.removesuffix(f"_{self._settings.prefix}"))
            else:
                rank_zero_warn(
                    f"`{each.prefix}` is measured on evaluations, and this run makes none (eval_strategy): give the"
                    " TrainingArguments one, or watch() a labelled side set (data=...)"
                )
        return each.keys(monitor.layers)

    # Watches

    def _watch(self, kind: str) -> Watch:
        """Of an evaluation, by what Trainer calls its metrics: one of each set where there are several."""
        name = f"{kind}_{self._settings.prefix}"
        if name not in self._watches:
            self._watches[name] = self._new_watch(name)
        return self._watches[name]

    def _new_watch(self, name: str, definition: Mapping[str, str] | None = None) -> Watch:
        return Watch(replace(self._settings, prefix=name), definition, _WAY_OUT)

    def _begin(self, each: Watch, *, early: bool) -> None:
        each.guard.begin(self._trainer.state.global_step, early=early)
