"""What a model scored before it was trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.functional.details import NTPSDetails, renamed


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

    def give_up(self, prefix: str, reason: str, way_out: str) -> None:
        """Say, once, that there will be none, and what gives one all the same."""
        if not self.why_none:
            rank_zero_warn(
                f"`{prefix}/gain` counts from the first validation: there is no score from before the first step,"
                f" because {reason}; {way_out}"
            )
        self.why_none = reason

    def state_dict(self) -> dict[int, dict[str, Any]]:
        """The details as plain dictionaries."""
        return {layer: asdict(details) for layer, details in self.details.items()}

    def load_state_dict(self, state: Mapping[int, Mapping[str, Any]]) -> None:
        """Take what :meth:`state_dict` returned."""
        known = {field.name for field in fields(NTPSDetails)}
        present = {layer: renamed(each) for layer, each in state.items()}
        unknown = {name for each in present.values() for name in each} - known
        if unknown:
            rank_zero_warn(f"the checkpoint's baseline has fields that this version does not know: {sorted(unknown)}")
        self.details = {
            layer: NTPSDetails.of({name: value for name, value in each.items() if name in known})
            for layer, each in present.items()
        }
