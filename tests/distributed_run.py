"""Launched by `test_distributed.py` with OUT PROCESSES SAMPLES: trains, and notes each rank's values."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from models import LoraModule, loader, make_trainer

from ntps_lightning import NTPSCallback


class Notes(Callback):
    def __init__(self, out: Path) -> None:
        self.out, self.epochs = out, []

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("ntps")})

    def on_fit_end(self, trainer, pl_module):
        note = {"epochs": self.epochs, "history": trainer.callbacks[0].history, "stopped": trainer.current_epoch}
        (self.out / f"rank{trainer.global_rank}.json").write_text(json.dumps(note))


def main() -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    out, processes, samples = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    strategy = {"strategy": "ddp", "devices": processes} if processes > 1 else {}
    callbacks = [NTPSCallback(layers=[1, -1]), EarlyStopping("ntps", mode="max", patience=1), Notes(out)]
    trainer = make_trainer(out, callbacks=callbacks, **strategy)
    # Nothing is learned, so that one process and two see the same model.
    trainer.fit(LoraModule(learning_rate=0.0), loader(), loader(samples, seed=1, batch_size=8))


if __name__ == "__main__":
    main()
