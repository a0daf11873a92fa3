"""Peak memory beyond the states: of adding a batch, of solving, and of the callback as a whole, against what is stated.

python -m benchmarks.memory
"""

import argparse
import logging
import warnings

import lightning.pytorch as pl
import torch

from benchmarks.helpers.modules import llama
from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.progress import doing
from benchmarks.helpers.synthetic import hidden_states
from benchmarks.helpers.timing import goal, machine, table
from ntps_lightning import NextTokenPerceptionScore, NTPSCallback
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.score import score_details
from ntps_lightning.memory import scratch_bytes, state_bytes


def row(what, measured, stated):
    ratio = measured / stated
    return [what, f"{measured / 2**20:.0f}", f"{stated / 2**20:.0f}", f"{ratio:.2f}", *goal(round(ratio, 2), 1)]


def parts(d, device):
    doing(f"d={d}: peak memory of adding")
    states, labels = hidden_states(256, 64, d, device=device)
    moments = Moments.zeros(d, 5, device)
    adding = [peak_bytes(lambda n=n: accumulate_(moments, states[:n], labels[:n])) for n in (64, 128, 256)]
    for n, peak in zip((64, 128, 256), adding, strict=True):
        yield row(f"d={d}, adding {n}x64 tokens", peak, scratch_bytes(d))
    doing(f"d={d}: peak memory of one k and of the whole curve")
    yield row(f"d={d}, one k", peak_bytes(lambda: score_details(moments, whole_curve=False)), scratch_bytes(d))
    yield row(f"d={d}, whole curve", peak_bytes(lambda: score_details(moments)), scratch_bytes(d))
    doing(f"d={d}: peak memory of held-out numbers")
    metric = NextTokenPerceptionScore(d, 5).to(device)
    metric.update(*hidden_states(4096, 8, d, device=device))
    for name, whole in (("one k", False), ("curves", True)):
        peak = peak_bytes(lambda whole=whole: metric.details(whole_curve=whole))
        yield row(f"d={d}, {name}, held out on 2,048 rows", peak, scratch_bytes(d, 2048))


def validate(module, loader, callbacks):
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "devices": 1}
    pl.Trainer(callbacks=callbacks, **options).validate(module, loader, verbose=False)


def callback(d, layers, device):
    doing(f"d={d}: peak memory of validation epochs of {layers} layers, without and with the callback")
    sizes = {"hidden_size": d, "intermediate_size": 2 * d, "num_hidden_layers": layers, "vocab_size": 1000}
    module, loader = llama(samples=64, length=128, batch_size=16, **sizes)
    validate(module, loader, [NTPSCallback(layers="all")])  # warm up
    without = peak_bytes(lambda: validate(module, loader, []))
    with_it = peak_bytes(lambda: validate(module, loader, [NTPSCallback(layers="all")]))
    stated = state_bytes(layers + 1, d, 5, kept=2048) + scratch_bytes(d, 2048)
    yield row(f"d={d}, validation epoch, all {layers + 1} layers", with_it - without, stated)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = [*parts(576, device), *parts(2048, device), *callback(1024, 12, device)]
    columns = ["what", "peak extra MiB", "stated MiB", "ratio", "goal", ""]
    table(f"6. Memory beyond the states, and the callback's with them [{machine()}]", columns, rows)


if __name__ == "__main__":
    main()
