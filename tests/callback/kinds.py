"""Runs as people have them: modules, data and settings, and whether each is the same bits with and without us."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.utilities import CombinedLoader
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSCallback
from tests.support.models import CLASSES, VOCAB, LoraModule, Padding, loader, make_trainer, samples, tiny_config


class GLUETransformer(pl.LightningModule):
    """As Lightning's documentation has it: what validation_step gathers, the sanity check's too, is never cleared."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.save_hyperparameters()
        torch.manual_seed(0)
        self.model = LlamaForSequenceClassification(tiny_config())
        self.metric = MulticlassAccuracy(CLASSES)
        self.validation_step_outputs: list[Any] = []

    def forward(self, **inputs):
        return self.model(**inputs)

    def training_step(self, batch, batch_idx):
        return self(**batch)[0]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        val_loss, logits = self(**batch)[:2]
        preds = torch.argmax(logits, dim=1)
        self.validation_step_outputs.append({"loss": val_loss, "preds": preds, "labels": batch["labels"]})
        return val_loss

    def on_validation_epoch_end(self):
        preds = torch.cat([x["preds"] for x in self.validation_step_outputs])
        labels = torch.cat([x["labels"] for x in self.validation_step_outputs])
        loss = torch.stack([x["loss"] for x in self.validation_step_outputs]).mean()
        self.log("val_loss", loss, prog_bar=True)
        self.log("accuracy", self.metric(preds, labels), prog_bar=True)

    def configure_optimizers(self):
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=self.hparams["learning_rate"])
        scheduler = torch.optim.lr_scheduler.LinearLR(optimizer)
        return [optimizer], [{"scheduler": scheduler, "interval": "step", "frequency": 1}]


class Noisy(LoraModule):
    """Adds noise to what is validated, from a generator of its own; so does a hook of it inside the model."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)
        self.model.get_input_embeddings().register_forward_hook(self.add_noise)

    def add_noise(self, module, args, output):
        return output + 0.1 * torch.randn(output.shape, generator=self.generator)


class Dropping(LoraModule):
    """Has dropout, and leaves the model in the mode that it has for training after each validation step."""

    def __init__(self) -> None:
        super().__init__()
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS", lora_dropout=0.5)
        self.model = get_peft_model(LlamaForSequenceClassification(tiny_config(attention_dropout=0.3)), lora)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model.eval()
        super().validation_step(batch, batch_idx)
        self.model.train()


class MonteCarlo(Dropping):
    """Validates with dropout."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model.train()
        LoraModule.validation_step(self, batch, batch_idx)
        self.model.eval()


class Drift(nn.Module):
    """A norm that goes on changing: buffers in place and anew, numbers and tensors, in training and in evaluation."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(16), persistent=False)
        self.calls, self.table, self.norms = 0, torch.zeros(16), list[float]()

    def forward(self, hidden_states):
        self.seen += 1
        self.calls += 1
        self.table[self.calls % 16] += 0.1
        self.mean: torch.Tensor = 0.9 * self.mean + 0.1 * hidden_states.detach().float().mean((0, 1))
        self.norms.append(float(hidden_states.detach().norm()))
        drifted = self.norm(hidden_states) * (1 + 0.01 * self.seen + 0.02 * self.calls + self.table) + self.mean
        return drifted.to(hidden_states.dtype)


class Drifting(LoraModule):
    def __init__(self) -> None:
        super().__init__()
        decoder = self.model.base_model.model.model
        decoder.norm = Drift(decoder.norm)

    def on_validation_epoch_end(self):
        self.log("norms", float(np.sum(self.model.base_model.model.model.norm.norms)))


class Rotary(LoraModule):
    """Training sees longer sequences than validation: its rotary embedding remembers the longest."""

    def __init__(self) -> None:
        super().__init__()
        rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
        config = tiny_config(max_position_embeddings=4, rope_parameters=rope)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
        self.model = get_peft_model(LlamaForSequenceClassification(config), lora)

    def training_step(self, batch, batch_idx):
        longer = {name: batch[name].repeat(1, 3) for name in ("input_ids", "attention_mask")}
        return super().training_step(batch | longer, batch_idx)


class OwnAutocast(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        with torch.autocast("cpu", torch.bfloat16):
            super().validation_step(batch, batch_idx)


class Counting(Padding):
    """A collator that goes on counting: every batch is another one."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __call__(self, rows):
        self.calls += 1
        batch = super().__call__(rows)
        return batch | {"input_ids": batch["input_ids"].add(self.calls).clamp(max=VOCAB - 1)}


class Lines(IterableDataset):
    """Reads on in an open file, from the beginning again where it ends."""

    def __init__(self) -> None:
        self.file = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.file.writelines(f"{json.dumps(row)}\n" for row in samples(60, seed=1))
        self.file.seek(0)

    def __iter__(self):
        for _ in range(50):
            line = self.file.readline()
            if not line:
                self.file.seek(0)
                line = self.file.readline()
            yield json.loads(line)


class Pairs(LoraModule):
    """Takes its batches out of a combined loader."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch["b"], batch_idx)
        super().validation_step(batch["a"], batch_idx)


def combined() -> CombinedLoader:
    return CombinedLoader({"a": loader(60, seed=1), "b": loader(40, seed=2)}, "min_size")


def collated(collate: Any) -> DataLoader:
    return DataLoader(samples(60, seed=1), batch_size=16, collate_fn=collate)


def stream() -> DataLoader:
    return DataLoader(Lines(), batch_size=16, collate_fn=Padding())


def plain() -> DataLoader:
    return loader(60, seed=1)


def shuffled() -> DataLoader:
    return loader(60, seed=1, shuffle=True, generator=torch.Generator().manual_seed(5))


class Watch(Callback):
    """Every loss, weight and random number of a run, and what its validations say."""

    def __init__(self) -> None:
        self.trained: list[Tensor] = []
        self.validated: list[Tensor] = []

    def note(self) -> None:
        self.trained += [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64))]
        self.trained += [torch.tensor(random.getstate()[1])]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.trained.append(outputs["loss"].detach().clone())
        self.note()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        modes = [module.training for module in pl_module.modules()]
        self.trained += [torch.tensor(modes), torch.tensor(trainer.sanity_checking)]
        self.note()

    def on_validation_end(self, trainer, pl_module):
        metrics = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith("ntps")}
        self.validated += [torch.as_tensor(metrics[name]).clone() for name in sorted(metrics)]

    def on_train_end(self, trainer, pl_module):
        kept = (*pl_module.state_dict().values(), *pl_module.parameters(), *pl_module.buffers())
        self.trained += [whole(tensor) for tensor in kept]


@dataclass(frozen=True)
class Kind:
    """A run.

    Args:
        module: makes the module.
        data: makes what it is validated on.
        labels: where a batch has them.
        options: of the Trainer.
        steady: whether every validation of one model gives the same.

    """

    module: Callable[[], pl.LightningModule]
    data: Callable[[], Any] = plain
    labels: Any = "labels"
    options: dict[str, Any] = field(default_factory=dict)
    steady: bool = True

    def callback(self) -> NTPSCallback:
        return NTPSCallback(layers="all", labels=self.labels)

    def fit(self, tmp_path: Any, callbacks: list[Callback], module: pl.LightningModule, **options: Any) -> Watch:
        """Everything of the run that must not depend on who else is there."""
        watch, data = Watch(), self.data()
        pl.seed_everything(1, verbose=False)
        trainer = make_trainer(tmp_path, callbacks=[*callbacks, watch], max_epochs=2, **self.options | options)
        trainer.fit(module, loader(shuffle=True), data)
        watch.trained.append(torch.rand(3))
        if isinstance(getattr(data, "dataset", None), Lines):
            watch.trained.append(torch.tensor(data.dataset.file.tell()))
            data.dataset.file.close()
        return watch

    def validate(self, tmp_path: Any, module: pl.LightningModule, **options: Any) -> dict[str, float]:
        """What ``trainer.validate`` scores before any step."""
        callback = self.callback()
        limits = {name: each for name, each in self.options.items() if name in ("limit_val_batches", "precision")}
        trainer = make_trainer(tmp_path, callbacks=[callback], **limits | options)
        trainer.validate(module, self.data(), verbose=False)
        return callback.history[0]


@dataclass(frozen=True)
class Outcome:
    """What the callback has changed.

    Args:
        trained: whether losses of training, weights, modes and random numbers are the same bits.
        validated: by how much any number of a validation differs.
        baseline: by how much any of the baseline's differs from what ``trainer.validate`` says; ``None`` where
            validations differ by themselves.
        history: of the callback.

    """

    trained: bool
    validated: float
    baseline: float | None
    history: list[dict[str, float]]


def outcome(
    kind: Kind,
    tmp_path: Any,
    dressed: Callable[[Any], Any] = lambda module: module,
    settings: Callable[[], dict[str, Any]] = dict,
) -> Outcome:
    """Fit without and with the callback, and validate before any step.

    Args:
        kind: of run.
        tmp_path: a folder.
        dressed: compiles or shards a module.
        settings: makes more options of a Trainer.

    """
    callback = kind.callback()
    without = kind.fit(tmp_path, [], dressed(kind.module()), **settings())
    with_it = kind.fit(tmp_path, [callback], dressed(kind.module()), **settings())
    pairs = list(zip(without.trained, with_it.trained, strict=True))
    off = None
    if kind.steady:
        expected = kind.validate(tmp_path, dressed(kind.module()), **settings())
        off = largest(callback.history[0][name] - expected[name] for name in expected)
    numbers = zip(without.validated, with_it.validated, strict=True)
    differences = [float((a.double() - b.double()).abs().max()) for a, b in numbers]
    assert len(pairs) > 50
    return Outcome(all(torch.equal(a, b) for a, b in pairs), largest(differences), off, callback.history)


def largest(differences: Any) -> float:
    return max((abs(each) for each in differences), default=0.0)


def whole(tensor: Tensor) -> Tensor:
    """What this rank has of it, as it is now."""
    return (tensor.to_local() if hasattr(tensor, "to_local") else tensor).detach().clone()


KINDS = {
    "adapters": Kind(LoraModule),
    "Lightning's published GLUE module, all weights trained": Kind(GLUETransformer),
    "`num_sanity_val_steps=-1`": Kind(GLUETransformer, options={"num_sanity_val_steps": -1}),
    "`limit_val_batches=2`": Kind(LoraModule, options={"limit_val_batches": 2}),
    "autocast of one's own": Kind(OwnAutocast),
    "accumulated gradients, several validations an epoch": Kind(
        LoraModule, options={"accumulate_grad_batches": 2, "val_check_interval": 0.5}
    ),
    "dropout, modes changed in `validation_step`": Kind(Dropping),
    "dropout in validation": Kind(MonteCarlo, steady=False),
    "buffers and counts that go on changing": Kind(Drifting, options={"num_sanity_val_steps": 0}),
    "dynamic rotary embeddings, longer sequences in training": Kind(Rotary, options={"num_sanity_val_steps": 0}),
    "a module with a generator of its own": Kind(Noisy, steady=False),
    "a collator that counts": Kind(LoraModule, lambda: collated(Counting()), steady=False),
    "a shuffled loader with a generator": Kind(LoraModule, shuffled, steady=False),
    "persistent workers": Kind(LoraModule, lambda: loader(60, seed=1, num_workers=1, persistent_workers=True)),
    "an IterableDataset over an open file": Kind(LoraModule, stream, steady=False),
    "a CombinedLoader": Kind(Pairs, combined, lambda batch: batch["a"]["labels"]),
}
