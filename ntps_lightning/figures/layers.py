"""Held-out numbers by layer, as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_COLORS = ["#1f6feb", "#d9480f", "#8a8a8a", "#2b8a3e", "#862e9c", "#0b7285"]
_COLUMNS = 3


@dataclass(frozen=True)
class Curve:
    """A line of numbers with their standard errors.

    Args:
        label: for the legend.
        points: by layer or by number of samples.
        color: index of its colour; after the last colour they come again, dotted.
        dashed: extrapolated.
        marked: a layer, or number of samples, to mark.

    """

    label: str
    points: Mapping[int, tuple[float, float]]
    color: int
    dashed: bool = False
    marked: int | None = None


@dataclass(frozen=True)
class Panel:
    """Curves of one data set."""

    title: str
    curves: Sequence[Curve]


def layer_figure(panels: Sequence[Panel]) -> Figure:
    """Curves by layer with two standard errors either way, a panel a data set.

    Args:
        panels: at least one.

    Raises:
        ModuleNotFoundError: If matplotlib is not installed.

    """
    from matplotlib.figure import Figure

    columns = min(_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.2 * columns, 3.2 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis, panel in zip(axes, panels, strict=False):
        _draw(axis, panel)
    for axis in axes[len(panels) :]:
        axis.remove()
    return figure


def _draw(axis: Any, panel: Panel) -> None:
    for curve in panel.curves:
        color = _COLORS[curve.color % len(_COLORS)]
        layers, values = list(curve.points), [value for value, _ in curve.points.values()]
        low, high = ([value + sign * 2 * se for value, se in curve.points.values()] for sign in (-1, 1))
        axis.fill_between(layers, low, high, color=color, alpha=0.15, linewidth=0)
        style = "--" if curve.dashed else ":" if curve.color >= len(_COLORS) else "-"
        axis.plot(layers, values, color=color, linewidth=1.5, linestyle=style, label=curve.label)
        if curve.marked is not None:
            axis.plot(curve.marked, curve.points[curve.marked][0], "o", color=color, markersize=6)
    axis.set(xlabel="layer", ylabel="held-out R², ± 2 standard errors")
    # Names are the user's: a $ in one is no formula.
    axis.set_title(panel.title, parse_math=False)
    axis.spines[["top", "right"]].set_visible(False)
    for text in axis.legend(frameon=False, fontsize="small").get_texts():
        text.set_parse_math(False)
