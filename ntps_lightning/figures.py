"""Pictures of the score, and how loggers take them. The only file that needs matplotlib."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from ntps_lightning.functional import NTPSDetails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROOM = 64 * 2**20

_INK, _MUTED, _ACCENT, _SECOND = "#1a1a1a", "#8a8a8a", "#1f6feb", "#d9480f"


def curve_figure(details: NTPSDetails, baseline: NTPSDetails | None = None) -> Figure:
    """The score and the captured share at every k, each with its null, now and at the baseline.

    Args:
        details: what :meth:`ntps_lightning.NextTokenPerceptionScore.details` returned.
        baseline: the same from before the first step.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    names = [("curve", "null_curve", "NTPS"), ("captured_curve", "captured_null_curve", "captured")]
    for axis, (name, null, title), color in zip(panels, names, (_ACCENT, _SECOND), strict=True):
        axis.plot(*_points(getattr(details, null)), color=_MUTED, linewidth=1, linestyle=":", label="null")
        if baseline is not None:
            axis.plot(*_points(getattr(baseline, name)), color=color, linewidth=1.2, linestyle="--", label="before")
        axis.plot(*_points(getattr(details, name)), color=color, linewidth=2, label="now")
        axis.axvline(details.k, color=_INK, linewidth=0.8, alpha=0.4)
        axis.annotate(f"k = {details.k}", (details.k, 0.01), xytext=(4, 4), textcoords="offset points")
        axis.set(
            title=title, xscale="log", yscale="log", ylim=(0.01, 1.1), xlabel="leading autoregressive directions k"
        )
        for scale in (axis.xaxis, axis.yaxis):
            scale.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False, loc="lower right")
    panels[0].set_ylabel("share of the perception subspace")
    return figure


def _points(curve: Any) -> tuple[range, list[float]]:
    return range(1, len(curve) + 1), curve.tolist()


def log_figure(logger: Any, tag: str, figure: Figure, step: int) -> bool:
    """Hand a figure to a Lightning logger; returns whether it could take one (TensorBoard and Weights & Biases can).

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
    add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)
    if add_figure is not None:
        add_figure(tag, figure, global_step=step)
        return True
    return False
