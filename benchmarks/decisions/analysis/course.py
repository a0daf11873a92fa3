"""What the runs did: the manipulation check, what LoRA added, and what each labelling's numbers did."""

from benchmarks.decisions.analysis.candidates import by_set, series, truth
from benchmarks.decisions.analysis.intervals import mean_over_sets
from benchmarks.decisions.settings import NOISES

CHANGES = ("probe_r2", "captured_r2", "principal_r2", "lift", "captured_in_sample", "rankme")


def groups(rows) -> dict[str, dict[str, list[dict]]]:
    """Runs by what their training labels are, and set."""
    rows = list(rows)
    clean = by_set(rows)
    found = {
        f"{noise:.0%} wrong": {
            data: [run for run in runs if run["run"]["noise"] == noise] for data, runs in clean.items()
        }
        for noise in NOISES
    }
    return found | {"shuffled": by_set(rows, shuffled=True)}


def check(rows) -> dict[str, dict]:
    """Per group: best and last test accuracy, their difference, and that of a probe fitted on the same labels."""
    return {
        name: {
            "best": _mean(runs, lambda run: truth(run)[1:].max()),
            "last": _mean(runs, lambda run: truth(run)[-1]),
            "best minus last": _mean(runs, lambda run: truth(run)[1:].max() - truth(run)[-1]),
            "probe on the same labels": _mean(runs, lambda run: run["stages"][0]["training_probe"]["accuracy"]),
        }
        for name, runs in groups(rows).items()
    }


def changes(rows) -> dict[str, dict]:
    """Per group: from before training to the end, by number and labelling; RankMe relative."""
    found = {}
    for name, runs in groups(rows).items():
        for labelling in ("true", "length"):
            found[f"{name}, {labelling} labels"] = {
                number: _mean(
                    runs, lambda run, n=number, of=labelling: _change(series(run, n, of), relative=n == "rankme")
                )
                for number in CHANGES
            }
    return found


def _change(values, *, relative: bool) -> float:
    return values[-1] / values[0] - 1 if relative else values[-1] - values[0]


def _mean(runs: dict, value):
    return mean_over_sets({data: [float(value(run)) for run in of_set] for data, of_set in runs.items()})
