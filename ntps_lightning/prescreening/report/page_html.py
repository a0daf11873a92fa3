"""The report as one HTML page that asks for nothing else: no script, no network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files

from ntps_lightning.figures.layers import Curve
from ntps_lightning.prescreening.measured import Measured
from ntps_lightning.prescreening.panels import panels
from ntps_lightning.prescreening.ranking import Ranking, layer_to_read
from ntps_lightning.prescreening.report.page import Page, Table, page_of, rankings_of
from ntps_lightning.prescreening.report.svg import Interval, interval_chart, line_chart
from ntps_lightning.prescreening.result import Prescreen

# Characters from which on a cell is wrapped.
_LONG = 40


def as_html(result: Prescreen) -> str:
    """All of it."""
    page = page_of(result)
    style = files(__package__).joinpath("style.css").read_text("utf-8")
    parts = [
        f"<h1>{escape(page.title)}</h1>",
        f'<ul class="answers">{_items(page.answers)}</ul>',
        _section(page.summary.title, _table(page.summary)),
        _section("What a probe reads, by layer", _charts(_layer_charts(result.measured))),
        *_rankings(result, page),
        _section("What a probe reads, by number of labels", _charts(_learning_charts(result))),
        _section("Remarks", f"<ul>{_items(page.remarks)}</ul>") if page.remarks else "",
        _section("How to read it", f'<ul class="muted">{_items(page.caveats)}</ul>'),
        _section("All layers", "".join(_folded(table, len(page.layers) == 1) for table in page.layers)),
        *(_section(table.title, _table(table)) for table in (page.settings, page.passes, page.versions)),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(page.title)}</title>\n<style>\n{style}</style>\n</head>\n"
        f"<body>\n<main>\n{chr(10).join(filter(None, parts))}\n</main>\n</body>\n</html>\n"
    )


def _items(texts: Iterable[str]) -> str:
    return "".join(f"<li>{escape(text)}</li>" for text in texts)


def _section(title: str, content: str) -> str:
    return f"<section><h2>{escape(title)}</h2>{content}</section>"


def _charts(charts: Iterable[str]) -> str:
    return f'<div class="charts">{"".join(charts)}</div>'


def _folded(table: Table, is_open: bool) -> str:
    state = " open" if is_open else ""
    return f"<details{state}><summary>{escape(table.title)}</summary>{_table(table)}</details>"


def _table(table: Table) -> str:
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in table.columns)
    rows = "".join(_row(row, i in table.strong) for i, row in enumerate(table.rows))
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'


def _row(row: Sequence[str], strong: bool) -> str:
    kind = ' class="strong"' if strong else ""
    return f"<tr{kind}>{''.join(map(_cell, row))}</tr>"


def _cell(text: str) -> str:
    kind = ' class="wrap"' if len(text) > _LONG else ""
    return f"<td{kind}>{escape(text)}</td>"


def _layer_charts(measured: Sequence[Measured]) -> Iterable[str]:
    for panel in panels(measured):
        yield line_chart(panel.title, panel.curves, "layer", "held-out R²")


def _rankings(result: Prescreen, page: Page) -> Iterable[str]:
    found = rankings_of(result)
    for (title, ranking), table in zip(found, page.rankings, strict=True):
        yield _section(title, _charts([_ranking_chart(ranking)]) + _table(table))


def _ranking_chart(ranking: Ranking) -> str:
    rows = [
        Interval(each.name, each.value, each.se, f"{each.value:.3f} ± {each.se:.3f}", each.may_be_best)
        for each in ranking.ranked
    ]
    return interval_chart(rows, "held-out R²")


def _learning_charts(result: Prescreen) -> Iterable[str]:
    for data in result.data:
        measured = [each for each in result.measured if each.data == data]
        models = result.models
        curves = [line for each in measured for line in _learning(each, models.index(each.model), len(models) > 1)]
        if curves:
            classes = all(layer_to_read(each).probe_accuracy is not None for each in measured)
            yield line_chart(data, curves, "labels", "accuracy" if classes else "R²", log=True)


def _learning(measured: Measured, color: int, several: bool) -> Iterable[Curve]:
    layer = layer_to_read(measured)
    name = f"{measured.model}, " if several else ""
    if layer.curve:
        yield Curve(f"{name}layer {layer.layer}", layer.curve, color)
    if layer.expected:
        last = max(layer.curve)
        yield Curve(f"{name}expected", {last: layer.curve[last], **layer.expected}, color, dashed=True)
