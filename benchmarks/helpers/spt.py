"""stable-pretraining's OnlineProbe and RankMe, in a Lightning run of their own or of someone else."""

import sys
from contextlib import redirect_stdout
from importlib import import_module
from importlib.util import find_spec

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy

INSTALLED = find_spec("stable_pretraining") is not None
ADAMW = {"type": "AdamW", "lr": 1e-3, "weight_decay": 1e-2}


def load():
    """The package, which says nothing, and leaves it to Python to print what goes wrong."""
    package = import_module("stable_pretraining")
    import_module("loguru").logger.remove()
    sys.excepthook = sys.__excepthook__
    return package


def online_probe(module, num_classes, width, name="probe", optimizer=ADAMW):
    return load().callbacks.OnlineProbe(
        module,
        name=name,
        input="embedding",
        target="label",
        probe=torch.nn.Linear(width, num_classes),
        loss=torch.nn.CrossEntropyLoss(),
        optimizer=optimizer,
        metrics={"accuracy": MulticlassAccuracy(num_classes, average="micro")},
    )


def rank_me(length, width):
    return load().callbacks.RankMe(name="rankme", target="embedding", queue_length=length, target_shape=width)


def fit(module, callbacks, epochs, *loaders):
    """The trainer that has trained ``module`` on the CPU, whose own lines go to stderr."""
    silent = {f"enable_{what}": False for what in ("checkpointing", "progress_bar", "model_summary")}
    options = {"max_epochs": epochs, "num_sanity_val_steps": 0, "accelerator": "cpu", "logger": False, **silent}
    trainer = pl.Trainer(callbacks=callbacks, **options)
    with redirect_stdout(sys.stderr):
        trainer.fit(module, *loaders)
    return trainer


def run(train, validation, num_classes, epochs, batch_size=64):
    """Accuracy on the validation states at the end, and the probe.

    Args:
        train: ``(n, d)`` states, ``(n,)`` labels.
        validation: likewise.
        num_classes: C.
        epochs: over the training states.
        batch_size: of both.

    """

    def forward(self, batch, stage):
        return {"embedding": batch["state"], "label": batch["label"]}

    torch.manual_seed(0)
    width = train[0].shape[1]
    module = load().Module(forward=forward, optim=None)
    probe = online_probe(module, num_classes, width)
    loaders = [
        DataLoader([{"state": x, "label": y} for x, y in zip(*part, strict=True)], batch_size, shuffle=part is train)
        for part in (train, validation)
    ]
    trainer = fit(module, [probe, rank_me(len(train[0]), width)], epochs, *loaders)
    return float(trainer.callback_metrics["eval/probe_accuracy"]), probe.module.eval()
