"""What is asked of Hugging Face's Trainer: its model as it calls it, its evaluation loop, and its logs."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer
from transformers.trainer_utils import has_length

from ntps_lightning.errors import SetupError
from ntps_lightning.monitor.shards import why_not_exchanged
from ntps_lightning.watch.names import WORST


class WatchedTrainer:
    """A Trainer, or one of its subclasses, without the names that versions have changed.

    Args:
        trainer: the Trainer.

    Raises:
        SetupError: If it is none, or replicates its model over threads.

    """

    def __init__(self, trainer: Any) -> None:
        if not isinstance(trainer, Trainer):
            raise SetupError(
                f"watch() takes a transformers.Trainer, or a subclass such as trl.SFTTrainer, got {type(trainer)};"
                " Lightning's takes NTPSCallback, any other loop NTPSMonitor"
            )
        if trainer.args.n_gpu > 1:
            raise SetupError(
                f"Trainer replicates the model over {trainer.args.n_gpu} GPUs in one process (nn.DataParallel), whose"
                " copies cannot be listened to: launch one process a GPU (torchrun), or show it one GPU"
            )
        if any((getattr(trainer.model, name, None) or 1) > 1 for name in ("tp_size", "_tp_size")):
            raise SetupError(
                "the model is split over a tensor (tp_size), whose ranks see the same samples, which Trainer does not"
                " tell; Lightning's ModelParallelStrategy does, with NTPSCallback"
            )
        self._reference = weakref.ref(trainer)

    @property
    def _trainer(self) -> Any:
        """Not kept alive by what it holds itself."""
        return self._reference()

    @property
    def args(self) -> Any:
        """The TrainingArguments."""
        return self._trainer.args

    @property
    def state(self) -> Any:
        """The TrainerState."""
        return self._trainer.state

    @property
    def trains(self) -> bool:
        """Whether ``train()`` is under way."""
        return bool(self._trainer.is_in_train)

    @property
    def tokenizer(self) -> Any:
        """What the Trainer was given to process text."""
        return getattr(self._trainer, "processing_class", None)

    @property
    def model(self) -> nn.Module:
        """The model, in no wrapper but PEFT's."""
        found: nn.Module = self._trainer.model
        return found

    @property
    def caller(self) -> nn.Module:
        """What the Trainer calls: the model in the strategy's wrapper, if there is one."""
        wrapped = getattr(self._trainer, "model_wrapped", None)
        return wrapped if isinstance(wrapped, nn.Module) else self.model

    @property
    def callbacks(self) -> list[Any]:
        """In the order in which they are called."""
        found: list[Any] = self._trainer.callback_handler.callbacks
        return found

    @property
    def worst(self) -> float:
        """Of what the best model is told by, but finite, so that whatever is measured later is better."""
        return -WORST if self.args.greater_is_better else WORST

    @property
    def evaluations(self) -> list[str]:
        """What Trainer calls the metrics of each evaluation set."""
        dataset = self._trainer.eval_dataset
        return [f"eval_{name}" for name in dataset] if isinstance(dataset, dict) else ["eval"]

    def within(self) -> AbstractContextManager[Any]:
        """The precision that the model is called in."""
        context: AbstractContextManager[Any] = self._trainer.accelerator.autocast()
        return context

    def why_no_replay(self) -> str:
        """Why the model cannot have other weights for a while; empty where it can."""
        if getattr(self._trainer, "is_deepspeed_enabled", False):
            return "DeepSpeed does not let weights be exchanged"
        return why_not_exchanged(self.caller)

    def first_rows(self, kind: str) -> Any:
        """A batch of the first rows of an evaluation set; ``None`` where it has no rows to be had.

        Raises:
            SetupError: If it is empty.

        """
        dataset = self._trainer.eval_dataset
        name = kind.removeprefix("eval_") if isinstance(dataset, dict) else None
        if dataset is None or not has_length(dataset if name is None else dataset[name]):
            return None
        loader = self._trainer.get_eval_dataloader(name)
        rows: Any = loader.dataset  # without the columns that Trainer drops
        if not len(rows):
            raise SetupError(f"the evaluation set of `{kind}` is empty")
        return loader.collate_fn([rows[i] for i in range(min(2, len(rows)))])

    def own_samples(self, first: int, count: int) -> Tensor | None:
        """``(count,)`` bool, false at the samples that accelerate repeats at the end to even out the processes."""
        state = self._trainer.accelerator.gradient_state
        if not state.end_of_dataloader or state.remainder <= 0 or self.args.world_size == 1:
            return None
        own: Tensor = self.args.process_index * count + torch.arange(count) < state.remainder
        return own

    def hear_evaluations(self, loop: Callable[..., Any], step: Callable[..., Any] | None) -> None:
        """Have ``loop(evaluation_loop, *args, **kwargs)`` called instead of the evaluation loop, and ``step`` likewise
        instead of ``prediction_step``: methods that subclasses override, so that any of these goes on underneath.
        """
        trainer = self._trainer
        trainer.evaluation_loop = partial(loop, self._weakly(trainer.evaluation_loop))
        if step is not None:
            trainer.prediction_step = partial(step, self._weakly(trainer.prediction_step))

    def _weakly(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, without a hold on the Trainer; what somebody else has put there stays as it is."""
        if getattr(method, "__self__", None) is not self._trainer:
            return method
        function, reference = method.__func__, self._reference  # type: ignore[attr-defined]
        return lambda *args, **kwargs: function(reference(), *args, **kwargs)

    def log(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Into ``log_history`` and to all that report: as Trainer itself does it, since what subclasses have gathered
        for their own next row is theirs to log, when it is due. A ``step`` that is over is that of the row.
        """
        due = self._trainer.control.should_log
        with self._as_of(step):
            Trainer.log(self._trainer, dict(values))
        self._trainer.control.should_log = due

    @contextmanager
    def _as_of(self, step: int | None) -> Iterator[None]:
        state = self.state
        now = (state.global_step, state.epoch)
        if step is not None and step != state.global_step:
            state.global_step, state.epoch = step, 0.0
        try:
            yield
        finally:
            state.global_step, state.epoch = now
