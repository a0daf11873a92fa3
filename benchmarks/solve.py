"""What a score costs once the moments are there: one k by iteration, the whole curve by full decompositions, and what a
probe reads held out, by the number of rows that it was fitted on too.

python -m benchmarks.solve
"""

import argparse
import statistics

import torch

from benchmarks.helpers.progress import doing
from benchmarks.helpers.synthetic import hidden_states
from benchmarks.helpers.timing import goal, in_turn, machine, spread, table
from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.held_out import GRID
from ntps_lightning.functional.learning_curve import learning_curve
from ntps_lightning.functional.score import score_details

LIMITS = {"cpu": {"one k": 10.0, "whole curve": 60.0}, "cuda": {"one k": 1.0, "whole curve": 4.0}}


def measure(d, device, repeats):
    doing(f"d={d}: making hidden states, and their moments")
    states, labels = hidden_states(max(256, d // 8), 48, d, device=device)
    moments = batch_moments(states, labels, num_classes=5)
    metric = NextTokenPerceptionScore(d, 5).to(device)
    metric.update(*hidden_states(2048, 8, d, device=device))
    curve = learning_curve_of(metric)
    del states
    found = {}
    functions = {
        "one k": lambda: found.update(one=score_details(moments, whole_curve=False)),
        "whole curve": lambda: found.update(whole=score_details(moments)),
        "one k, and held out on 2,048 rows": lambda: metric.details(whole_curve=False),
        "learning curve of 2,048 rows": curve,
    }
    seconds = in_turn(f"d={d}", functions, repeats, warm_up=d < 4096)
    one = found["one"]
    whole = found["whole"]
    off = max(abs(getattr(one, name) - getattr(whole, name)) for name in ("score", "captured_in_sample", "null"))
    for name, values in seconds.items():
        limit = LIMITS[device].get(name)
        judged = goal(statistics.median(values), limit, unit=" s") if d == 4096 and limit else ("", "")
        error = (f"{one.subspace_error:.0e}", f"{off:.0e}") if name.startswith("one k") else ("0", "0")
        k = {"whole curve": d, "learning curve of 2,048 rows": ""}.get(name, one.k)
        yield [f"d={d}, {name}", k, spread(values), *error, *judged]


def learning_curve_of(metric):
    """What measures it alone, from the rows that a metric has kept."""
    rows, _ = metric._kept().rows(5)
    states, targets = rows.states - rows.states.mean(0), rows.targets - rows.targets.mean(0)
    variances = targets.square().sum(1)  # each row is a group
    return lambda: learning_curve(states, targets, rows, variances, grid=GRID, classes=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for d, repeats in ((576, 5 * args.repeats), (2048, args.repeats), (4096, args.repeats // 2 + 1)):
        rows += measure(d, device, repeats)
    columns = ["score", "k", "s: median (min-max)", "error estimate", "error", "goal", ""]
    table(f"4. Solve [{machine()}]", columns, rows)


if __name__ == "__main__":
    main()
