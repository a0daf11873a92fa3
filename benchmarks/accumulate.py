"""What accumulating a batch costs, against the bare matrix products (N T) x d by (N T) x 2d of the same dtype.

Everything is included: checks, masks, prefix sums, casts, pooling, and the sums in float64. The bare product is timed
both ways round, and the faster one counts.

python -m benchmarks.accumulate
"""

import argparse
import statistics

import torch

from benchmarks.helpers.progress import doing
from benchmarks.helpers.synthetic import hidden_states, padding_mask
from benchmarks.helpers.timing import goal, in_turn, machine, ratios, spread, table
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments


def measure(d, size, length, device, repeats):
    doing(f"d={d}: making hidden states")
    states, labels = hidden_states(size, length, d, device=device)
    mask = padding_mask(size, length, device)
    rows = torch.randn(size * length, 2 * d, device=device)
    moments = Moments.zeros(d, 5, device)
    half = states.bfloat16()
    prompted = states.clone()
    prompted[:, : 3 * length // 4] = states[0, : 3 * length // 4]
    seconds = in_turn(
        f"d={d}, {size}x{length} tokens",
        {
            "bare": lambda: rows[:, :d].T @ rows,
            "bare, the other way": lambda: rows.T @ rows[:, :d],
            "float32": lambda: accumulate_(moments, states, labels),
            "float32, a quarter padding": lambda: accumulate_(moments, states, labels, mask),
            "float32, three quarters a shared prompt": lambda: accumulate_(moments, prompted, labels),
            "bfloat16": lambda: accumulate_(moments, half, labels),
            "float64 (more than asked for)": lambda: accumulate_(moments, states.double(), labels),
        },
        repeats,
    )
    bare = min(("bare", "bare, the other way"), key=lambda name: statistics.median(seconds[name]))
    for name, values in seconds.items():
        found = ratios(values, seconds[bare])
        limit = 2.0 if "prompt" in name else 1.0
        judged = ("", "") if "bare" in name or "64 " in name else goal(statistics.median(found), limit)
        yield [f"d={d}, {name}", f"{size}x{length}", spread([1e3 * v for v in values], 1), spread(found), *judged]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=9)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for d, size, length, repeats in (
        (576, 128, 128, args.repeats),
        (2048, 64, 128, args.repeats // 2 + 1),
        (4096, 32, 128, args.repeats // 3 + 1),
    ):
        rows += measure(d, size, length, device, repeats)
    columns = ["hidden states", "N x T", "ms: median (min-max)", "ratio to bare (min-max)", "goal", ""]
    table(f"1. Accumulation against the bare products [{machine()}]", columns, rows)


if __name__ == "__main__":
    main()
