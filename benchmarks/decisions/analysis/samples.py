"""Decision 7: how many samples the score needs."""

import numpy

from benchmarks.study.analysis.candidate import spearman

CLEAR = 3.0
FOLLOWS = 0.5
ENOUGH = 4  # sets that rise and clear
BESIDE = ("captured_in_sample", "captured_r2")  # of which no verdict is asked


def at_cut(run: dict, cut: str) -> dict[str, float]:
    """What the score of so many samples says over a run, and how others of as many follow."""
    read = [stage["cuts"][cut] for stage in run["stages"]]
    whole, errors = zip(*(stage["cuts"]["all"]["probe_r2"] for stage in run["stages"]), strict=True)
    scores = [each["score"] for each in read]
    mean, deviation = read[-1]["drawn"]
    beside = {name: spearman([_value(each[name]) for each in read], whole) for name in BESIDE}
    return beside | {
        "rank correlation": spearman(scores, whole),
        "r2 before": whole[0],
        "r2 best": max(whole),
        "r2 last": whole[-1],
        "r2 error": max(errors),
        "rise": scores[-1] - scores[0],
        "distance before": (scores[0] - read[0]["drawn"][0]) / read[0]["drawn"][1],
        "distance after": (scores[-1] - mean) / deviation,
    }


def _value(number: float | list[float]) -> float:
    """Without its standard error."""
    return number[0] if isinstance(number, list) else number


def decide(runs: list[dict], hidden_size: int) -> dict[str, dict]:
    """By n/d and set."""
    found: dict = {}
    for run in runs:
        for cut in run["stages"][0]["cuts"]:
            ratio = f"{run['scale']['val'] / hidden_size:.1f}" if cut == "all" else cut
            found.setdefault(ratio, {})[run["run"]["data"]] = at_cut(run, cut)
    return dict(sorted(found.items(), key=lambda item: float(item[0])))


def holds(by_set: dict) -> dict[str, float | int | bool]:
    """Whether the score of so many samples says something."""
    correlation = mean(by_set, "rank correlation")
    rise = sum(each["rise"] > 0 for each in by_set.values())
    clear = sum(each["distance after"] >= CLEAR for each in by_set.values())
    both = sum(each["rise"] > 0 and each["distance after"] >= CLEAR for each in by_set.values())
    counted = {"rise": rise, "clear": clear, "both": both, "sets": len(by_set)}
    return {"rank correlation": correlation, "passes": correlation > FOLLOWS and both >= ENOUGH} | counted


def mean(by_set: dict, what: str) -> float:
    """Over sets."""
    return float(numpy.mean([each[what] for each in by_set.values()]))


def enough(found: dict[str, dict]) -> str | None:
    """The smallest n/d from which on all pass."""
    smallest = None
    for ratio, by_set in reversed(found.items()):
        if not holds(by_set)["passes"]:
            break
        smallest = ratio
    return smallest
