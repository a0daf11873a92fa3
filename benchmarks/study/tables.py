"""The tables of STUDY.md, in Markdown."""


def table(header: list[str], rows: list[list]) -> str:
    """A Markdown table; floats with three decimals."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in r) + " |" for r in lines)


def with_interval(found: dict) -> str:
    """Mean and its interval over data sets."""
    return f"{found['mean']:.2f} [{found['low']:.2f}, {found['high']:.2f}]" if found else "-"


def verdict(found: dict) -> str:
    """Yes where the interval lies above zero, no where it lies below, else unclear."""
    if not found:
        return "-"
    return "yes" if found["low"] > 0 else "no" if found["high"] < 0 else "unclear"


def accuracy(found: dict) -> str:
    """Accuracy per run."""
    rows = [[name, *values.values()] for name, values in found.items()]
    return table(["run", *next(iter(found.values()))], rows)


def choice(ranked: dict, named: dict) -> str:
    """The named candidates and the best of every family, best first."""
    seen, rows = set(), []
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


def claims(found: dict) -> str:
    """Every claim, one row per number."""
    rows = [
        [claim, name, with_interval(value), verdict(value)]
        for claim, numbers in found.items()
        for name, value in numbers.items()
    ]
    return table(["rank correlation", "number", "figure", "above zero?"], rows)


def rise(found: dict, name: str) -> str:
    """Before and after of one number in every run."""
    return table(
        ["run", "before", "after", "null before", "null after"],
        [[run, *values[name].values()] for run, values in found.items()],
    )


def stopping(found: dict) -> str:
    """Early stopping per monitor."""
    return table(
        ["monitor", "test accuracy", "minus validation loss's", "epochs"],
        [
            [name, *(f"{v['mean']:.3f} [{v['low']:.3f}, {v['high']:.3f}]" for v in values.values())]
            for name, values in found.items()
        ],
    )
