"""Decision 2: whether it is going wrong."""

import math

import numpy

from benchmarks.decisions.analysis.candidates import ALL, drops, truth
from benchmarks.decisions.analysis.intervals import over_sets

WORSE = 0.02
FALSE_ALARMS = 0.1
ROUNDING = 1e-6  # rows have five digits


def bad(run: dict) -> numpy.ndarray:
    """Whether test accuracy is .02 or more below its best so far, from the second one after the first step on."""
    accuracy = truth(run)
    best = numpy.maximum.accumulate(accuracy[1:])[:-1]
    return accuracy[2:] <= best - WORSE + ROUNDING


def threshold(runs: dict[str, list[dict]], data: str | None, name: str, first: int) -> float:
    """The smallest at which at most a tenth of the noise-free runs of all other sets raise a false alarm."""
    largest = []
    for other, of_set in runs.items():
        for run in of_set:
            if other != data and run["run"]["noise"] == 0:
                quiet = drops(run, name, first)[2:][~bad(run)]
                largest.append(numpy.nanmax(quiet, initial=0.0))
    return sorted(largest)[math.ceil((1 - FALSE_ALARMS) * len(largest)) - 1] if largest else numpy.nan


def counts(runs: dict[str, list[dict]], name: str, first: int) -> dict[str, numpy.ndarray]:
    """By set: evaluations that are bad and alarmed, bad, fine and silent, fine."""
    found = {}
    for data, of_set in runs.items():
        limit = threshold(runs, data, name, first)
        total = numpy.zeros(4)
        for run in of_set:
            wrong = bad(run)
            alarmed = drops(run, name, first)[2:] > limit
            total += [(wrong & alarmed).sum(), wrong.sum(), (~wrong & ~alarmed).sum(), (~wrong).sum()]
        found[data] = total
    return found


def decide(runs: dict[str, list[dict]], first: int) -> dict[str, dict]:
    """Per candidate balanced accuracy, the shares it is made of, and thresholds; ``first``: 0 counts the baseline."""
    found = {}
    for name in ALL:
        by_set = counts(runs, name, first)
        found[name] = {
            "balanced accuracy": over_sets(lambda names, by_set=by_set: balanced(by_set, names), by_set),
            "found": over_sets(lambda names, by_set=by_set: share(by_set, names, 0), by_set),
            "silent where fine": over_sets(lambda names, by_set=by_set: share(by_set, names, 2), by_set),
            "threshold of all sets": threshold(runs, None, name, first),
        }
    return found


def share(by_set: dict, names: list[str], at: int) -> float:
    """Of bad evaluations those that were found (0), or of fine ones those that were silent (2)."""
    total = sum(by_set[name] for name in names)
    return float(total[at] / total[at + 1]) if total[at + 1] else numpy.nan


def balanced(by_set: dict, names: list[str]) -> float:
    """Mean of both shares."""
    return (share(by_set, names, 0) + share(by_set, names, 2)) / 2
