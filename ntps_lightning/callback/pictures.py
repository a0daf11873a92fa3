"""The curves over k, drawn for the loggers that take pictures."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ntps_lightning.watch.guard import Guard
from ntps_lightning.watch.records import Records


def draws_pictures(trainer: Any) -> bool:
    """Whether there is a logger, and matplotlib to draw with."""
    return bool(trainer.loggers) and find_spec("matplotlib") is not None


def log_pictures(trainer: Any, tag: str, step: int, records: Records, guard: Guard) -> None:
    """Log the headline's curves beside those of the baseline, as of a step, on the rank that has loggers."""
    if not draws_pictures(trainer) or not records.details or not trainer.is_global_zero:
        return
    from ntps_lightning.figures import curve_figure, log_figure

    before = records.baseline.details.get(max(records.details)) if len(records.history) > 1 else None
    for logger in trainer.loggers:
        with guard.logging("a figure was not logged"):
            log_figure(logger, tag, curve_figure(records.headline, before), step)
