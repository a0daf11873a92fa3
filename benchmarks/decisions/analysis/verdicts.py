"""Whether what was named before the runs passes, by the bars that STUDY.md fixed."""

from dataclasses import dataclass

import numpy

from benchmarks.decisions.analysis import order, samples
from benchmarks.decisions.analysis.intervals import Interval
from benchmarks.decisions.settings import MODELS

STOP = "principal_r2"
ALARM = "probe_accuracy"
CLOCK = "captured_r2"
LAYER = "probe_r2"

STOP_BAR = -0.015  # what the lower limit is above, against validation accuracy
ALARM_BAR = 0.65  # what balanced accuracy reaches
LABELS_BAR = 0.9  # what share of intervals hold


@dataclass(frozen=True)
class Verdict:
    """One bar of a decision.

    Args:
        decision: which.
        number: that was named.
        measure: what of it.
        found: its interval over the confirmatory sets, or what was counted.
        bar: what passes.
        passes: whether it does.

    """

    decision: str
    number: str
    measure: str
    found: Interval | str
    bar: str
    passes: bool


def verdicts(found: dict) -> list[Verdict]:
    """Of the chapters that have rows of confirmatory sets."""
    said: list[Verdict] = []
    if _told(found, "stop", STOP):
        said += [*_stop(found["stop"]), *_alarm(found["alarm"]), *_clock(found["clock"])]
    for model in MODELS:
        if _told(found, f"layer, {model}", LAYER):
            said += [*_layer(found[f"layer, {model}"], model), *_labels(found[f"labels, {model}"], model)]
            said += [_order(found, f"{model}, {depth} layer") for depth in order.LAYERS]
    return [*said, _samples(found["samples"])] if "samples" in found else said


def _told(found: dict, chapter: str, name: str) -> bool:
    return chapter in found and not any(numpy.isnan(each.value) for each in found[chapter][name].values())


def _stop(rows: dict) -> list[Verdict]:
    bars = (("minus validation accuracy", STOP_BAR), ("minus best fixed epoch", 0.0))
    return [_above("stop", STOP, f"test accuracy {side}", rows[STOP][side], bar) for side, bar in bars]


def _alarm(rows: dict) -> list[Verdict]:
    found = rows[ALARM]["balanced accuracy"]
    passes = found.value >= ALARM_BAR and found.low > 0.5
    return [Verdict("alarm", ALARM, "balanced accuracy", found, f"at least {_plain(ALARM_BAR)}, above .5", passes)]


def _clock(rows: dict) -> list[Verdict]:
    of = ("test accuracy", "test R² of the probe")
    return [_above("beyond the clock", CLOCK, f"share of {what}", rows[CLOCK][what], 0.0) for what in of]


def _layer(rows: dict, model: str) -> list[Verdict]:
    column = "test r2, minus the last layer"
    return [_above("layer", LAYER, f"{model}: {column}", rows[LAYER][column], 0.0)]


def _labels(rows: dict, model: str) -> list[Verdict]:
    said = []
    for what, each in rows.items():
        held = each["held"]
        measure = f"{model}: {what}, intervals that hold"
        bar = f"at least {_plain(LABELS_BAR)}"
        said.append(Verdict("labels", "learning curve", measure, held, bar, held.value >= LABELS_BAR))
    return said


def _order(found: dict, where: str) -> Verdict:
    rows = found[f"order, {where}"]
    others = ("minus bag_r2", "minus principal_r2")
    holds = [str(size) for size, row in rows.items() if all(row[other].low > 0 for other in others)]
    counted = f"at k = {', '.join(holds)}" if holds else f"at none of {len(rows)}"
    return Verdict("order", "captured_r2", f"{where}: above both others", counted, "at some k", bool(holds))


def _samples(rows: dict) -> Verdict:
    smallest = samples.enough(rows)
    counted = "at no n/d" if smallest is None else f"from n/d {smallest} on"
    measure = "follows, rises and clears its null"
    return Verdict("enough samples", "score", measure, counted, "at some n/d", bool(smallest))


def _above(decision: str, number: str, measure: str, found: Interval, bar: float) -> Verdict:
    return Verdict(decision, number, measure, found, f"above {_plain(bar)}", found.low > bar)


def _plain(bar: float) -> str:
    return f"{bar:g}".replace("0.", ".")
