"""Charts as inline SVG, whose colours are the page's; as wide as a phone, several side by side elsewhere."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ntps_lightning.figures.layers import Curve

_WIDTH, _HEIGHT = 360, 230
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 10, 34
_ROW = 40
_COLORS = 6
# Characters of a name.
_LONGEST = 28
# Standard errors either way.
_BAND = 2


@dataclass(frozen=True)
class Interval:
    """A row of a ranking."""

    label: str
    value: float
    se: float
    note: str
    strong: bool


def line_chart(title: str, curves: Sequence[Curve], x_label: str, y_label: str, *, log: bool = False) -> str:
    """Lines with bands of two standard errors, with a legend.

    Args:
        title: of the figure.
        curves: at least one, with points.
        x_label: what x is.
        y_label: what y is.
        log: whether x is shown by its logarithm.

    """
    xs = sorted({x for each in curves for x in each.points})
    ends = [v + sign * _BAND * se for each in curves for v, se in each.points.values() for sign in (-1, 1)]
    y_ticks = ticks(min(ends), max(ends))
    x_ticks = xs if log else [round(x) for x in ticks(xs[0], xs[-1], whole=True) if xs[0] <= x <= xs[-1]]
    scale: Callable[[float], float] = math.log if log else float
    x = _scale(scale(xs[0]), scale(xs[-1]), _LEFT + 6, _WIDTH - _RIGHT - 6)
    y = _scale(y_ticks[0], y_ticks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_y_axis(y_ticks, y), _x_axis([(x(scale(tick)), _short(tick)) for tick in x_ticks], x_label)]
    parts += [_curve(each, lambda at: x(scale(at)), y) for each in curves]
    legend = f'<div class="legend">{"".join(map(_legend, curves))}</div>'
    return _figure(title, f"{y_label}, bands are ± {_BAND} standard errors", _svg(_HEIGHT, title, parts), legend)


def interval_chart(rows: Sequence[Interval], x_label: str) -> str:
    """A row each, with two standard errors either way.

    Args:
        rows: at least one.
        x_label: what is ranked by.

    """
    height = _TOP + _ROW * len(rows) + _BOTTOM
    ends = [each.value + sign * _BAND * each.se for each in rows for sign in (-1, 1)]
    x_ticks = ticks(min(ends), max(ends))
    x = _scale(x_ticks[0], x_ticks[-1], 16, _WIDTH - 16)
    parts = [_x_axis([(x(tick), _decimal(tick)) for tick in x_ticks], x_label, height, lines=True)]
    parts += [_interval(each, _TOP + _ROW * i, x) for i, each in enumerate(rows)]
    note = f"bars are ± {_BAND} standard errors; full dots may be the best"
    return _figure("", note, _svg(height, x_label, parts), "")


def ticks(low: float, high: float, *, whole: bool = False) -> list[float]:
    """Some round numbers, the first at most ``low`` and the last at least ``high``."""
    span = max(high - low, 1e-9)
    step = 10.0 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 5)
    step = max(step, 1.0) if whole else step
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, max(last, first + 1) + 1)]


def _scale(low: float, high: float, start: float, end: float) -> Callable[[float], float]:
    span = high - low or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _svg(height: float, title: str, parts: Sequence[str]) -> str:
    label = escape(title, quote=True)
    return f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _figure(title: str, note: str, svg: str, legend: str) -> str:
    strong = f"<strong>{escape(title)}</strong>" if title else ""
    head = f"<figcaption>{strong}<span>{escape(note)}</span></figcaption>"
    return f"<figure>{head}{svg}{legend}</figure>"


def _legend(curve: Curve) -> str:
    return f'<span class="key {_kind(curve)}">{escape(curve.label)}</span>'


def _kind(curve: Curve) -> str:
    """Classes of its colour and stroke."""
    stroke = " dashed" if curve.dashed else " dotted" if curve.color >= _COLORS else ""
    return f"c{curve.color % _COLORS}{stroke}"


def _y_axis(values: Sequence[float], y: Callable[[float], float]) -> str:
    return "".join(
        f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'
        f'<text class="tick end" x="{_LEFT - 5}" y="{y(v) + 4:.1f}">{_decimal(v)}</text>'
        for v in values
    )


def _x_axis(marks: Sequence[tuple[float, str]], label: str, height: float = _HEIGHT, *, lines: bool = False) -> str:
    bottom = height - _BOTTOM
    grid = (f'<line class="grid" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" y2="{bottom}"/>' for x, _ in marks)
    texts = (f'<text class="tick" x="{x:.1f}" y="{bottom + 14}">{text}</text>' for x, text in marks)
    middle = f'<text class="tick" x="{_WIDTH / 2}" y="{height - 5}">{escape(label)}</text>'
    return "".join([*(grid if lines else ()), *texts, middle])


def _curve(curve: Curve, x: Callable[[float], float], y: Callable[[float], float]) -> str:
    points = sorted(curve.points.items())
    upper = [(x(at), y(value + _BAND * se)) for at, (value, se) in points]
    lower = [(x(at), y(value - _BAND * se)) for at, (value, se) in points]
    kind = f"c{curve.color % _COLORS}"
    band = f'<polygon class="band {kind}" points="{_path([*upper, *lower[::-1]])}"/>'
    line = f'<polyline class="line {_kind(curve)}" points="'
    line += f'{_path([(x(at), y(value)) for at, (value, _) in points])}"/>'
    dots = "".join(_dot(curve, at, number, x, y) for at, number in points)
    return band + line + dots


def _dot(
    curve: Curve, at: int, number: tuple[float, float], x: Callable[[float], float], y: Callable[[float], float]
) -> str:
    said = escape(f"{curve.label}, {at}: {number[0]:.3f} ± {number[1]:.3f}")
    size = 5 if at == curve.marked else 2
    kind = f"dot c{curve.color % _COLORS}"
    return f'<circle class="{kind}" cx="{x(at):.1f}" cy="{y(number[0]):.1f}" r="{size}"><title>{said}</title></circle>'


def _interval(row: Interval, top: float, x: Callable[[float], float]) -> str:
    y = top + 28
    low, high = x(row.value - _BAND * row.se), x(row.value + _BAND * row.se)
    kind = "" if row.strong else " open"
    name = row.label if len(row.label) <= _LONGEST else f"…{row.label[1 - _LONGEST :]}"
    return (
        f'<text class="name" x="16" y="{top + 14}">{escape(name)}</text>'
        f'<text class="tick end" x="{_WIDTH - 16}" y="{top + 14}">{escape(row.note)}</text>'
        f'<line class="line c0" x1="{low:.1f}" x2="{high:.1f}" y1="{y}" y2="{y}"/>'
        f'<circle class="dot c0{kind}" cx="{x(row.value):.1f}" cy="{y}" r="5"/>'
    )


def _path(points: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _decimal(value: float) -> str:
    return f"{value:.10g}"


def _short(value: float) -> str:
    return f"{value / 1000:.3g}k" if value >= 1000 else f"{value:.10g}"
