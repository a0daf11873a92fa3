"""The score from before the first step: Lightning's sanity check, run once over the whole validation set."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.functional.details import NTPSDetails


class Baseline:
    """What a model scored before it was trained.

    Attributes:
        details: of each layer; empty while nothing was measured.
        in_sanity_check: whether the sanity check under way, or about to be, is a measurement.

    """

    def __init__(self) -> None:
        self.details: dict[int, NTPSDetails] = {}
        self.in_sanity_check = False
        self._user_sanity_steps: int | float | None = None

    @property
    def score(self) -> float | None:
        """Of the highest layer; ``None`` while nothing was measured."""
        return self.details[max(self.details)].score if self.details else None

    def extend_sanity_check(self, trainer: Any) -> None:
        """Let the sanity check that follows run over the whole validation set."""
        self.in_sanity_check = True
        if trainer.num_sanity_val_steps != math.inf:
            self._user_sanity_steps = trainer.num_sanity_val_steps
            trainer.num_sanity_val_steps = math.inf

    def end_sanity_check(self, trainer: Any) -> None:
        """Leave those that follow as they were."""
        self.in_sanity_check = False
        if self._user_sanity_steps is not None:
            trainer.num_sanity_val_steps = self._user_sanity_steps
            self._user_sanity_steps = None

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
            layer: NTPSDetails(**{name: value for name, value in each.items() if name in known})
            for layer, each in state.items()
        }
