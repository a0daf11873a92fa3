"""stable-pretraining's OnlineProbe and RankMe on states that are given, in one Lightning run."""

import sys
from contextlib import redirect_stdout
from importlib import import_module

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy


def run(train, validation, num_classes, epochs, batch_size=64):
    """Accuracy on the validation states at the end, and the probe.

    Args:
        train: ``(n, d)`` states, ``(n,)`` labels.
        validation: likewise.
        num_classes: C.
        epochs: over the training states.
        batch_size: of both.

    """
    spt = import_module("stable_pretraining")
    import_module("loguru").logger.remove()

    def forward(self, batch, stage):
        return {"embedding": batch["state"], "label": batch["label"]}

    torch.manual_seed(0)
    d = train[0].shape[1]
    module = spt.Module(forward=forward, optim=None)
    probe = spt.callbacks.OnlineProbe(
        module,
        name="probe",
        input="embedding",
        target="label",
        probe=torch.nn.Linear(d, num_classes),
        loss=torch.nn.CrossEntropyLoss(),
        optimizer={"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-2},
        metrics={"accuracy": MulticlassAccuracy(num_classes, average="micro")},
    )
    rank = spt.callbacks.RankMe(name="rankme", target="embedding", queue_length=len(train[0]), target_shape=d)
    silent = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    callbacks = [probe, rank]
    options = {"max_epochs": epochs, "num_sanity_val_steps": 0, "accelerator": "cpu", "logger": False, **silent}
    trainer = pl.Trainer(callbacks=callbacks, **options)
    loaders = [
        DataLoader([{"state": x, "label": y} for x, y in zip(*part, strict=True)], batch_size, shuffle=part is train)
        for part in (train, validation)
    ]
    with redirect_stdout(sys.stderr):
        trainer.fit(module, *loaders)
    return float(trainer.callback_metrics["eval/probe_accuracy"]), probe.module.eval()
