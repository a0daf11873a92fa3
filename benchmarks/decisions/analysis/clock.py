"""Decision 3: what is beyond the clock."""

import numpy

from benchmarks.decisions.analysis.candidates import ALL, series, truth
from benchmarks.decisions.analysis.intervals import mean_over_sets


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


def explained(runs: dict[str, list[dict]], name: str, what: str, relative=cells) -> dict[str, list[float]]:
    """By set, the share of the truth's variance that a candidate explains with the slope of the other sets."""
    x = {data: relative(of_set, lambda run: series(run, name)) for data, of_set in runs.items()}
    y = {data: relative(of_set, lambda run: truth(run, what)) for data, of_set in runs.items()}
    x = {data: values / (values.std() or 1) for data, values in x.items()}
    if relative is additive:
        steps = [numpy.mean([values.mean(0) for values in each.values()], 0) for each in (x, y)]
        x, y = (
            {data: values - mean for data, values in each.items()} for each, mean in zip((x, y), steps, strict=True)
        )
    found = {}
    for data in runs:
        others = [other for other in runs if other != data]
        moment = sum((x[other] * y[other]).sum() for other in others)
        square = sum((x[other] ** 2).sum() for other in others)
        left = y[data] - (moment / square if square else 0) * x[data]
        found[data] = [float(1 - (left**2).sum() / (y[data] ** 2).sum())]
    return found


def decide(runs: dict[str, list[dict]]) -> dict[str, dict]:
    """Per candidate the share of test accuracy and of the test R² of a probe that is explained beyond the clock."""
    return {
        name: {
            "test accuracy": mean_over_sets(explained(runs, name, "accuracy")),
            "test R² of the probe": mean_over_sets(explained(runs, name, "r2")),
            "test accuracy, set and step additive": mean_over_sets(explained(runs, name, "accuracy", additive)),
        }
        for name in ALL
        if name != "step"
    }
