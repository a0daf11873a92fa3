"""What a model scored before it was trained: the first validation's calls, made again with the weights from then."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, fields
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.callback.guard import Guard
from ntps_lightning.capture.call import Call, versions
from ntps_lightning.distributed import gather
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.replay import ELSEWHERE, Replay
from ntps_lightning.monitor.shards import why_not_exchanged

_WAY_OUT = "`trainer.validate(module)` before `trainer.fit(module)` gives one"


class Baseline:
    """What a model scored before its first step.

    Attributes:
        details: of each layer; empty while nothing was measured.
        why_none: why nothing will be; empty where it may.
        step: ``trainer.global_step`` before the first step: not 0 where the Trainer has fitted another module before.
        logged_at: the step that loggers had then.

    """

    def __init__(self) -> None:
        self.details: dict[int, NTPSDetails] = {}
        self.why_none = ""
        self.step = 0
        self.logged_at = 0

    def begin(self, step: int, logged_at: int) -> None:
        """A Trainer begins with a module."""
        self.step = step
        self.logged_at = logged_at

    @property
    def score(self) -> float | None:
        """Of the highest layer; ``None`` while nothing was measured."""
        return self.details[max(self.details)].score if self.details else None

    def give_up(self, prefix: str, reason: str) -> None:
        """Say, once, that there will be none."""
        if not self.why_none:
            rank_zero_warn(
                f"`{prefix}/gain` counts from the first validation: there is no score from before the first step,"
                f" because {reason}; {_WAY_OUT}"
            )
        self.why_none = reason

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """The details as plain dictionaries."""
        return {layer: asdict(details) for layer, details in self.details.items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Take what :meth:`state_dict` returned."""
        known = {field.name for field in fields(NTPSDetails)}
        unknown = {name for each in state.values() for name in each} - known
        if unknown:
            rank_zero_warn(f"the checkpoint's baseline has fields that this version does not know: {sorted(unknown)}")
        self.details = {
            layer: NTPSDetails.of({name: value for name, value in each.items() if name in known})
            for layer, each in state.items()
        }


class ReplayedEpoch:
    """Measures, beside a validation epoch, what its batches would have scored before the first step.

    Args:
        trainer: the Lightning trainer.
        guard: keeps what goes wrong from the run, and from the score of the epoch itself.
        new_monitor: makes what listens to the calls that are made again.
        replay: makes them.

    Attributes:
        refusal: why a call was not made again, and no other will be; empty while all were.

    """

    def __init__(self, trainer: Any, guard: Guard, new_monitor: Callable[[], NTPSMonitor], replay: Replay) -> None:
        self.refusal = ""
        self._trainer = trainer
        self._guard = guard
        self._monitor: NTPSMonitor | None = None
        self._replay = replay
        self._shown: dict[str, Any] = {}
        self._versions: list[int] = []
        with guard.measuring(trainer):
            self._monitor = new_monitor()

    def expect(self, shown: dict[str, Any]) -> None:
        """What :meth:`NTPSMonitor.batch` is shown of the batch that comes; nothing where it cannot be."""
        self._shown = shown
        self._versions = versions(shown)

    def repeat(self, call: Call | None) -> None:
        """Make the call of that batch again. Ranks that share a model come here together, whatever happened to them."""
        if self.refusal:
            return
        shown, self._shown = self._shown, {}
        changed = versions(shown) != self._versions
        reason = "labels, mask or ids of a batch were changed in place" if changed else self._guard.fault
        batch = None
        if shown and not reason and self._monitor is not None:
            with self._guard.measuring(self._trainer, self._monitor):
                batch = self._monitor.batch(**shown)
        with self._guard.measuring(self._trainer, self._monitor):
            self.refusal = self._replay.repeat(call if batch else None, batch or nullcontext(), reason)

    def finish(self, *, whole_curve: bool) -> dict[int, NTPSDetails]:
        """The details of every layer; nothing if any rank has failed or refused. Every rank comes here."""
        self._guard.agree()
        faults, refusals = zip(*gather((self._guard.fault, self.refusal)), strict=True)
        if any(faults) or any(refusals):
            known = [reason for reason in refusals if reason not in ("", ELSEWHERE)]
            self.refusal = "" if any(faults) else (known or [ELSEWHERE])[0]
            return {}
        found: dict[int, NTPSDetails] = {}
        if self._monitor is not None:
            with self._guard.measuring(self._trainer):
                found = self._monitor.compute(whole_curve=whole_curve)
        self._guard.agree()
        return found


def why_no_replay(trainer: Any, pl_module: nn.Module) -> str:
    """Why the strategy does not let a model have other weights for a while; empty where it does."""
    model = trainer.strategy.model
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod
    if model is not pl_module:
        return f"{type(model).__name__} does not let weights be exchanged"
    return why_not_exchanged(pl_module)


@contextmanager
def as_sanity_check(trainer: Any) -> Iterator[None]:
    """A pass of our own is none of the validation's: as the precision has it, and as in a sanity check."""
    stage = trainer.state.stage
    trainer.sanity_checking = True
    try:
        with trainer.precision_plugin.val_step_context():
            yield
    finally:
        trainer.state.stage = stage
