"""What a fixed prompt does to the score: SmolLM2-135M on BBC news, all tokens counted or the text's alone.

python -m benchmarks.prompts
"""

import argparse
import warnings

import torch

from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import machine, table
from benchmarks.precision import hidden_states
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.targets import read_labels


def details(states, labels, mask):
    moments = Moments.zeros(states.shape[2], 5)
    for part in torch.arange(len(states)).split(64):
        accumulate_(moments, states[part], read_labels(labels[part]), mask[part])
    return score_details(moments, whole_curve=False)


def measure(samples, shared):
    (*_, states), labels, mask = hidden_states(samples, shared)
    text = torch.arange(mask.shape[1]) >= shared
    for name, chosen in (("all", mask), ("the text's", mask * text)):
        if shared or name == "all":
            doing(f"{shared} tokens of a prompt: scores, {name}")
            found = details(states, labels, chosen)
            numbers = (found.score, found.null, found.captured_in_sample, found.captured_null, found.in_sample_r2)
            yield [f"{shared} tokens", name, found.k, *(f"{number:.3f}" for number in numbers)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=1200)
    parser.add_argument("--shared", type=int, nargs="+", default=[0, 30])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = [row for shared in args.shared for row in measure(args.samples, shared)]
    columns = [
        "prompt",
        "tokens that count",
        "k",
        "score",
        "null",
        "captured",
        "its null",
        "probe R² in-sample",
    ]
    table(f"The last layer, {args.samples} samples [{machine()}]", columns, rows)


if __name__ == "__main__":
    main()
