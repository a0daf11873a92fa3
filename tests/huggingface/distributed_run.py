"""Launched by `test_distributed.py`, by torchrun or alone, with OUT SAMPLES KIND: trains, notes what each rank saw."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import IterableDataset

from ntps_lightning.huggingface import watch
from tests.huggingface.runs import BESIDE, TRAINED, make_trainer, ours, rows_of
from tests.support.models import samples


class Stream(IterableDataset):
    """Has no length, so that one process reads and hands out."""

    def __init__(self, rows):
        self.rows = rows

    def __iter__(self):
        return iter(self.rows)


class Poison:
    """Makes the states of one rank's last evaluation no numbers."""

    def __init__(self, model: nn.Module, rank: int) -> None:
        self.calls = 0
        if rank == 1:
            model.get_input_embeddings().register_forward_hook(self.hook)

    def hook(self, module, arguments, output):
        return output if module.training else output * float("nan")


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, count, kind = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    evaluated = samples(count, seed=1)
    # Nothing is learned, so that one process and two see the same model.
    trainer = make_trainer(
        out,
        train=TRAINED,
        evaluated=Stream(evaluated) if kind == "stream" else evaluated,
        per_device_eval_batch_size=8,
        learning_rate=0.0,
        weight_decay=0.0,
        save_strategy="epoch",
        ddp_find_unused_parameters=False,
    )
    callback = watch(trainer, data=BESIDE[:count] if kind == "side set" else None)
    rank = trainer.args.process_index
    if kind == "fault":
        Poison(trainer.model, rank)
    trainer.train()
    note = {"history": callback.history, "log": [ours(row) for row in rows_of(trainer, "eval_ntps_info/valid")]}
    (out / f"rank{rank}.json").write_text(json.dumps(note))


if __name__ == "__main__":
    main()
