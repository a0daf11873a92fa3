"""Decision 6: whether order adds anything."""

from benchmarks.decisions.analysis.intervals import Interval, mean_over_sets

LAYERS = ("last", "middle")


def decide(bases: list[dict], model: str, layer: str) -> dict[int, dict[str, Interval]]:
    """By number of directions, held-out R² of the autoregressive ones minus that of others."""
    found: dict = {}
    for base in bases:
        if base["base"]["model"] != model:
            continue
        (key,) = (key for key in base["order"] if (key == "-1") == (layer == "last"))
        curves = base["order"][key]
        for size, (value, _) in curves["captured_r2"].items():
            for other in ("bag_r2", "principal_r2"):
                if size in curves[other]:
                    row = found.setdefault(int(size), {}).setdefault(f"minus {other}", {})
                    row.setdefault(base["base"]["data"], []).append(value - curves[other][size][0])
            row = found.setdefault(int(size), {}).setdefault("captured_r2", {})
            row.setdefault(base["base"]["data"], []).append(value)
    sets = {base["base"]["data"] for base in bases if base["base"]["model"] == model}
    everywhere = {
        size: row for size, row in sorted(found.items()) if all(len(each) == len(sets) for each in row.values())
    }
    return {size: {name: mean_over_sets(values) for name, values in row.items()} for size, row in everywhere.items()}
