"""What a run measures on one labelled set, from before its first step to its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torchmetrics.utilities import rank_zero_info

from ntps_lightning.capture.backbone import Backbone, find_backbone
from ntps_lightning.capture.entry import NotCallableError, find_entry
from ntps_lightning.capture.lookahead import refuse_lookahead
from ntps_lightning.capture.own_pass import Within
from ntps_lightning.distributed import from_first_rank, together
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.replay import Replay
from ntps_lightning.monitor.weights import copy_estimate
from ntps_lightning.watch.guard import Guard
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.names import logged_keys, logged_values, summary_line
from ntps_lightning.watch.records import Records
from ntps_lightning.watch.settings import Settings


@dataclass(frozen=True)
class Row:
    """A measurement as it is logged.

    Args:
        step: optimizer steps before it.
        values: by key; the same on every rank.
        line: what is printed.

    """

    step: int
    values: dict[str, float]
    line: str


class Watch:
    """Monitors of the model that is trained, what they have found, and what went wrong.

    A loop says when to measure, and where numbers go: it asks for :meth:`listen`, or runs the model itself
    (:func:`~ntps_lightning.watch.side_pass.measure_side_set`), and hands what was found to :meth:`take`.

    Args:
        settings: what is measured.
        definition: what else the numbers depend on, by name.
        way_out: what gives a baseline where the loop's first measurement can't.

    Attributes:
        settings: what is measured.
        records: history, details and baseline.
        guard: keeps what goes wrong from the run.
        replay: of the weights from before the first step, until it was used.

    """

    def __init__(self, settings: Settings, definition: Mapping[str, str] | None = None, way_out: str = "") -> None:
        self.settings = settings
        self.guard = Guard(settings.on_error, settings.prefix)
        self.replay: Replay | None = None
        self._way_out = way_out
        self._definition = settings.definition | dict(definition or {})
        self._monitor: NTPSMonitor | None = None
        self._tried: nn.Module | None = None
        self.records = self._new_records()

    @property
    def prefix(self) -> str:
        """What the keys start with."""
        return self.settings.prefix

    def new_run(self) -> None:
        """A call of the loop begins, whether of the same run or not."""
        self.guard.new_run()
        self._monitor = None

    def forget(self) -> None:
        """Another run begins."""
        self._tried = None
        self.records = self._new_records()

    def depends_on(self, name: str, value: str) -> None:
        """The numbers also depend on this."""
        self._definition[name] = value
        self._monitor = None  # of another set's classes, perhaps
        if self.records.differs_in(name, value):
            before, self.records = self.records.baseline, self._new_records()
            self.records.baseline.begin(before.step, before.logged_at)
        self.records.definition[name] = value

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on with what :meth:`Records.state_dict` returned."""
        self.records.load_state_dict(state)
        self._monitor = None

    def keys(self, layers: list[int]) -> set[str]:
        """Every key that is logged."""
        settings = self.settings
        return logged_keys(self.prefix, layers, gain=settings.baseline, held_out=settings.kept > 0)

    def held(self, values: Mapping[str, float]) -> dict[str, float]:
        """The last values of keys that a measurement has nothing new of."""
        return {key: value for key, value in self.records.last_known.items() if key not in values}

    # Monitors

    def backbone(self, root: nn.Module) -> Backbone:
        """The decoder to listen to."""
        return find_backbone(root, self.settings.model)

    def entry(self, root: nn.Module, caller: nn.Module) -> nn.Module:
        """The module that a pass of our own calls, of those in what the loop calls.

        Args:
            root: what holds the model.
            caller: what is called, where a strategy has wrapped it.

        Raises:
            SetupError: If none can be from here.

        """
        decoder = self.backbone(root).decoder
        try:
            return find_entry(decoder, caller)
        except NotCallableError as error:
            raise SetupError(
                f"a side set (data=...) runs {type(decoder).__name__} by itself, which cannot be done: {error}. Make it"
                " a validation dataloader instead, and listen to that (labels=...)"
            ) from error

    def new_monitor(self, root: nn.Module) -> NTPSMonitor:
        """For one measurement: a strategy may have wrapped the model since the last."""
        backbone = self.backbone(root)
        if self._monitor is not None:
            return self._monitor.twin(backbone)
        self._monitor = self.settings.new_monitor(backbone)
        self._monitor.expect_classes(self.records.num_classes, self.records.class_names)
        self._monitor.notices = self.guard.notices
        return self._monitor

    def tried_monitor(self, root: nn.Module, caller: nn.Module, within: Within) -> NTPSMonitor:
        """A monitor of a model that does not look ahead; every rank comes here.

        Args:
            root: what holds the model.
            caller: what is called, where a strategy has wrapped it.
            within: makes the context that the loop runs its model in.

        """
        with together():
            monitor = self.new_monitor(root)
            backbone = self.backbone(root)
        if not self.settings.allow_bidirectional and backbone.decoder is not self._tried:
            with within():  # as the loop would call it, once for a model
                refuse_lookahead(backbone, caller)
            self._tried = backbone.decoder
        return monitor

    def check_memory(self, monitor: NTPSMonitor, device: torch.device, processes: int | None) -> None:
        """Refuse sums that there is no memory for, and say what they take."""
        estimate = monitor.memory(device, processes=processes)
        if estimate is not None:
            estimate.check()
            rank_zero_info(f"NTPS will take {estimate}")

    def check_replay_memory(self, root: nn.Module, device: torch.device, processes: int | None) -> None:
        """The same for the copy of the weights that train, and sums beside those of the first measurement."""
        copy = copy_estimate(self.backbone(root).outermost)
        copy.check()
        sums = self.new_monitor(root).memory(device, processes=processes)
        if sums is not None:
            replace(sums, measurements=2).check()
        rank_zero_info(f"NTPS takes {copy}, and the sums twice in that validation, for the baseline")

    def may_have_baseline(self, *, trained: bool) -> bool:
        """Whether a run that has ``trained`` already, or not, can still be measured from before its first step."""
        records = self.records
        return self.settings.baseline and not records.history and not trained and not records.baseline.why_none

    def give_up_baseline(self, reason: str) -> None:
        """Say, once, that there will be none."""
        self.records.baseline.give_up(self.prefix, reason, self._way_out)

    # Measurements

    def listen(self, root: nn.Module, caller: nn.Module, within: Within, *, replayed: bool) -> Listening:
        """Measure from passes that the loop makes; ``replayed`` also as they would have been before the first step.

        :meth:`Guard.begin` comes first.
        """
        listening = Listening(self.guard, lambda: self.tried_monitor(root, caller, within))
        if replayed and self.replay is not None:
            listening.replay_with(self.replay, lambda: self.new_monitor(root))
        return listening

    def finish_replay(self, listening: Listening, *, whole_curve: bool) -> Row | None:
        """What the batches would have scored before the first step, where that was measured; the weights are let go."""
        if listening.replayed is None:
            return None
        self.replay = None
        found = listening.replayed.finish(whole_curve=whole_curve)
        return self.take_baseline(found, listening) if found else None

    def take_baseline(self, found: dict[int, NTPSDetails], listening: Listening) -> Row:
        """The point from before the first step."""
        self.records.take(found, self.records.baseline.step, baseline=True, untrained=True)
        if listening.classes[0]:
            self.records.num_classes, self.records.class_names = listening.classes
        return self._row(found, self.records.baseline.step, 0)

    def take(
        self, listening: Listening, found: dict[int, NTPSDetails], step: int, epoch: int, *, untrained: bool
    ) -> Row:
        """Scores, or the fault that there are none for, into the history."""
        if found and listening.replayed is not None and listening.replayed.refusal:
            self.give_up_baseline(listening.replayed.refusal)
        if found:
            self.records.take(found, step, baseline=self.settings.baseline, untrained=untrained)
            self.records.num_classes, self.records.class_names = listening.classes
        return self._row(found, step, epoch)

    def _row(self, found: dict[int, NTPSDetails], step: int, epoch: int) -> Row:
        records = self.records
        values = from_first_rank(logged_values(self.prefix, found, records.baseline.score))
        records.append(step, epoch, values)
        missing = f"{self.prefix} not measured at step {step}: {self.guard.fault}"
        line = summary_line(self.prefix, found, records.changes.get("baseline"), step) if found else missing
        return Row(step, values, line)

    def _new_records(self) -> Records:
        return Records(self.prefix, self._definition)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no model."""
        return self.__dict__ | dict.fromkeys(("_monitor", "_tried", "replay"))
