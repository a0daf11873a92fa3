"""Decision 3: what is beyond the clock."""

from functools import partial

import numpy

from benchmarks.decisions.analysis.candidates import ALL, series, shown, truth
from benchmarks.decisions.analysis.intervals import Interval, mean_over_sets, over_sets


def cells(of_set: list[dict], read) -> numpy.ndarray:
    """``(runs, evaluations)`` of a number, relative to the mean over runs at each step, from the second evaluation on;
    what is not known is 0.
    """
    values = numpy.ma.masked_invalid([read(run)[1:] for run in of_set])
    return (values - values.mean(0)).filled(0)


def additive(of_set: list[dict], read) -> numpy.ndarray:
    """The same relative to the mean of the set alone: steps are taken out over all sets together."""
    values = numpy.ma.masked_invalid([read(run)[1:] for run in of_set])
    return (values - values.mean()).filled(0)


def moments(runs: dict[str, list[dict]], name: str, what: str, relative=cells, unit=cells) -> dict[str, tuple]:
    """By set, the squares of what of the truth a candidate leaves with the slope of the other sets, and of all of it;
    a candidate's unit is its standard deviation among ``unit`` of the set.
    """
    read = partial(series, name=name)
    units = {data: unit(of_set, read).std() or 1 for data, of_set in runs.items()}
    x = {data: relative(of_set, read) / units[data] for data, of_set in runs.items()}
    y = {data: relative(of_set, lambda run: truth(run, what)) for data, of_set in runs.items()}
    found = {}
    for data in runs:
        others = [other for other in runs if other != data]
        mine_x, mine_y, other_x, other_y = x[data], y[data], [x[o] for o in others], [y[o] for o in others]
        if relative is additive:
            mine_x, other_x = _without_steps(mine_x, other_x)
            mine_y, other_y = _without_steps(mine_y, other_y)
        moment = sum((a * b).sum() for a, b in zip(other_x, other_y, strict=True))
        square = sum((a**2).sum() for a in other_x)
        left = mine_y - (moment / square if square else 0) * mine_x
        found[data] = float((left**2).sum()), float((mine_y**2).sum())
    return found


def _without_steps(mine, others: list) -> tuple:
    """Relative to the mean over the other sets at each step."""
    steps = numpy.mean([each.mean(0) for each in others], 0) if others else 0
    return mine - steps, [each - steps for each in others]


def explained(runs: dict[str, list[dict]], name: str, what: str, relative=cells, unit=cells) -> dict[str, list[float]]:
    """By set, the share of the truth's variance that a candidate explains with the slope of the other sets."""
    of_sets = moments(runs, name, what, relative, unit)
    return {data: [1 - left / whole if whole else numpy.nan] for data, (left, whole) in of_sets.items()}


def pooled(runs: dict[str, list[dict]], name: str, what: str) -> Interval:
    """The share in all sets together: one whose runs hardly differ counts for as little."""
    of_sets = moments(runs, name, what)
    return over_sets(lambda names: 1 - numpy.divide(*sum(numpy.array(of_sets[each]) for each in names)), of_sets)


def by_set(runs: dict[str, list[dict]], names=("captured_r2", "val_accuracy")) -> dict[str, dict[str, float]]:
    """How much runs of each set differ in test accuracy at a step, and the share of it that some explain."""
    shares = {name: explained(runs, name, "accuracy") for name in names}
    return {
        data: {"standard deviation": float(cells(of_set, lambda run: truth(run, "accuracy")).std())}
        | {shown(name): shares[name][data][0] for name in names}
        for data, of_set in runs.items()
    }


def decide(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """Per candidate the share of test accuracy and of the test R² of a probe that is explained beyond the clock."""
    return {
        name: {
            "test accuracy": mean_over_sets(explained(runs, name, "accuracy")),
            "test R² of the probe": mean_over_sets(explained(runs, name, "r2")),
            "test accuracy, all sets pooled": pooled(runs, name, "accuracy"),
            "test accuracy, in units of the whole set": mean_over_sets(
                explained(runs, name, "accuracy", unit=additive)
            ),
            "test accuracy, set and step additive": mean_over_sets(
                explained(runs, name, "accuracy", additive, unit=additive)
            ),
        }
        for name in ALL
        if name != "step"
    }
