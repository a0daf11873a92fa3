"""Launched by `test_lifecycle.py` with FOLDER and WHEN: trains, resumes if it can, may kill itself in the middle."""

from __future__ import annotations

import json
import os
import signal
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from ntps_lightning import NTPSCallback
from tests.support.models import SAFELY, LoraModule, loader, make_trainer


class Killed(LoraModule):
    when = ""

    def training_step(self, batch, batch_idx):
        self.die("training", batch_idx)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.die("validation", batch_idx)
        super().validation_step(batch, batch_idx)

    def die(self, where, batch_idx):
        if where == self.when and self.trainer.current_epoch == 2 and batch_idx == 2:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    folder, Killed.when = Path(sys.argv[1]), sys.argv[2]
    callback, checkpoint = NTPSCallback(layers="all"), ModelCheckpoint(folder, save_last=True)
    trainer = make_trainer(folder, callbacks=[callback, checkpoint], max_epochs=4, enable_checkpointing=True)
    last = folder / "last.ckpt"
    path = last if last.exists() else None
    trainer.fit(Killed(), loader(), loader(60, seed=1), ckpt_path=path, **SAFELY)
    baseline = {layer: details.curve.tolist() for layer, details in callback.baseline_details.items()}
    (folder / "note.json").write_text(json.dumps({"history": callback.history, "baseline": baseline}))


if __name__ == "__main__":
    main()
