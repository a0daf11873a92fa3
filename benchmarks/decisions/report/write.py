"""From rows to tables and figures: nothing is run here."""

from pathlib import Path

from benchmarks.decisions.analysis.findings import findings
from benchmarks.decisions.analysis.whole import whole
from benchmarks.decisions.report import figures, tables
from benchmarks.decisions.rows import KINDS, Rows
from benchmarks.study.report.tables import fill


def write(results: Path, pictures: Path, document: Path | None = None) -> None:
    """tables.md beside the rows, figures into ``pictures``, tables between ``document``'s marks."""
    bases, runs, many = (list(Rows(kind, results).all.values()) for kind in KINDS)
    if document:  # what is toy may be looked at in part
        bases, runs, many = whole(bases, runs, many)
    found = findings(bases, runs, many)
    chapters = tables.chapters(found)
    (results / "tables.md").write_text("\n\n".join(f"## {name}\n\n{text}" for name, text in chapters.items()) + "\n")
    if document:
        document.write_text(fill(document.read_text(), chapters))
    figures.write(found, bases, runs, pictures)
