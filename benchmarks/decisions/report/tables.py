"""The tables of STUDY.md, in Markdown."""

from benchmarks.decisions.analysis import samples
from benchmarks.decisions.analysis.candidates import ALL, shown
from benchmarks.decisions.analysis.intervals import Interval
from benchmarks.decisions.analysis.verdicts import Verdict
from benchmarks.study.report.tables import table

# By chapter, the column of which exploratory sets are shown as well.
MEASURES = {
    "stop": "minus validation accuracy",
    "alarm": "balanced accuracy",
    "clock": "test accuracy",
    "layer": "test r2, minus the last layer",
}

# Of the first column, by the end or the start of a chapter's name.
HEADS = {"by set": "set", "order": "k"} | dict.fromkeys(MEASURES, "number")
YES = {True: "**yes**", False: "no"}


def chapters(found: dict) -> dict[str, str]:
    """A table per chapter."""
    own = {"samples": _samples, "verdicts": _verdicts}
    return {name: own[name](rows) if name in own else _rows(name, rows) for name, rows in found.items()}


def _verdicts(said: list[Verdict]) -> str:
    if not said:
        return "None yet: rows are missing."
    lines = [
        [each.decision, _name(each.number), each.measure, str(each.found), _t(each.found), each.bar, YES[each.passes]]
        for each in said
    ]
    return table(["decision", "named", "measure", "found", "by Student's t", "passes", "does it?"], lines)


def _t(found: Interval | str) -> str:
    limits = getattr(found, "t", None)
    return "[{:.3f}, {:.3f}]".format(*limits) if limits else "-"


def _rows(chapter: str, rows: dict) -> str:
    head = HEADS.get(chapter.split(",")[-1].strip()) or HEADS.get(chapter.split(",")[0], "")
    columns = list(next(iter(rows.values()), {}))
    lines = [[_name(name), *(_cell(row.get(column, "-")) for column in columns)] for name, row in rows.items()]
    measure = MEASURES.get(chapter.split(",")[0])
    if measure and measure in columns:
        lines = [[*line, f"{row[measure].exploratory:.3f}"] for line, row in zip(lines, rows.values(), strict=True)]
        columns = [*columns, f"exploratory sets: {measure}"]
    return table([head, *columns], lines)


def _name(name) -> str:
    return shown(name) if name in ALL else str(name)


def _cell(value) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def _samples(found: dict) -> str:
    lines = []
    for ratio, by_set in found.items():
        said = samples.holds(by_set)
        before, after = (
            ", ".join(f"{name} {each[f'distance {when}']:.1f}" for name, each in by_set.items())
            for when in ("before", "after")
        )
        beside = [f"{samples.mean(by_set, name):.2f}" for name in samples.BESIDE]
        counted = [f"{said[name]} of {said['sets']}" for name in ("rise", "clear", "both")]
        follows = f"{said['rank correlation']:.2f}"
        lines.append([ratio, follows, *counted, before, after, "yes" if said["passes"] else "no", *beside])
    columns = ["mean rank correlation of `score`", "rise", "end 3 sd above null", "both"]
    columns += ["sd above null before training", "sd above null at the end", "passes"]
    others = [f"mean rank correlation of {shown(name)}" for name in samples.BESIDE]
    printed = table(["n/d", *columns, *others], lines)
    smallest = samples.enough(found)
    enough = "at no n/d that was tried" if smallest is None else f"from n/d {smallest} on"
    moved = ", ".join(
        f"{name} {each['r2 before']:.3f}, {each['r2 best']:.3f}, {each['r2 last']:.3f} (se {each['r2 error']:.3f})"
        for name, each in by_set.items()
    )
    when = "before training, at its best, at the end"
    return f"{printed}\n\nEnough: {enough}.\n\nHeld-out R² of all windows {when}: {moved}."
