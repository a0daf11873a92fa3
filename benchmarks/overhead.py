"""What NTPSCallback costs a validation epoch: the same epoch with and without it, in turn, in one run.

python benchmarks/overhead.py            # SmolLM2-135M, BBC news
"""

import argparse
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding

from ntps_lightning import NTPSCallback

sys.path.append(str(Path(__file__).parents[1] / "examples"))
import offline
from finetune_lora import LoraClassifier, windows


def epoch_seconds(module, loader, callbacks):
    trainer = pl.Trainer(
        callbacks=callbacks, logger=False, enable_progress_bar=False, enable_model_summary=False, accelerator="auto"
    )
    start = time.perf_counter()
    trainer.validate(module, loader, verbose=False)
    return time.perf_counter() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=320)
    parser.add_argument("--window", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    texts, names = offline.bbc_news()
    labels = [sorted(set(names)).index(name) for name in names]
    generator = torch.Generator().manual_seed(0)
    data = windows(tokenizer, texts, labels, args.window, args.samples, generator)
    loader = DataLoader(data, batch_size=16, collate_fn=DataCollatorWithPadding(tokenizer))
    module = LoraClassifier(path, 5, adapted_layers=6, learning_rate=0.0)

    configurations = {
        "without": lambda: [],
        "layers=-1": lambda: [NTPSCallback()],
        "layers=[10, 20, 30]": lambda: [NTPSCallback(layers=[10, 20, 30])],
        'layers="all"': lambda: [NTPSCallback(layers="all")],
    }
    seconds = {name: [] for name in configurations}
    epoch_seconds(module, loader, [])  # warm up
    for _ in range(args.repeats):
        for name, callbacks in configurations.items():
            seconds[name].append(epoch_seconds(module, loader, callbacks()))
    base = statistics.median(seconds["without"])
    threads = torch.get_num_threads()
    print(f"{args.samples} samples of up to {args.window} tokens, {threads} threads, {args.repeats} repeats")
    print(f"{'callback':<22}{'median s':>10}{'min s':>10}{'max s':>10}{'ratio':>9}")
    for name, values in seconds.items():
        row = (statistics.median(values), min(values), max(values))
        print(f"{name:<22}" + "".join(f"{v:>10.3f}" for v in row) + f"{row[0] / base:>9.3f}")


if __name__ == "__main__":
    main()
