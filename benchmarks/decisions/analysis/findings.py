"""Everything that is reported, from the rows."""

from dataclasses import replace
from functools import partial

from benchmarks.decisions.analysis import alarm, clock, course, labels, layer, order, samples, stop
from benchmarks.decisions.analysis.candidates import by_set
from benchmarks.decisions.analysis.intervals import Interval
from benchmarks.decisions.analysis.verdicts import verdicts
from benchmarks.decisions.settings import EXPLORATORY, MODELS

HIDDEN_SIZE = 576  # of SmolLM2, whose runs are read at some n/d
# Whether the running maximum of the alarm counts the baseline (0) or starts after training began (1).
ALARM_FROM = 0


def findings(bases: list[dict], runs: list[dict], many: list[dict]) -> dict:
    """Everything that is reported, by chapter; chapters without rows are left out."""
    found: dict = {}
    clean = by_set(runs)
    if len(clean) > 1:
        found |= {
            "check": course.check(runs),
            "changes": course.changes(runs),
            "stop": _decide(clean, stop.decide),
            "stop, wrong labels alone": _decide(clean, partial(stop.decide, noises=(0.2, 0.4))),
            "alarm": _decide(clean, partial(alarm.decide, first=ALARM_FROM)),
            "alarm, the other maximum": _decide(clean, partial(alarm.decide, first=1 - ALARM_FROM)),
            "clock": _decide(clean, clock.decide),
            "clock, by set": clock.by_set(clean),
        }
    of_model = {model: [base for base in bases if base["base"]["model"] == model] for model in MODELS}
    of_model = {model: rows for model, rows in of_model.items() if rows}
    found |= {f"layer, {model}": layer.decide(rows) for model, rows in of_model.items()}
    found |= {f"labels, {model}": labels.decide(rows) for model, rows in of_model.items()}
    found |= {
        f"order, {model}, {depth} layer": order.decide(rows, model, depth)
        for model, rows in of_model.items()
        for depth in order.LAYERS
    }
    if many:
        found["samples"] = samples.decide(many, HIDDEN_SIZE)
    return {"verdicts": verdicts(found)} | found


def _decide(runs: dict[str, list[dict]], decide) -> dict[str, dict]:
    """A decision; what exploratory sets say of it is by them alone, whatever others have rows."""
    found = decide(runs)
    alone = decide({data: of_set for data, of_set in runs.items() if data in EXPLORATORY})
    return {
        name: {
            column: replace(value, exploratory=alone[name][column].exploratory)
            if isinstance(value, Interval) and name in alone
            else value
            for column, value in row.items()
        }
        for name, row in found.items()
    }
