"""The report's answers and tables for a terminal: with rich where it is installed and the output is one, else plain."""

from __future__ import annotations

import sys
import textwrap
from importlib.util import find_spec

from ntps_lightning.prescreening.report.page import Page, Table

_WIDTH = 100


def show(page: Page) -> None:
    """Print the answers, the tables and what to know of them, without the tables of all layers."""
    if sys.stdout.isatty() and find_spec("rich") is not None:
        _show_rich(page)
    else:
        print(as_text(page))


def as_text(page: Page) -> str:
    """The same, plain."""
    lines = [page.title, ""]
    for answer in page.answers:
        lines += _bullet(answer)
    for table in (page.summary, *page.rankings):
        lines += ["", *_table(table)]
    for title, said in (("Remarks", page.remarks), ("How to read it", page.caveats)):
        lines += ["", title] if said else []
        for each in said:
            lines += _bullet(each)
    return "\n".join(lines)


def _bullet(text: str) -> list[str]:
    return textwrap.wrap(_printable(text), _WIDTH, initial_indent="- ", subsequent_indent="  ", break_long_words=False)


def _table(table: Table) -> list[str]:
    rows = [table.columns, *table.rows]
    cells = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    padded = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in cells]
    return [_printable(table.title), *(f"  {row}" for row in padded)]


def _printable(text: str) -> str:
    """Without what would move the cursor or change colours."""
    return "".join(each if each.isprintable() else " " for each in text)


def _show_rich(page: Page) -> None:
    from rich.console import Console
    from rich.padding import Padding
    from rich.table import Table as RichTable
    from rich.text import Text

    console = Console()
    console.print(Text(page.title, style="bold"), "")
    for answer in page.answers:
        console.print(Padding(Text(_printable(answer)), (0, 0, 0, 2)))
    for table in (page.summary, *page.rankings):
        drawn = RichTable(title=Text(_printable(table.title)), title_justify="left", show_lines=False)
        for column in table.columns:
            drawn.add_column(column)
        for i, row in enumerate(table.rows):
            drawn.add_row(*(Text(_printable(cell)) for cell in row), style="bold" if i in table.strong else None)
        console.print("", drawn)
    for title, said in (("Remarks", page.remarks), ("How to read it", page.caveats)):
        if said:
            console.print("", Text(title, style="bold"))
        for each in said:
            console.print(Padding(Text(_printable(each), style="dim" if said is page.caveats else ""), (0, 0, 0, 2)))
