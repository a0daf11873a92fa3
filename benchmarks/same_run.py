"""NTPSCallback beside stable-pretraining's OnlineProbe and RankMe in one Lightning run: what each says and costs.

SmolLM2-135M's first 12 blocks (--blocks 30 for all) with adapters in the top four learn the sections of BBC news from
480 windows of 24 tokens, twice, and are validated on 1,200 windows of other texts after each epoch. All read the
top layer after the final norm, averaged over tokens; RankMe its states of the last 480 training windows, of which it
says no accuracy. What is true is read at that same state of the model on 3,000 windows of texts that nobody saw: for
OnlineProbe its own probe; for NTPSCallback one with the ridges that it chose, fitted on the validation windows.

OnlineProbe learns from the training batches as the model changes, here three at once: with its default optimizer, and
AdamW at two rates. It runs inside the module's forward, so that module must be a stable_pretraining.Module: forward
takes batch and stage and returns a dictionary of embedding, label and loss, batches are plain dictionaries,
optimization is manual, with one backward pass for the sum of all losses (gradient accumulation and clipping are that
module's), and the learning rate follows a cosine unless told otherwise. NTPSCallback would take any module. Where that
package is installed, callbacks of its own join every Trainer; they count for the run itself.

Seconds are the processor's, in hooks of the callbacks and what NTPSCallback hooks into the model, and for OnlineProbe
in its part of forward and its optimizer's steps, not of the backward pass; their share is of what the run itself took
in that epoch. The first epoch has the baseline, which makes the validation's model calls again. Memory is what is
held, by size (of NTPSCallback the sums, and those of the baseline), and beside it what solving, or RankMe's singular
values, took at the peak, as measured. Lines are those that make the callback, here.

stable-pretraining does not import beside a CPU build of torch 2.13.0; `python -m benchmarks.peers --help` says how to
make an environment of its own. Five to ten minutes a draw; resumable: build/same_run.jsonl.

python -m benchmarks.same_run
"""

import argparse
import inspect
import logging
import warnings

import lightning.pytorch as pl
import numpy
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader
from transformers import DataCollatorWithPadding

from benchmarks.agreement import tested
from benchmarks.helpers import spt
from benchmarks.helpers.clock import Clock
from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.progress import doing
from benchmarks.helpers.store import Store
from benchmarks.helpers.timing import table
from benchmarks.helpers.windows import pooled, smollm2, smollm2_tokenizer, split
from benchmarks.peers import accuracy_cells
from ntps_lightning import NTPSCallback
from ntps_lightning.memory import state_bytes
from ntps_lightning.monitor.batch import MonitoredBatch

TRAIN, VALIDATION, TEST = 480, 1200, 3000
ADAPTED, EPOCHS, BATCH = 4, 2, 16
PROBES = {
    "OnlineProbe, LARS": None,
    "OnlineProbe, AdamW 1e-3": spt.ADAMW,
    "OnlineProbe, AdamW 1e-2": {**spt.ADAMW, "lr": 1e-2},
}
OURS, RANK, REST, TRUTH = "NTPSCallback", "RankMe", "the run itself", "truth"


def forward(self, batch, stage):
    mask = batch["attention_mask"]
    states = self.backbone(input_ids=batch["input_ids"], attention_mask=mask).last_hidden_state
    found = {"embedding": pooled(states, mask), "label": batch["labels"]}
    if stage == "fit":
        found["loss"] = cross_entropy(self.head(found["embedding"]), batch["labels"])
    return found


def new_module(blocks, num_classes):
    model = smollm2(blocks).train()
    top = "|".join(map(str, range(blocks - ADAPTED, blocks)))
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=rf".*\.({top})\..*(q|k|v)_proj")
    head = torch.nn.Linear(model.config.hidden_size, num_classes)
    optim = {"optimizer": {"type": "AdamW", "lr": 1e-3}}
    return spt.load().Module(forward=forward, optim=optim, backbone=get_peft_model(model, lora), head=head)


def ours():
    return NTPSCallback(groups="article")


class Truth(pl.Callback):
    """After each validation what everyone said of it, what is true, and the seconds that it took."""

    def __init__(self, clock, ntps, test, num_classes):
        self.clock = clock
        self.ntps = ntps
        self.test = test
        self.num_classes = num_classes
        self.found = []
        clock.watch(TRUTH, self, ["on_validation_batch_end", "on_validation_end"])

    def on_train_start(self, trainer, module):
        for name, optimizer in zip(PROBES, module.optimizers()[1:], strict=True):
            self.clock.watch(name, optimizer, ["step"])

    def on_validation_start(self, trainer, module):
        self.seen = []

    def on_validation_batch_end(self, trainer, module, outputs, batch, *_):
        self.seen.append((outputs["embedding"], batch["labels"], batch["article"]))

    def on_validation_end(self, trainer, module):
        doing(f"epoch {trainer.current_epoch + 1}: what is true, on {len(self.test.dataset)} windows")
        outputs = [module(batch, "test") | batch for batch in self.test]
        test = [torch.cat([part[key] for part in outputs]) for key in ("embedding", "labels", "article")]
        validation = [torch.cat(column) for column in zip(*self.seen, strict=True)]
        held_out = self.ntps.details[max(self.ntps.details)].held_out
        _, (true, _) = tested(validation, test, self.num_classes, held_out.ridges)
        said = {OURS: (held_out.probe_accuracy.value, true, held_out.probe_accuracy.se)}
        for name in PROBES:
            right = torch.cat([part[f"{name}_preds"] for part in outputs]).argmax(1) == test[1]
            said[name] = (float(trainer.callback_metrics[f"eval/{name}_accuracy"]), float(right.double().mean()), None)
        rank = float(trainer.callback_metrics["rankme"])
        self.found.append({"said": said, "rank": rank, "seconds": self.clock.stop()})


def watch(clock):
    """Time hooks of the callbacks, and what ours hooks into the model; returns peaks of memory, of our last hook."""
    peaks = []
    queue = spt.load().callbacks.queue.OnlineQueue
    for party, owner in ((OURS, NTPSCallback), (RANK, spt.load().callbacks.RankMe), (RANK, queue)):
        clock.watch(party, owner, [name for name in vars(owner) if name.startswith("on_") or name == "setup"])
    clock.watch(OURS, MonitoredBatch, ["_accept", "_receive", "_complete"])
    end = NTPSCallback.on_validation_epoch_end
    NTPSCallback.on_validation_epoch_end = lambda *args: peaks.append(peak_bytes(lambda: end(*args)))
    return peaks


def measure(clock, peaks, seed, blocks):
    """What a run of its own draw of texts says and costs."""
    parts, num_classes = split("bbc", (TRAIN, VALIDATION, TEST), seed)
    torch.manual_seed(seed)
    collate = DataCollatorWithPadding(smollm2_tokenizer())
    loaders = [
        DataLoader(part, size, shuffle=part is parts[0], collate_fn=lambda rows: dict(collate(rows)))
        for part, size in zip(parts, (BATCH, BATCH, 50), strict=True)
    ]
    module = new_module(blocks, num_classes)
    width = module.head.in_features
    clock.watch(REST, module, ["forward"])
    ntps = ours()
    rank = spt.rank_me(TRAIN, width)
    probes = []
    for name, optimizer in PROBES.items():
        probes.append(spt.online_probe(module, num_classes, width, name, optimizer))
        clock.watch(name, module, ["forward"])
    truth = Truth(clock, ntps, loaders[2], num_classes)
    doing(f"draw {seed}: a run of {EPOCHS} epochs")
    clock.stop()
    spt.fit(module, [ntps, rank, *probes, truth], EPOCHS, *loaders[:2])
    queue = module.callbacks_modules["ordered_queue_embedding"].out
    probe = sum(4 * p.nbytes for p in probes[0].module.parameters())  # with gradients and two moments
    held = {
        OURS: (2 * state_bytes(1, width, num_classes, kept=ntps.kept), max(peaks)),  # one for the baseline
        RANK: (queue.nbytes, peak_bytes(lambda: torch.linalg.svdvals(queue))),
        **dict.fromkeys(PROBES, (probe, None)),
    }
    return {"before": ntps.history[0]["ntps/probe_accuracy"], "epochs": truth.found, "held": held}


def rows_of(found):
    """A line for each callback and epoch; seconds are medians over draws."""
    lines = {OURS: ours, **dict.fromkeys(PROBES, spt.online_probe), RANK: spt.rank_me}
    for epoch in range(EPOCHS):
        parts = [run["epochs"][epoch] for run in found]
        for name, function in lines.items():
            seconds = numpy.array([part["seconds"][name] for part in parts])
            share = seconds / [part["seconds"][REST] for part in parts]
            held, peak = found[-1]["held"][name]
            memory = f"{held / 2**20:.1f}" + ("" if peak is None else f" + {peak / 2**20:.0f}")
            time = f"{numpy.median(seconds):.2f} ({100 * numpy.median(share):.1f}%)"
            count = len(inspect.getsource(function).splitlines()) - 1
            ranks = "rank " + " ".join(f"{part['rank']:.0f}" for part in parts)
            said = zip(*(part["said"][name] for part in parts), strict=True) if name != RANK else None
            cells = accuracy_cells(*said) if said else [ranks, "", "", "", ""]
            yield [f"{name}, epoch {epoch + 1}", count, time, memory, *cells]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--blocks", type=int, default=12)
    args = parser.parse_args()
    if not spt.INSTALLED:
        print("Nothing is measured: stable-pretraining is not installed (python -m benchmarks.peers --help says how)")
        return
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    clock = Clock(REST, TRUTH)
    peaks = watch(clock)
    store = Store("same_run")
    keys = [(seed, args.blocks, TRAIN, VALIDATION, TEST) for seed in range(args.draws)]
    found = [store.get(key, lambda key=key: measure(clock, peaks, *key[:2])) for key in keys]
    columns = ["callback", "lines", "CPU s", "MiB", "said, %", "true, %", "off, points", "mean |off|", "se said"]
    table(f"One run of SmolLM2-135M, {args.blocks} blocks", columns, rows_of(found))
    before = " ".join(f"{100 * run['before']:.1f}" for run in found)
    print(f"Of the model before its first step NTPSCallback said {before}.")


if __name__ == "__main__":
    main()
