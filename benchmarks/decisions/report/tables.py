"""The tables of STUDY.md, in Markdown."""

from benchmarks.decisions.analysis import samples
from benchmarks.decisions.analysis.candidates import ALL, shown
from benchmarks.study.report.tables import table


def chapters(found: dict) -> dict[str, str]:
    """A table per chapter."""
    return {name: _samples(rows) if name == "samples" else _rows(name, rows) for name, rows in found.items()}


def _rows(chapter: str, rows: dict) -> str:
    head = (
        "number"
        if chapter.split(",")[0] in ("stop", "alarm", "clock", "layer")
        else "k"
        if chapter.startswith("order")
        else ""
    )
    columns = list(next(iter(rows.values()), {}))
    lines = [[_name(name), *(_cell(row.get(column, "-")) for column in columns)] for name, row in rows.items()]
    exploratory = [column for column in columns[:1] if hasattr(next(iter(rows.values()))[column], "exploratory")]
    if head == "number" and exploratory:
        lines = [[*line, f"{row[columns[0]].exploratory:.3f}"] for line, row in zip(lines, rows.values(), strict=True)]
        columns = [*columns, f"exploratory sets: {columns[0]}"]
    return table([head, *columns], lines)


def _name(name) -> str:
    return shown(name) if name in ALL else str(name)


def _cell(value) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def _samples(found: dict) -> str:
    lines = []
    for ratio, by_set in found.items():
        said = samples.holds(by_set)
        distances = ", ".join(f"{name} {each['distance after']:.1f}" for name, each in by_set.items())
        counted = [f"{said[name]} of {said['sets']}" for name in ("rise", "clear")]
        lines.append([ratio, f"{said['rank correlation']:.2f}", *counted, distances, "yes" if said["passes"] else "no"])
    printed = table(
        ["n/d", "mean rank correlation", "rise", "end 3 sd above null", "sd above null at the end", "passes"], lines
    )
    smallest = samples.enough(found)
    return f"{printed}\n\nEnough: " + ("at no n/d that was tried." if smallest is None else f"from n/d {smallest} on.")
