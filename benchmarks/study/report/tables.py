"""The tables of docs/FIRST_STUDY.md and of results/tables.md, in Markdown."""


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(map(_cell, r)) + " |" for r in [header, ["---"] * len(header), *rows])


def _cell(value) -> str:
    if isinstance(value, float):
        return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 1 else f"{value:.2f}"
    return str(value)


def with_interval(found: dict, digits: int = 2) -> str:
    """Mean and its 95% interval over data sets."""
    if not found:
        return "-"
    return "{:.{n}f} [{:.{n}f}, {:.{n}f}]".format(found["mean"], found["low"], found["high"], n=digits)


def verdict(found: dict, negative: bool = False) -> str:
    """Whether the claim holds: yes where the interval lies on the side that it says, no on the other, else unclear."""
    if not found:
        return "-"
    low, high = (-found["high"], -found["low"]) if negative else (found["low"], found["high"])
    return "yes" if low > 0 else "no" if high < 0 else "unclear"


def runs(found: dict) -> str:
    """Accuracies and scores of every run, before and after."""
    return table(["run", *next(iter(found.values()))], [[name, *values.values()] for name, values in found.items()])


def choice(ranked: dict, named: dict) -> str:
    """The named candidates and the best of every family, best first."""
    seen = set()
    rows = []
    for rank, (name, entry) in enumerate(ranked.items(), 1):
        family = entry["candidate"].family
        if family not in seen or entry["candidate"] in named.values():
            roles = ", ".join(n for n, c in named.items() if c == entry["candidate"])
            rows.append([rank, name, roles, with_interval(entry["choose"]), with_interval(entry["report"])])
        seen.add(family)
    return table(["rank", "candidate", "role", "choosing half", "reporting half"], rows)


def axes(found: dict) -> str:
    """One axis at a time."""
    rows = [
        [axis, name, with_interval(halves["choose"]), with_interval(halves["report"])]
        for axis, candidates in found.items()
        for name, halves in candidates.items()
        if halves["choose"]
    ]
    return table(["axis", "candidate", "choosing half", "reporting half"], rows)


def claims(found: dict, title: str = "rank correlation", digits: int = 2) -> str:
    """A row per question, a column per number."""
    names = list(next(iter(found.values())))
    return table(
        [title, *names],
        [[claim, *(with_interval(numbers[name], digits) for name in names)] for claim, numbers in found.items()],
    )


def answers(found: dict, asked: list[str], beside: list[str]) -> str:
    """A row per question with an answer for each number that is ``asked``; the paper expects gains to fall with it."""
    rows = []
    for claim, numbers in found.items():
        row = [claim]
        for name in asked:
            row += [
                with_interval(numbers[name]),
                f"**{verdict(numbers[name], 'gain' in claim or 'the rise' in claim)}**",
            ]
        rows.append([*row, *(f"{numbers[name]['mean']:.2f}" if numbers[name] else "-" for name in beside)])
    return table(["rank correlation", *(cell for name in asked for cell in (name, "holds?")), *beside], rows)


def stopping(found: dict) -> str:
    """Early stopping per monitor."""
    return table(
        ["monitor", "test accuracy", "minus that of the validation loss", "epochs spent"],
        [
            [
                name,
                with_interval(v["test accuracy"], 3),
                with_interval(v["against validation loss"], 3),
                with_interval(v["epochs"]),
            ]
            for name, v in found.items()
        ],
    )


def fill(text: str, chapters: dict[str, str]) -> str:
    """``text`` with the table of each chapter between ``<!-- chapter -->`` and ``<!-- end -->``."""
    for title, content in chapters.items():
        head, mark, rest = text.partition(f"<!-- {title} -->")
        if mark:
            text = f"{head}{mark}\n\n{content}\n\n<!-- end -->{rest.partition('<!-- end -->')[2]}"
    return text
