"""Everything that is reported, from the rows."""

from benchmarks.decisions.analysis import alarm, clock, course, labels, layer, order, samples, stop
from benchmarks.decisions.analysis.candidates import by_set
from benchmarks.decisions.settings import MODELS

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
            "stop": stop.decide(clean),
            "stop, wrong labels alone": stop.decide(clean, noises=(0.2, 0.4)),
            "alarm": alarm.decide(clean, ALARM_FROM),
            "alarm, the other maximum": alarm.decide(clean, 1 - ALARM_FROM),
            "clock": clock.decide(clean),
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
    return found
