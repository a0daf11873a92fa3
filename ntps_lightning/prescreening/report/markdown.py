"""The report as Markdown."""

from __future__ import annotations

from ntps_lightning.prescreening.report.page import Page, Table

# What Markdown or the HTML in it would read as its own.
_SPECIAL = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]<>#|~$!&"} | {"\n": " ", "\r": " "})


def as_markdown(page: Page) -> str:
    """All of it."""
    lines = [f"# {page.title}", "", *(f"- {_text(answer)}" for answer in page.answers)]
    for table in (page.summary, *page.rankings):
        lines += _table(table)
    if page.remarks:
        lines += ["", "## Remarks", "", *(f"- {_text(remark)}" for remark in page.remarks)]
    lines += ["", "## How to read it", "", *(f"- {_text(caveat)}" for caveat in page.caveats)]
    for table in (*page.layers, page.settings, page.passes, page.versions):
        lines += _table(table)
    return "\n".join([*lines, ""])


def _table(table: Table) -> list[str]:
    head = [f"| {' | '.join(map(_text, table.columns))} |", "|" + "---|" * len(table.columns)]
    rows = [_row(row, i in table.strong) for i, row in enumerate(table.rows)]
    return ["", f"## {_text(table.title)}", "", *head, *rows]


def _row(row: tuple[str, ...], strong: bool) -> str:
    cells = [f"**{_text(cell)}**" if strong and cell else _text(cell) for cell in row]
    return f"| {' | '.join(cells)} |"


def _text(text: str) -> str:
    return text.translate(_SPECIAL)
