"""Rows that may be looked at: of the confirmatory sets when all of their kind are there, so that no part decides."""

from benchmarks.decisions.settings import CONFIRMATORY, EXPLORATORY, LARGE, MODELS, Base, Run, runs


def whole(bases: list[dict], ran: list[dict], many: list[dict]) -> tuple[list[dict], list[dict], list[dict]]:
    """Base models, runs and runs with many windows."""
    usual = _kept(ran, {run.name for run in runs(CONFIRMATORY)}, {run.name for run in runs(EXPLORATORY)})
    large = _kept(many, {Run(data).name for data in LARGE}, set())
    kept: list[dict] = []
    for model in MODELS:
        asked, free = ({Base(model, data).name for data in names} for names in (CONFIRMATORY, EXPLORATORY))
        kept += _kept(bases, asked, free)
    return kept, usual, large


def _kept(rows: list[dict], asked: set[str], free: set[str]) -> list[dict]:
    """Of ``free``, and of what is ``asked`` for when it is all there."""
    names = {row["name"] for row in rows}
    allowed = free | asked if asked <= names else free
    return [row for row in rows if row["name"] in allowed]
