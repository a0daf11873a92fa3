"""How Lightning is told of a measurement."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ntps_lightning.watch.names import headlines


def log_values(pl_module: Any, prefix: str, values: Mapping[str, float]) -> None:
    """Log floats that are the same on every rank, without a collective.

    Every rank logs them, so that monitors see them on every rank; ``rank_zero_only`` is what keeps Lightning from
    reducing each of them over the ranks, or from advising to.
    """
    shown = headlines(prefix, values)
    for key, value in values.items():
        pl_module.log(
            key,
            value,
            prog_bar=key in shown,
            on_epoch=True,
            sync_dist=True,
            reduce_fx="max",
            rank_zero_only=True,
        )


def logger_step(trainer: Any) -> int:
    """Where loggers have put what the validation that ends has logged: at the ``step`` that the module logs, or by the
    batches that were trained on, which several optimizers step at each.
    """
    own = any(result.meta.name == "step" and result.meta.logger for result in trainer._results.values())
    step = trainer.logged_metrics.get("step") if own else None  # with several dataloaders it has another name
    return loggers_at(trainer) if step is None else int(step)


def loggers_at(trainer: Any) -> int:
    """Where loggers are by themselves: batches that were trained on."""
    return int(trainer.fit_loop.epoch_loop._batches_that_stepped)


def print_line(trainer: Any, line: str) -> None:
    """Print a line once, above the progress bar if there is one."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if bar is not None and getattr(bar, "is_enabled", True):
        bar.print(line)
    else:
        logging.getLogger(type(trainer).__module__.partition(".trainer")[0]).info(line)
