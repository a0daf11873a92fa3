"""The report in its forms: terminal, Markdown, CSV, JSON and one HTML page, a file each."""

from __future__ import annotations

from pathlib import Path

from ntps_lightning.prescreening.report.layers_csv import as_csv
from ntps_lightning.prescreening.report.markdown import as_markdown
from ntps_lightning.prescreening.report.page import page_of
from ntps_lightning.prescreening.report.page_html import as_html
from ntps_lightning.prescreening.result import Prescreen


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
    page.write_text(as_html(result), "utf-8")
    (folder / "report.md").write_text(as_markdown(page_of(result)), "utf-8")
    (folder / "layers.csv").write_text(as_csv(result), "utf-8", newline="")
    result.save(folder / "result.json")
    return page
