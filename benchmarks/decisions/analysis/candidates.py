"""Candidate numbers, as they are read out of a run: higher is better in all of them."""

from collections import defaultdict

import numpy

from benchmarks.decisions.measures import HELD_OUT

IN_SAMPLE = ("score", "lift", "captured_in_sample")
OURS = HELD_OUT + IN_SAMPLE
OTHERS = ("val_accuracy", "val_loss", "train_loss", "step", "rankme")
ALL = OURS + OTHERS
NAMES = {
    "val_accuracy": "validation accuracy",
    "val_loss": "validation loss (minus)",
    "train_loss": "training loss (minus)",
}
NAMES |= {"rankme": "RankMe", "step": "the step"}


def shown(name: str) -> str:
    """As tables call it."""
    return NAMES.get(name, f"`{name}`")


def series(run: dict, name: str, labelling: str = "true") -> numpy.ndarray:
    """A candidate at every evaluation; a number that is missing stays at its last value, NaN before there is one."""
    found = []
    for stage in run["stages"]:
        value = stage[name] if name in ("val_accuracy", "val_loss", "train_loss", "step") else stage[labelling][name]
        value = value[0] if isinstance(value, list) else value
        missing = found[-1] if found else numpy.nan
        found.append(missing if value is None else -value if name.endswith("loss") else value)
    return numpy.array(found, dtype=float)


def truth(run: dict, what: str = "accuracy") -> numpy.ndarray:
    """Test accuracy of the finetuned head, or ``"r2"`` of the probe on test windows, at every evaluation."""
    if what == "accuracy":
        return numpy.array([stage["test_accuracy"] for stage in run["stages"]])
    return numpy.array([stage["test_probe_true"][what] for stage in run["stages"]])


def drops(run: dict, name: str, first: int) -> numpy.ndarray:
    """How far each evaluation lies below the highest one from ``first`` on, in standard errors of the difference; for
    numbers without one, as a share of the highest. NaN at ``first`` and before.
    """
    values = series(run, name)
    errors = run["paired_errors"].get(name)
    found = numpy.full(len(values), numpy.nan)
    for now in range(first + 1, len(values)):
        before = values[first:now]
        if numpy.isnan(before).all():
            continue
        best = first + int(numpy.nanargmax(before))
        scale = errors[now][best] if errors else abs(values[best])
        found[now] = (values[best] - values[now]) / scale if scale else 0.0
    return found


def by_set(rows, *, shuffled: bool = False) -> dict[str, list[dict]]:
    """The runs of each set, those with shuffled labels or all others."""
    found = defaultdict(list)
    for row in rows:
        if row["run"]["shuffled"] == shuffled:
            found[row["run"]["data"]].append(row)
    return dict(found)
