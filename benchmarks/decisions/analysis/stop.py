"""Decision 1: where to stop."""

import numpy

from benchmarks.decisions.analysis.candidates import ALL, series, truth
from benchmarks.decisions.analysis.intervals import mean_over_sets

PATIENCE = 2


def stopped(values) -> int:
    """The best evaluation, from the first after training began until ``PATIENCE`` brought no improvement."""
    best = 1
    for now in range(2, len(values)):
        if not values[now] <= values[best]:  # also where nothing was known before
            best = now
        elif now - best >= PATIENCE:
            break
    return best


def best_fixed(runs: dict[str, list[dict]], data: str) -> int:
    """The evaluation with the highest mean test accuracy over the runs of all other sets."""
    others = [numpy.mean([truth(run) for run in runs[name]], 0) for name in runs if name != data]
    return 1 + int(numpy.argmax(numpy.mean(others, 0)[1:]))


def outcomes(runs: dict[str, list[dict]], noises=None) -> dict[str, dict[str, list[float]]]:
    """Test accuracy where each rule stops, by rule and set; a run at a time."""
    fixed = {data: best_fixed(runs, data) for data in runs} if len(runs) > 1 else {}
    found: dict = {}
    for data, of_set in runs.items():
        for run in of_set:
            if noises and run["run"]["noise"] not in noises:
                continue
            accuracy = truth(run)
            rules = {name: stopped(series(run, name)) for name in ALL}
            rules |= {
                "best fixed epoch": fixed.get(data, 1),
                "best of all (not a rule)": 1 + int(accuracy[1:].argmax()),
            }
            for name, at in rules.items():
                found.setdefault(name, {}).setdefault(data, []).append(accuracy[at])
    return found


def decide(runs: dict[str, list[dict]], noises=None) -> dict[str, dict]:
    """Per rule its test accuracy, and what it is minus that of validation accuracy and of the best fixed epoch."""
    found = outcomes(runs, noises)
    return {
        name: {
            "accuracy": mean_over_sets(reached),
            "minus validation accuracy": mean_over_sets(_minus(reached, found["val_accuracy"])),
            "minus best fixed epoch": mean_over_sets(_minus(reached, found["best fixed epoch"])),
        }
        for name, reached in found.items()
    }


def _minus(a: dict, b: dict) -> dict[str, list[float]]:
    return {data: list(numpy.subtract(a[data], b[data])) for data in a}
