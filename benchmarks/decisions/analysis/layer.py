"""Decision 4: which layer carries it."""

import numpy

from benchmarks.decisions.analysis.intervals import mean_over_sets

CANDIDATES = (
    "probe_r2",
    "probe_accuracy",
    "captured_r2",
    "captured",
    "principal_r2",
    "score",
    "lift",
    "captured_in_sample",
    "in_sample_r2",
    "rankme",
)


def layer_values(base: dict, name: str) -> numpy.ndarray:
    """A candidate at every layer, the last one at the end."""
    values = [layer[name] for layer in ordered(base)]
    return numpy.array([value[0] if isinstance(value, list) else value for value in values], dtype=float)


def layer_truth(base: dict, what: str) -> numpy.ndarray:
    """R² or accuracy of the probe on test windows at every layer."""
    return numpy.array([layer["test"][what] for layer in ordered(base)])


def ordered(base: dict) -> list[dict]:
    """Layers from the embeddings to the state after the final norm."""
    numbers = sorted((int(layer) for layer in base["layers"]), key=lambda layer: (layer < 0, layer))
    return [base["layers"][str(layer)] for layer in numbers]


def picks(base: dict) -> dict[str, int]:
    """The layer that each candidate picks; the last one where it is known at none."""
    values = {name: layer_values(base, name) for name in CANDIDATES}
    known = {name: each for name, each in values.items() if not numpy.isnan(each).all()}
    return dict.fromkeys((*CANDIDATES, "the last layer"), -1) | {n: int(numpy.nanargmax(v)) for n, v in known.items()}


def decide(bases: list[dict]) -> dict[str, dict]:
    """Per candidate what its pick loses against the best layer, and gains over the last one."""
    found: dict = {}
    for base in bases:
        for what in ("r2", "accuracy"):
            true = layer_truth(base, what)
            for name, at in picks(base).items():
                sides = {"minus the best layer": true[at] - true.max(), "minus the last layer": true[at] - true[-1]}
                for side, value in sides.items():
                    values = found.setdefault(name, {}).setdefault(f"test {what}, {side}", {})
                    values.setdefault(base["base"]["data"], []).append(value)
    return {name: {side: mean_over_sets(values) for side, values in sides.items()} for name, sides in found.items()}
