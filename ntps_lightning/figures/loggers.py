"""How each logger takes a picture."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a logger's disk must have free.
_ROOM = 64 * 2**20


def log_figure(logger: Any, tag: str, figure: Figure, step: int) -> bool:
    """Hand a figure to a Lightning logger; returns whether it could take one (TensorBoard, Weights & Biases and MLflow
    can).

    Raises:
        OSError: If the logger's disk is almost full: TensorBoard's writer dies of a failed write, and the run of that.

    """
    folder = getattr(logger, "save_dir", None)
    free = shutil.disk_usage(folder).free if folder and os.path.isdir(folder) else _ROOM
    if free < _ROOM:
        raise OSError(f"{free / 2**20:.0f} MiB are free at {folder}, and a failed write would stop the run")
    if hasattr(logger, "log_image"):
        logger.log_image(key=tag, images=[figure], step=step)
        return True
    experiment: Any = getattr(logger, "experiment", None)
    if hasattr(experiment, "add_figure"):
        experiment.add_figure(tag, figure, global_step=step)
        return True
    if hasattr(experiment, "log_figure") and hasattr(logger, "run_id"):
        experiment.log_figure(logger.run_id, figure, f"{tag}/{step:08d}.png")
        return True
    return False
