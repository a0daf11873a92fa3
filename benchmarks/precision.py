"""What float32 products cost in precision: SmolLM2-135M on BBC news, after a prompt that all samples share.

Every number is the largest relative difference to the same states in float64, over k up to 5% of d.

python -m benchmarks.precision
"""

import argparse
import warnings

import torch
from transformers import AutoModel, AutoTokenizer

from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import machine, table
from examples import offline
from ntps_lightning import capture_representations
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.targets import read_labels

LAYERS = (0, 15, 30)
CURVES = ("curve", "captured_in_sample_curve", "null_curve", "captured_null_curve")
PROMPT = "You are a careful assistant. Decide in which section of a newspaper the following passage was printed. "


def hidden_states(samples, shared, window=24):
    """States of the layers, labels and mask of ``samples`` windows of news after ``shared`` tokens of a prompt."""
    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModel.from_pretrained(path).eval()
    texts, sections = offline.bbc_news()
    classes = sorted(set(sections))
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(0))[:samples].tolist()
    prompt = tokenizer(PROMPT * 20)["input_ids"][:shared]
    rows = [prompt + tokenizer(texts[i])["input_ids"][: 6 + i % (window - 6)] for i in order]
    length = max(map(len, rows))
    mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in rows])
    ids = torch.tensor([row + [0] * (length - len(row)) for row in rows])
    parts = []
    for i, part in enumerate(torch.arange(samples).split(32)):
        if i % 5 == 0:
            doing(f"{shared} shared tokens: hidden states of samples {32 * i} to {samples}")
        with torch.no_grad(), capture_representations(model, LAYERS) as representations:
            model(input_ids=ids[part], attention_mask=mask[part])
        parts.append([representations[layer] for layer in LAYERS])
    states = [torch.cat(layer) for layer in zip(*parts, strict=True)]
    return states, torch.tensor([classes.index(sections[i]) for i in order]), mask


def details(states, labels, mask, batch_size):
    moments = Moments.zeros(states.shape[2], 5)
    for part in torch.arange(len(states)).split(batch_size):
        accumulate_(moments, states[part], read_labels(labels[part]), mask[part])
    return score_details(moments)


def measure(samples, shared):
    layers, labels, mask = hidden_states(samples, shared)
    for layer, states in zip(LAYERS, layers, strict=True):
        for dtype in (torch.float32, torch.bfloat16):
            doing(f"{shared} shared tokens, layer {layer}, {dtype}: scores")
            given = states.to(dtype)
            exact = details(given.double(), labels, mask, 64)
            upto = round(0.05 * states.shape[2])
            for batch_size in (8, samples):
                found = details(given, labels, mask, batch_size)
                pairs = [(getattr(found, name)[:upto], getattr(exact, name)[:upto]) for name in CURVES]
                worst = [f"{float(((a - b) / b).abs().max()):.0e}" for a, b in pairs]
                at_k = f"{abs(found.score / exact.score - 1):.0e}"
                yield [f"{shared} shared tokens, layer {layer}", str(dtype)[6:], batch_size, at_k, *worst]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=600)
    parser.add_argument("--shared", type=int, nargs="+", default=[0, 1, 30, 300])
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = [row for shared in args.shared for row in measure(args.samples, shared)]
    columns = ["states", "dtype", "batch", "score at k", "score", "captured", "null", "captured's null"]
    table(f"Float32 products against float64, {args.samples} samples [{machine()}]", columns, rows)


if __name__ == "__main__":
    main()
