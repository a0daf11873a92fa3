"""Decision 5: how many labels are enough."""

import numpy

from benchmarks.decisions.analysis.intervals import mean_over_sets


def predictions(bases: list[dict]):
    """Every prediction: model, set, layer, number of labels, what of, value and error; truth and its error."""
    for base in bases:
        for layer, counts in base["label_counts"].items():
            for draw in counts["predicted"]:
                for what in ("r2", "accuracy"):
                    for size, (value, error) in draw[what].items():
                        true, of_test = counts["truth"][size][what]
                        yield {
                            **base["base"],
                            "layer": "last" if layer == "-1" else "middle",
                            "size": int(size),
                            "what": what,
                            "predicted": value,
                            "error": error,
                            "true": true,
                            "test_error": of_test,
                        }


def decide(bases: list[dict]) -> dict[str, dict]:
    """Per number of labels: bias, absolute and stated error, and how often 95% intervals hold the truth."""
    found: dict = {}
    for each in predictions(bases):
        off = each["predicted"] - each["true"]
        error = numpy.hypot(each["error"], each["test_error"])
        row = found.setdefault(f"{each['what']}, {each['size']} labels", {})
        values = {"bias": off, "absolute error": abs(off), "stated error": error, "held": abs(off) <= 1.96 * error}
        for name, value in values.items():
            row.setdefault(name, {}).setdefault(each["data"], []).append(float(value))
    return {row: {name: mean_over_sets(values) for name, values in columns.items()} for row, columns in found.items()}
