"""Held-out numbers and the score over k, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.held_out import HeldOut

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INK = "#1a1a1a"
_MUTED = "#8a8a8a"
_BLUE = "#1f6feb"
_ORANGE = "#d9480f"


def curve_figure(details: NTPSDetails, baseline: NTPSDetails | None = None) -> Figure:
    """What a probe reads held out of the leading k directions, with two standard errors either way, and the score, each
    beside what it is to be compared with, now and at the baseline.

    Args:
        details: what :meth:`ntps_lightning.NextTokenPerceptionScore.details` returned.
        baseline: the same from before the first step.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    _draw_held_out(left, details.held_out, None if baseline is None else baseline.held_out)
    right.plot(*_points(details.null_curve), color=_MUTED, linewidth=1, linestyle=":", label="null")
    if baseline is not None:
        right.plot(*_points(baseline.curve), color=_ORANGE, linewidth=1.2, linestyle="--", label="before")
    right.plot(*_points(details.curve), color=_ORANGE, linewidth=2, label="now")
    right.set(title="NTPS", yscale="log", ylim=(0.01, 1.1), ylabel="share of the perception subspace")
    right.yaxis.set_major_formatter("{x:g}")
    for axis in (left, right):
        axis.axvline(details.k, color=_INK, linewidth=0.8, alpha=0.4)
        axis.annotate(
            f"k = {details.k}", (details.k, 0.01), xytext=(4, 4), xycoords=("data", "axes fraction"),
            textcoords="offset points",
        )  # fmt: skip
        axis.set(xscale="log", xlabel="leading directions k")
        axis.xaxis.set_major_formatter("{x:g}")
        axis.spines[["top", "right"]].set_visible(False)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(frameon=False, loc="lower right", fontsize="small")
    return figure


def _draw_held_out(axis: Any, now: HeldOut | None, before: HeldOut | None) -> None:
    axis.set(title="held-out R² of a probe", ylabel="± 2 standard errors")
    if now is None:
        axis.text(0.5, 0.5, "nothing held out", transform=axis.transAxes, ha="center")
        return
    whole = now.probe_r2
    axis.axhspan(whole.value - 2 * whole.se, whole.value + 2 * whole.se, color=_MUTED, alpha=0.2, linewidth=0)
    axis.axhline(whole.value, color=_MUTED, linewidth=1, label="on the whole state, now")
    _draw_curve(axis, now.curves["principal_r2"], color=_MUTED, linestyle=":", label="principal components, now")
    if before is not None:
        _draw_curve(axis, before.curves["captured_r2"], color=_BLUE, linestyle="--", label="autoregressive, before")
    _draw_curve(axis, now.curves["captured_r2"], color=_BLUE, linewidth=2, label="autoregressive directions, now")


def _draw_curve(axis: Any, curve: Mapping[int, tuple[float, float]], color: str, **style: Any) -> None:
    sizes, values = list(curve), [value for value, _ in curve.values()]
    low, high = ([value + sign * 2 * se for value, se in curve.values()] for sign in (-1, 1))
    axis.fill_between(sizes, low, high, color=color, alpha=0.15, linewidth=0)
    axis.plot(sizes, values, color=color, **style)


def _points(curve: Any) -> tuple[range, list[float]]:
    return range(1, len(curve) + 1), curve.tolist()
