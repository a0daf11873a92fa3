"""Early stopping on a number: the accuracy that it leads to, and what it spends."""

import numpy

from benchmarks.study.analysis.candidate import Candidate
from benchmarks.study.analysis.claims import reader
from benchmarks.study.analysis.runs import interval, usual_protocol


def stop(run: dict, read, patience: int = 1) -> tuple[float, float]:
    """Early stopping on a number (higher is better) from the first evaluation on: test accuracy where it was best,
    and epochs spent until ``patience`` evaluations brought no improvement.
    """
    stages = run["stages"][1:]  # early stopping never sees the sanity check
    best = 0
    value = -numpy.inf
    waited = 0
    for at, stage in enumerate(stages):
        if read(stage) > value:
            best = at
            value = read(stage)
            waited = 0
        else:
            waited += 1
            if waited >= patience:
                break
    return stages[best]["test_accuracy"], stages[at]["epoch"]


def monitors(candidates: list[Candidate]) -> dict:
    """What can be stopped on, as functions of an evaluation, higher is better."""
    named = {str(c): reader(c) for c in candidates}
    return named | {
        "validation loss": lambda stage: -stage["val_loss"],
        "validation accuracy": lambda stage: stage["val_accuracy"],
        "in-sample R² of the probe": lambda stage: stage["in_sample_r2"],
        "H-score": lambda stage: stage["h_score"],
        "RankMe": lambda stage: stage["rankme"],
        "never (last epoch)": lambda stage: stage["epoch"],
    }


def stopping(rows: list[dict], candidates: list[Candidate], patience: int) -> dict:
    """Test accuracy and epochs of early stopping, per monitor, over all seeds of the usual protocol."""
    runs = [r for r in rows if usual_protocol(r)]
    return {name: _stopping(runs, read, patience) for name, read in monitors(candidates).items()}


def _stopping(runs: list[dict], read, patience: int) -> dict:
    def against_loss(run):
        return stop(run, read, patience)[0] - stop(run, lambda stage: -stage["val_loss"], patience)[0]

    return {
        "test accuracy": interval(runs, lambda run: stop(run, read, patience)[0]),
        "against validation loss": interval(runs, against_loss),
        "epochs": interval(runs, lambda run: stop(run, read, patience)[1]),
    }
