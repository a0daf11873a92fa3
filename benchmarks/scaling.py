"""The cost model of docs/SCALING.md: what a layer takes, for 1B to 405B parameters and 1 to 512 ranks.

python -m benchmarks.scaling
"""

import argparse
import math
import statistics

import torch

from benchmarks.helpers.synthetic import hidden_states
from benchmarks.helpers.timing import in_turn, machine, table
from ntps_lightning.functional.accumulate import accumulate_, batch_moments
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.score import score_details
from ntps_lightning.memory import scratch_bytes, state_bytes

# Name, parameters, hidden size, layers: the published configurations of Llama 3.
MODELS = (
    ("Llama-3.2-1B", 1.24e9, 2048, 16),
    ("Llama-3-8B", 8.03e9, 4096, 32),
    ("Llama-3-70B", 70.6e9, 8192, 80),
    ("Llama-3.1-405B", 405e9, 16384, 126),
)
RANKS = (1, 8, 64, 512)
ADDING = 10 / 3  # d² flops a token: C1, and six of nine blocks of C0
ONE_K = 4.0  # d³ flops, float64: factorisations and triangular solves
WHOLE_CURVE = 25.0  # the same, with full decompositions on top


def per_layer(rates):
    for name, parameters, d, layers in MODELS:
        adding = ADDING * d**2
        forward = 2 * parameters / layers
        yield [
            f"{name}, d={d}",
            f"{adding / 1e6:.0f}",
            f"{adding / forward:.0%}",
            f"{adding / forward / layers:.1%}",
            f"{adding / rates.adding / 1e3:.0f}",
            f"{state_bytes(1, d, 0) / 2**30:.2f}",
            f"{state_bytes(layers, d, 0) / 2**30:.1f}",
            f"{scratch_bytes(d) / 2**30:.2f}",
            f"{ONE_K * d**3 / rates.solving / 1e9:.0f}",
            f"{WHOLE_CURVE * d**3 / rates.solving / 1e9:.0f}",
        ]


def over_ranks(rates):
    for name, _, d, layers in MODELS:
        for ranks in RANKS:
            moved = 2 * (ranks - 1) / ranks * state_bytes(1, d, 0)
            turns = math.ceil(layers / ranks)
            solving = turns * ONE_K * d**3 / rates.solving / 1e9
            network = layers * moved / rates.network / 1e9
            yield [f"{name}, {ranks} ranks", f"{moved / 2**30:.2f}", f"{network:.0f}", turns, f"{solving:.0f}"]


def measured():
    """The same counts over the seconds that they take here."""
    for d, tokens in ((576, 4096), (2048, 4096)):
        states, labels = hidden_states(tokens // 64, 64, d)
        moments = Moments.zeros(d, 5)
        full = batch_moments(*hidden_states(max(256, d // 8), 48, d), num_classes=5)
        runs = {
            "adding": lambda m=moments, s=states, e=labels: accumulate_(m, s, e),
            "one k": lambda m=full: score_details(m, whole_curve=False),
            "whole curve": lambda m=full: score_details(m),
        }
        flops = {"adding": ADDING * d**2 * tokens, "one k": ONE_K * d**3, "whole curve": WHOLE_CURVE * d**3}
        for name, values in in_turn(f"d={d}", runs, 3).items():
            seconds = statistics.median(values)
            what = f"{tokens} tokens, float32" if name == "adding" else "float64"
            yield [
                f"d={d}, {name}",
                what,
                f"{flops[name] / 1e9:.0f}",
                f"{seconds:.3f}",
                f"{flops[name] / seconds / 1e9:.0f}",
            ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adding", type=float, default=140, help="Gflop/s of adding a batch, float32")
    parser.add_argument("--solving", type=float, default=30, help="Gflop/s of solving, float64")
    parser.add_argument("--network", type=float, default=10, help="GB/s between ranks")
    rates = parser.parse_args()
    columns = ["model", "Mflop a token", "of a layer's forward", "one layer, of all", "s a million tokens"]
    columns += ["states GiB", "all layers GiB", "scratch GiB", "one k s", "curve s"]
    table("A layer", columns, per_layer(rates))
    columns = ["model", "GiB moved a rank and layer", "all layers, s", "layers to solve a rank", "one k of each, s"]
    table("All layers over ranks", columns, over_ranks(rates))
    columns = ["here", "", "Gflop of the model", "s", "Gflop/s"]
    table(f"Measured points [{machine()}]", columns, measured())


if __name__ == "__main__":
    torch.manual_seed(0)
    main()
