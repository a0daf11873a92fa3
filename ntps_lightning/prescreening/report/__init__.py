"""The report in its forms: terminal, Markdown, CSV, JSON and one HTML page, a file each."""

from __future__ import annotations

from pathlib import Path

from ntps_lightning.prescreening.report.layers_csv import as_csv
from ntps_lightning.prescreening.report.markdown import as_markdown
from ntps_lightning.prescreening.report.page import page_of
from ntps_lightning.prescreening.report.page_html import as_html
from ntps_lightning.prescreening.result import Prescreen
from ntps_lightning.prescreening.whole_file import write_whole


def write_report(result: Prescreen, folder: str | Path) -> Path:
    """Write report.html, report.md, layers.csv and result.json, which :meth:`Prescreen.load` reads.

    Args:
        result: what prescreening found.
        folder: where to; made where it is not there.

    Returns:
        The path of report.html.

    Raises:
        OSError: If it cannot be written.

    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    page = folder / "report.html"
    write_whole(page, as_html(result))
    write_whole(folder / "report.md", as_markdown(page_of(result)))
    write_whole(folder / "layers.csv", as_csv(result))
    result.save(folder / "result.json")
    return page
