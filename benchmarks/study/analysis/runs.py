"""The rows of finished runs, and means over data sets."""

import json
from collections import defaultdict
from pathlib import Path

from benchmarks.study.analysis.candidate import bootstrap
from benchmarks.study.settings import Job
from benchmarks.study.texts.readers import READERS

# Settings were chosen on the first five data sets; what is reported is measured on the other five.
CHOOSE = list(READERS)[:5]
REPORT = list(READERS)[5:]


def read(file: Path) -> list[dict]:
    """The rows of a results file, none where there is no file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def usual(rows: list[dict], data=READERS) -> list[dict]:
    """The runs with real labels, pretrained weights and the usual protocol, seed 0."""
    return [r for r in rows if "layers" in r and r["job"]["data"] in data]


def usual_protocol(run: dict) -> bool:
    """Whether nothing but the seed differs from the main protocol."""
    return set(Job(**run["job"]).unusual) <= {"seed"}


def is_control(run: dict) -> bool:
    """Meaningless labels or random weights, and one real run to set beside them."""
    job = Job(**run["job"])
    return job == Job("smollm2", "bbc") or job.labelling != "real" or job.weights != "pretrained"


def run_name(run: dict) -> str:
    """The run as the tables name it."""
    job = Job(**run["job"])
    return ", ".join([job.model, job.data, *(f"{k} {v}" for k, v in job.unusual.items())])


def best_test_accuracy(run: dict) -> float:
    """Test accuracy at the evaluation with the lowest validation loss, but for the first: its head is untrained."""
    return min(run["stages"][1:], key=lambda s: s["val_loss"])["test_accuracy"]


def gain(run: dict) -> float:
    """What LoRA adds, in test accuracy, to a linear probe of the base model that is fitted on the same texts."""
    return best_test_accuracy(run) - run["stages"][0]["training_probe"]


def by_data(runs: list[dict], value) -> dict[str, list[float]]:
    """``value(run)`` grouped by data set, missing ones dropped."""
    groups = defaultdict(list)
    for run in runs:
        found = value(run)
        if found is not None:
            groups[run["job"]["data"]].append(found)
    return dict(groups)


def interval(runs: list[dict], value) -> dict:
    """Mean over data sets with a 95% bootstrap interval over data sets."""
    groups = by_data(runs, value)
    if not groups:
        return {}
    mean, low, high = bootstrap(groups)
    return {"mean": mean, "low": low, "high": high, "data_sets": len(groups)}
