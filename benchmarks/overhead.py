"""What NTPSCallback costs a validation epoch: the same epoch with and without it, in turn, in one run.

python -m benchmarks.overhead            # SmolLM2-135M, BBC news; with a GPU also the shapes of Llama-3-8B
"""

import argparse
import logging
import statistics
import tempfile
import time
import warnings

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.helpers.modules import llama, smollm2
from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import goal, machine, ratios, spread, table
from ntps_lightning import NTPSCallback

CONFIGURATIONS = {"without": None, "layers=-1": -1, 'layers="all"': "all"}


def epoch_seconds(module, loader, layers, precision="highest", **options):
    callbacks = [] if layers is None else [NTPSCallback(layers=layers, precision=precision)]
    with tempfile.TemporaryDirectory() as folder:
        trainer = pl.Trainer(
            callbacks=callbacks,
            logger=TensorBoardLogger(folder),
            enable_progress_bar=False,
            enable_model_summary=False,
            devices=1,
            **options,
        )
        start = time.perf_counter()
        trainer.validate(module, loader, verbose=False)
        return time.perf_counter() - start


def measure(what, module, loader, repeats, limits, precision="highest"):
    seconds = {name: [] for name in CONFIGURATIONS}
    doing(f"{what}: warming up")
    epoch_seconds(module, loader, "all", precision, limit_val_batches=1)
    for i in range(repeats):
        for name, layers in CONFIGURATIONS.items():
            doing(f"{what}: {name}, round {i + 1} of {repeats}")
            seconds[name].append(epoch_seconds(module, loader, layers, precision))
    for name, values in seconds.items():
        found = ratios(values, seconds["without"])
        judged = goal(statistics.median(found), limits[name]) if name in limits else ("", "")
        yield [f"{what}, {name}", spread(values), spread(found, 3), *judged]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--window", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    doing("loading SmolLM2-135M and BBC news")
    module, loader = smollm2(args.samples, args.window, args.batch_size)
    shape = f"{args.samples} windows of {args.window} tokens"
    rows = list(
        measure(f"SmolLM2-135M, {shape}", module, loader, args.repeats, {"layers=-1": 1.02, 'layers="all"': 1.15})
    )
    if torch.cuda.is_available():
        del module
        for precision in ("highest", "high"):
            module, loader = llama(samples=256, length=512, batch_size=8)
            limits = {"layers=-1": 1.02, 'layers="all"': 1.25}
            rows += measure(
                f'Llama-3-8B shapes, precision="{precision}"', module, loader, args.repeats, limits, precision
            )
    table(
        f"3. Overhead on a validation epoch [{machine()}]", ["epoch", "s: median (min-max)", "ratio", "goal", ""], rows
    )


if __name__ == "__main__":
    main()
