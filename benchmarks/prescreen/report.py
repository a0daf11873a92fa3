"""Rows as tables."""

import statistics

from benchmarks.helpers.timing import table
from benchmarks.prescreen.analysis import (
    Number,
    by_set,
    choose,
    column,
    follows,
    highest,
    interval,
    lost,
    numbers,
    regret,
    verdict,
)
from benchmarks.prescreen.cost import PARTS
from benchmarks.prescreen.settings import MODELS, PARTIES

BASE: Number = ("ours", "probe_r2")


def cost_table(rows: list[dict], memories: list[dict]) -> None:
    """Medians of seconds over rounds, and the highest peak."""
    lines = []
    for n in sorted({row["n"] for row in rows}):
        for party in PARTIES:
            some = [row for row in rows if (row["n"], row["party"]) == (n, party)]
            if some:
                lines.append([f"n={n}, {party}", *cost_cells(some)])
    lines += [[f"n={row['n']}, {row['party']}", *[""] * 4, mebibytes([row])] for row in memories]
    columns = ["texts", "pass s", "of it the model", "estimation s", "rest s", "peak MiB"]
    table("1. Seconds of the processor, and memory beyond the loaded model", columns, lines)


def cost_cells(rows: list[dict]) -> list[str]:
    model, gathering, estimation, rest = (
        statistics.median(row["seconds"].get(part, 0.0) for row in rows) for part in (*PARTS, "rest")
    )
    seconds = (model + gathering, model, estimation, rest)
    return [*(f"{value:.1f}" for value in seconds), mebibytes(rows)]


def mebibytes(rows: list[dict]) -> str:
    return f"{max(row['peak_bytes'] for row in rows) / 2**20:.0f}"


def layer_tables(rows: list[dict]) -> None:
    """A table for each model."""
    for model in MODELS:
        some = [row for row in rows if row["model"] == model]
        if some:
            title = f"2. Layers of {model}, over {len(some)} sets: means and 95% bootstrap intervals over sets"
            columns = ["number", "with accuracy", "with R²", "points lost", "more than by probe_r2"]
            table(title, columns, [*(layer_line(some, number) for number in numbers()), *fixed_lines(some)])


def layer_line(rows: list[dict], number: Number) -> list[str]:
    """Rank correlations, and accuracy lost by choosing the highest layer, in points; paired against the base."""
    more = by_set(rows, lambda row: 100 * (regret(row, number) - regret(row, BASE)))
    return [
        f"{number[0]} {number[1]}",
        *(shown(by_set(rows, lambda row, truth=truth: follows(row, number, truth))) for truth in ("accuracy", "r2")),
        shown(by_set(rows, lambda row: 100 * regret(row, number))),
        "" if number == BASE else shown(more, sign=True),
    ]


def fixed_lines(rows: list[dict]) -> list[list[str]]:
    """What choosing without any number loses."""
    fixed = {"(the last layer)": -1, "(a layer at random)": slice(None)}
    return [
        [name, "", "", shown(by_set(rows, lambda row, chosen=chosen: 100 * lost(row, chosen))), ""]
        for name, chosen in fixed.items()
    ]


def shown(values: dict[str, float], *, sign: bool = False) -> str:
    mean, low, high = interval(values)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]" if sign else f"{mean:.2f} [{low:.2f}, {high:.2f}]"


def choice_tables(rows: list[dict], choices: list[dict]) -> None:
    """Of the sets that have rows of both models."""
    sets = {data: pair for data in dict.fromkeys(row["data"] for row in rows) if (pair := pair_of(rows, data))}
    if not sets:
        return
    lines = [choice_line(sets, number) for number in numbers()]
    columns = ["number", "right", "points lost", "of all layers", *(f"level, {model}" for model in MODELS)]
    table(f"3. The better of two models, on {len(sets)} sets; levels are medians", columns, lines)
    verdicts = [verdict(row, sets[row["data"]]) for row in choices if row["data"] in sets]
    if verdicts:
        print("\n".join(verdict_lines(verdicts)))


def pair_of(rows: list[dict], data: str) -> dict[str, dict] | None:
    found = {row["model"]: row for row in rows if row["data"] == data}
    return {model: found[model] for model in MODELS} if set(found) >= set(MODELS) else None


def choice_line(sets: dict[str, dict[str, dict]], number: Number) -> list[str]:
    found = {data: choose(pair, number) for data, pair in sets.items()}
    right = sum(each.right for each in found.values())
    return [
        f"{number[0]} {number[1]}",
        f"{right:g} of {len(found)}",
        shown({data: 100 * each.lost for data, each in found.items()}),
        shown({data: 100 * each.lost_of_all for data, each in found.items()}),
        *(f"{statistics.median(each.levels[model] for each in found.values()):.3g}" for model in MODELS),
    ]


def verdict_lines(verdicts) -> list[str]:
    """In words: what prescreening settles, what it says to be a tie, and what is true."""
    settled = [each for each in verdicts if each.settled]
    ties = [each for each in verdicts if not each.settled]
    apart = [100 * abs(each.difference) for each in ties]
    lines = [
        f"Ours settles {len(settled)} of {len(verdicts)} sets, {sum(each.right for each in settled)} of them right;"
        f" {len(ties)} are ties, in {sum(each.right for each in ties)} of which the first is the better one.",
        f"The test's difference lies in the 95% interval of the lead in {sum(each.covered for each in verdicts)} of"
        f" {len(verdicts)}, {sum(each.covered for each in ties)} of {len(ties)} ties.",
    ]
    if ties:
        lines.append(
            f"In ties the models are {statistics.mean(apart):.1f} points apart on test texts on average, at most"
            f" {max(apart):.1f}."
        )
    return lines


def constant_lines(rows: list[dict]) -> list[str]:
    """Which numbers are the same whatever the layer."""
    found = []
    for number in numbers():
        count = sum(highest(column(row, *number)).all() for row in rows)
        if count:
            found.append(f"{number[0]} {number[1]} is the same in all layers in {count} of {len(rows)} rows.")
    return found
