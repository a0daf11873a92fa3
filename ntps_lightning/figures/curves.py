"""The score over k, as a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ntps_lightning.functional.details import NTPSDetails

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#1a1a1a"
_MUTED = "#8a8a8a"
_BLUE = "#1f6feb"
_ORANGE = "#d9480f"


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
    names = [("curve", "null_curve", "NTPS"), ("captured_curve", "captured_null_curve", "captured, in-sample")]
    for axis, (name, null, title), color in zip(panels, names, (_BLUE, _ORANGE), strict=True):
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
