"""What the number is claimed to say, asked of it and of what needs no autoregressive subspace."""

from functools import partial

import numpy

from benchmarks.study.analysis.candidate import SHARES, Candidate, spearman, tracking
from benchmarks.study.analysis.runs import REPORT, gain, interval, usual
from benchmarks.study.measures.sweep import KS

BESIDE = ["principal components", "in-sample R² of the probe", "H-score", "RankMe", "validation loss (minus)"]


def baselines(k: str) -> dict:
    """Numbers that need no autoregressive subspace, higher is better."""
    return {
        "probe accuracy (held out)": lambda s: s["probe_accuracy"],
        "in-sample R² of the probe": lambda s: s["in_sample_r2"],
        "H-score": lambda s: s["h_score"],
        "RankMe": lambda s: s["rankme"],
        "validation loss (minus)": lambda s: -s["val_loss"] if "val_loss" in s else None,
        "principal components": principal(k),
    }


def principal(k: str):
    """What the leading k principal components carry of the same linear probe: the line to beat for captured."""
    return lambda stage: stage["principal"][KS.index(k)] * SHARES


def reader(candidate: Candidate):
    """The candidate as a function of an evaluation or layer."""
    return lambda stage: candidate.of(stage["sweep"])


def claims(rows: list[dict], named: dict[str, Candidate]) -> dict:
    """Every claim with its figure, for every candidate and every baseline."""
    readers = {name: reader(c) for name, c in named.items()} | baselines(next(iter(named.values())).k)
    return {
        claim: {name: measure(read) for name, read in readers.items()} for claim, measure in questions(rows).items()
    }


def questions(rows: list[dict]) -> dict:
    """What is asked of a number: claims within a run on the reporting half, across data sets on all of them."""
    reporting = usual(rows, REPORT)
    asked = {
        "over training, with the probe's held-out R²": lambda read: interval(reporting, lambda r: tracking(r, read)),
        "over training, with test accuracy": lambda read: interval(
            reporting, lambda r: tracking({"stages": r["stages"][1:]}, read, "test_accuracy")
        ),
        "over layers, with probe accuracy": lambda read: interval(reporting, lambda r: _layers(r, read)),
    }
    asked["over runs, change with change of the probe's held-out R²"] = lambda read: across_data(
        usual(rows), partial(change, read), partial(change, _probe_r2)
    )
    for model in dict.fromkeys(r["job"]["model"] for r in usual(rows)):
        runs = [r for r in usual(rows) if r["job"]["model"] == model]
        for what, target in TARGETS.items():
            asked[f"over data sets before training, with {what}, {model}"] = partial(_across, runs, target)
    return asked


def _probe_before(run: dict) -> float:
    return run["stages"][0]["probe_accuracy"]


def change(read, run: dict) -> float:
    return read(run["stages"][-1]) - read(run["stages"][0])


def _probe_r2(stage: dict) -> float:
    return stage["probe_r2"]


# What a number from before training may say of a data set.
TARGETS = {
    "probe accuracy": _probe_before,
    "LoRA's gain in accuracy": gain,
    "the rise of held-out R²": partial(change, _probe_r2),
}


def _across(runs, target, read) -> dict:
    return across_data(runs, lambda run: read(run["stages"][0]), target)


def _layers(run: dict, read) -> float | None:
    layers = [layer for name, layer in run["layers"].items() if name != "pre"]
    if None in map(read, layers):
        return None
    return spearman([read(layer) for layer in layers], [layer["probe_accuracy"] for layer in layers])


def across_data(runs: list[dict], read, target) -> dict:
    """Rank correlation over runs, with a bootstrap interval over data sets."""
    data = list(dict.fromkeys(r["job"]["data"] for r in runs))
    pairs = {d: [(read(r), target(r)) for r in runs if r["job"]["data"] == d] for d in data}
    draws = numpy.random.default_rng(0).choice(data, (500, len(data)))
    found = [spearman(*zip(*(pair for d in draw for pair in pairs[d]), strict=True)) for draw in (data, *draws)]
    low, high = map(float, numpy.quantile(found[1:], (0.025, 0.975)))
    return {"mean": found[0], "low": low, "high": high, "data_sets": len(data)}


def rises(rows: list[dict], named: dict[str, Candidate]) -> dict:
    """Does a number rise under LoRA, and more than its null, over all data sets?"""
    asked = {
        "share of runs where it rises": lambda c: lambda run: float(change(reader(c), run) > 0),
        "mean rise": lambda c: lambda run: change(reader(c), run),
        "mean rise minus its null's": lambda c: (
            lambda run: change(reader(c), run) - c.null(run["stages"][-1]["sweep"]) + c.null(run["stages"][0]["sweep"])
        ),
    }
    return {
        claim: {name: interval(usual(rows), measure(c)) for name, c in named.items()}
        for claim, measure in asked.items()
    }
