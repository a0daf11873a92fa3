"""Launched by `test_strategies.py` with OUT FAULT: two ranks under DDP, one of which fails; notes how each ends."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger

from ntps_lightning import NTPSCallback
from ntps_lightning.callback import report
from ntps_lightning.memory import MemoryEstimate
from ntps_lightning.watch import watch as under_test
from tests.callback.distributed_run import RANK
from tests.support.models import LoraModule, loader, make_trainer

ERROR = torch.OutOfMemoryError("out of memory")


class Refusing(DummyLogger):
    """Takes no baseline."""

    def log_metrics(self, metrics, step=None):
        if step == 0:
            raise OSError("no space left on device")


class Failing(Callback):
    """In the second validation after training began this rank does not find the model."""

    def __init__(self) -> None:
        self.validations = 0

    def on_validation_epoch_start(self, trainer, pl_module):
        self.validations += not trainer.sanity_checking
        self.patch = mock.patch.object(under_test, "find_backbone", side_effect=ERROR)
        if self.validations == 2 and RANK == 1:
            self.patch.start()

    def on_validation_epoch_end(self, trainer, pl_module):
        if self.validations == 2 and RANK == 1:
            self.patch.stop()


class Poisoned(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        bad = RANK == 1 and batch_idx == 0 and not self.trainer.sanity_checking
        handle = self.model.get_input_embeddings().register_forward_hook(
            lambda module, args, output: output * float("nan") if bad else output
        )
        super().validation_step(batch, batch_idx)
        handle.remove()


def labels(batch: Any) -> Any:
    return batch["none" if RANK == 1 else "labels"]


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, fault = Path(sys.argv[1]), sys.argv[2]
    options: dict[str, Any] = {
        "labels": {"labels": labels},
        "raise": {"on_error": "raise"},
        "class": {"on_error": "raise", "labels": lambda batch: batch["labels"] * 0},
    }.get(fault, {})
    callback = NTPSCallback(layers="all", **options)
    others = [Failing()] if fault == "late" else []
    trainer = make_trainer(
        out, callbacks=[*others, callback], strategy="ddp", devices=2, logger=Refusing() if fault == "late" else False
    )
    note: dict[str, Any] = {}
    patches = []
    if fault == "memory" and RANK == 1:
        patches.append(mock.patch.object(MemoryEstimate, "check", side_effect=ERROR))
    if fault == "late" and RANK == 0:
        patches.append(mock.patch.object(report, "print_line", side_effect=BrokenPipeError("nobody listens")))
    for patch in patches:
        patch.start()
    try:
        trainer.fit(Poisoned() if fault == "raise" else LoraModule(), loader(), loader(60, seed=1))
    except Exception as error:
        note = {"error": str(error)}
    note |= {"step": trainer.global_step, "history": callback.history, "sanity": trainer.sanity_checking}
    (out / f"rank{RANK}.json").write_text(json.dumps(note))
    torch.distributed.barrier()  # a process whose peer leaves first may be aborted at its end
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
