"""What a model scored before its first step: the first validation's calls, made again, and no trace in the run."""

from __future__ import annotations

import json
import logging
import random
import warnings
from typing import Any

import lightning.pytorch as pl
import numpy as np
import psutil
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities import CombinedLoader
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils.data import DataLoader, IterableDataset
from torchmetrics.classification import MulticlassAccuracy
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSCallback
from tests.support.models import CLASSES, VOCAB, LoraModule, Padding, loader, make_trainer, samples, tiny_config


def lifecycle(row: str, note: str):
    return pytest.mark.compatibility("Lifecycle", row, note)


# Modules and data, as people have them


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
        return self.norm(hidden_states) * (1 + 0.01 * self.seen + 0.02 * self.calls + self.table) + self.mean


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

    def __init__(self, file: Any) -> None:
        self.file = file

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


def plain() -> DataLoader:
    return loader(60, seed=1)


def shuffled() -> DataLoader:
    return loader(60, seed=1, shuffle=True, generator=torch.Generator().manual_seed(5))


class Watch(Callback):
    """Every loss, metric and random number of a run."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def note(self) -> None:
        self.seen += [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64))]
        self.seen += [torch.tensor(random.getstate()[1])]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen.append(outputs["loss"].clone())
        self.note()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0):
        modes = [module.training for module in pl_module.modules()]
        self.seen += [torch.tensor(modes), torch.tensor(trainer.sanity_checking)]
        self.note()

    def on_validation_end(self, trainer, pl_module):
        metrics = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith("ntps")}
        self.seen += [torch.as_tensor(metrics[name]) for name in sorted(metrics)]


def watched(tmp_path, callbacks, module, data, **options):
    """Everything of a run that must not depend on who else is there."""
    watch = Watch()
    pl.seed_everything(1, verbose=False)
    trainer = make_trainer(tmp_path, callbacks=[*callbacks, watch], max_epochs=2, **options)
    trainer.fit(module, loader(shuffle=True), data)
    return [*watch.seen, *module.state_dict().values(), *module.buffers(), torch.rand(3)]


def validated(tmp_path, module, data, callback, **options):
    """What ``trainer.validate`` scores before any step."""
    trainer = make_trainer(tmp_path, callbacks=[callback], **options)
    trainer.validate(module, data, verbose=False)
    return callback.history[0]


SAME = "same bits with and without us, baseline included"
ALSO = f"{SAME}; it is what `validate()` gives, 1e-6"


def kind(name: str, module: Any, data: Any = plain, labels: Any = "labels", **options: Any):
    """A kind of run whose validation gives the same whenever it is made."""
    return pytest.param(module, data, labels, options, True, id=name, marks=lifecycle(name, ALSO))


def fickle(name: str, module: Any, data: Any = plain, **options: Any):
    """One whose validations differ."""
    return pytest.param(module, data, "labels", options, False, id=name, marks=lifecycle(name, SAME))


@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:This DataLoader will create")
@pytest.mark.parametrize(
    ("make", "data", "labels", "options", "fixed"),
    [
        kind("adapters", LoraModule),
        kind("Lightning's published GLUE module, all weights trained", GLUETransformer),
        kind("`num_sanity_val_steps=-1`", GLUETransformer, num_sanity_val_steps=-1),
        kind("`limit_val_batches=2`, baseline", LoraModule, limit_val_batches=2),
        kind("bf16-mixed", GLUETransformer, precision="bf16-mixed"),
        kind("bf16-true", LoraModule, precision="bf16-true"),
        kind("autocast of one's own", OwnAutocast),
        kind("accumulated gradients, several validations an epoch", LoraModule,
             accumulate_grad_batches=2, val_check_interval=0.5),
        kind("dropout, modes changed in `validation_step`", Dropping),
        kind("buffers and counts that go on changing", Drifting, num_sanity_val_steps=0),
        kind("dynamic rotary embeddings, longer sequences in training", Rotary, num_sanity_val_steps=0),
        kind("persistent workers", LoraModule, lambda: loader(60, seed=1, num_workers=1, persistent_workers=True)),
        kind("a CombinedLoader", Pairs, combined, lambda batch: batch["a"]["labels"]),
        fickle("dropout in validation", MonteCarlo),
        fickle("a module with a generator of its own", Noisy),
        fickle("a collator that counts", LoraModule, lambda: collated(Counting())),
        fickle("a shuffled loader with a generator", LoraModule, shuffled),
    ],
)  # fmt: skip
def test_the_run_is_the_same_bits_and_the_baseline_that_of_validate(tmp_path, make, data, labels, options, fixed):
    callback = NTPSCallback(layers="all", labels=labels)
    without = watched(tmp_path, [], make(), data(), **options)
    with_it = watched(tmp_path, [callback], make(), data(), **options)
    assert len(without) == len(with_it) > 50
    assert all(torch.equal(a, b) for a, b in zip(without, with_it, strict=True))
    before, first = callback.history[:2]
    assert before["step"] == 0 < first["step"]
    ratio = {"ntps/captured", "ntps_se/captured"}  # where it is one
    assert before.keys() - ratio == first.keys() - ratio
    assert before["ntps_info/valid"] == first["ntps_info/valid"] == 1
    assert before["ntps/gain"] == 0
    assert first["ntps/gain"] == first["ntps/score"] - before["ntps/score"] != 0
    if fixed:
        limits = {name: options[name] for name in ("limit_val_batches", "precision") if name in options}
        expected = validated(tmp_path, make(), data(), NTPSCallback(layers="all", labels=labels), **limits)
        assert before == pytest.approx(expected, abs=1e-6)


@lifecycle("an IterableDataset over an open file", SAME)
def test_a_stream_is_read_as_often_as_without_us(tmp_path):
    runs, path = [], tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in samples(60, seed=1)))
    for callbacks in ([], [NTPSCallback()]):
        with path.open() as file:
            data = DataLoader(Lines(file), batch_size=16, collate_fn=Padding())
            runs.append([*watched(tmp_path, callbacks, LoraModule(), data), torch.tensor(file.tell())])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))
    assert [row["step"] for row in callbacks[0].history] == [0, 6, 12]


@lifecycle("`torch.compile`, baseline", "losses as without us, 1e-6; the baseline is what `validate()` gives, 1e-6")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.slow
def test_a_compiled_model(tmp_path):
    def compiled():
        torch._dynamo.reset()
        module = GLUETransformer()
        module.model = torch.compile(module.model, backend="aot_eager")
        return module

    callback = NTPSCallback()
    without = watched(tmp_path, [], compiled(), plain())
    with_it = watched(tmp_path, [callback], compiled(), plain())
    for a, b in zip(without, with_it, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    expected = validated(tmp_path, compiled(), plain(), NTPSCallback())
    assert callback.history[0] == pytest.approx(expected, abs=1e-6)


class Points(DummyLogger):
    """Keeps what it gets, in the order in which it comes."""

    def __init__(self) -> None:
        super().__init__()
        self.points: list[Any] = []

    def log_metrics(self, metrics, step=None):
        self.points.append((step, {name for name in metrics if name.startswith("ntps")}))


@lifecycle("loggers", "get the baseline as the point at step 0, before the first score, under the same keys")
def test_loggers_get_the_baseline_first(tmp_path):
    logger = Points()
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(layers="all")], logger=logger)
    trainer.fit(LoraModule(), loader(), plain())
    ours = [(step, names) for step, names in logger.points if names]
    assert [step for step, _ in ours] == [0, 5, 11, 17]
    assert all(names == ours[0][1] for _, names in ours)


# What cannot be known is said, and never scored


class Unfreezing(LoraModule):
    def on_train_batch_start(self, batch, batch_idx):
        if batch_idx == 3:
            weight = self.model.base_model.model.model.layers[0].mlp.up_proj.weight
            weight.requires_grad_(True)
            self.optimizers().param_groups[0]["params"].append(weight)


class Overwriting(LoraModule):
    def on_train_batch_end(self, outputs, batch, batch_idx):
        with torch.no_grad():
            self.model.base_model.model.model.layers[0].mlp.up_proj.weight.mul_(1.1)


class Adding(LoraModule):
    def on_validation_epoch_start(self):
        if not self.trainer.sanity_checking:
            self.model.base_model.model.model.layers[0].extra = nn.Linear(2, 2)


class Merging(LoraModule):
    def on_validation_start(self):
        self.model.merge_adapter()

    def on_validation_end(self):
        self.model.unmerge_adapter()


class Embedding(LoraModule):
    """Trains what it makes the model's inputs of, outside of the model or inside."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.prompt = nn.Parameter(torch.zeros(16), requires_grad=not inside)
        self.model.get_input_embeddings().weight.requires_grad_(inside)

    def embedded(self, batch):
        embeddings = self.model.get_input_embeddings()(batch["input_ids"]) + self.prompt
        return {"inputs_embeds": embeddings, "attention_mask": batch["attention_mask"], "labels": batch["labels"]}

    def training_step(self, batch, batch_idx):
        return super().training_step(self.embedded(batch), batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(self.embedded(batch), batch_idx)


class Hooking(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        handle = self.model.get_input_embeddings().register_forward_hook(lambda module, args, output: 2 * output)
        super().validation_step(batch, batch_idx)
        handle.remove()


class Masking(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)
        batch["attention_mask"].zero_()


class Relabelling(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        batch["labels"].add_(1)


def refused(row: str, module: Any, reason: str):
    note = "no baseline, said once with the way out (`validate()` before `fit()`); the run goes on"
    return pytest.param(module, reason, id=row, marks=pytest.mark.compatibility("Faults", row, note))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        refused("a weight unfrozen before the first validation", Unfreezing, "up_proj.weight was frozen before"),
        refused("a frozen weight overwritten", Overwriting, "up_proj.weight was frozen before"),
        refused("a module added before the first validation", Adding, "parameters were added, removed or replaced"),
        refused("adapters merged for validation", Merging, "adapters are merged into the weights"),
        refused("trained `inputs_embeds`", lambda: Embedding(inside=False), "called with inputs_embeds"),
        refused("`inputs_embeds` of trained embeddings", lambda: Embedding(inside=True), "called with inputs_embeds"),
        refused("a hook for the call alone", Hooking, "forward hooks that were on the model in the call are gone"),
        refused("inputs changed in place after the call", Masking, "has been changed in place since"),
        refused(
            "labels changed in place after the call",
            Relabelling,
            "labels, mask or ids of a batch were changed in place",
        ),
    ],
)
def test_what_a_replay_cannot_know_is_said(tmp_path, make, reason):
    callback = NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=2)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(make(), loader(), plain())
    said = [str(w.message) for w in caught if "no score from before the first step" in str(w.message)]
    assert len(said) == 1, said
    assert reason in said[0]
    assert "`trainer.validate(module)` before `trainer.fit(module)`" in said[0]
    assert [row["step"] for row in callback.history] == [6, 12]
    assert callback.history[0]["ntps/gain"] == 0
    assert trainer.current_epoch == 2


def test_embeddings_that_do_not_train_are_no_obstacle(tmp_path):
    class Frozen(Embedding):
        def __init__(self):
            super().__init__(inside=False)
            self.prompt.requires_grad_(False)

    callback = NTPSCallback()
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(Frozen(), loader(), plain())
    assert callback.history[0] == pytest.approx(validated(tmp_path, Frozen(), plain(), NTPSCallback()), abs=1e-6)


class Failing(LoraModule):
    """Its model cannot be called once more."""

    def __init__(self) -> None:
        super().__init__()
        self.model.base_model.model.model.layers[1].register_forward_hook(self.fail)

    def fail(self, module, args, output):
        if self.trainer.sanity_checking and self.trainer.global_step > 0:
            raise ZeroDivisionError("once too often")


@pytest.mark.compatibility(
    "Faults", "a call that fails when it is made again", "warned of once, no baseline; same bits"
)
@pytest.mark.filterwarnings("ignore")
def test_a_replay_that_raises_costs_the_baseline_alone(tmp_path):
    callback = NTPSCallback()
    with pytest.warns(UserWarning, match="step 6: once too often. The run goes on"):
        with_it = watched(tmp_path, [callback], Failing(), plain())
    assert all(torch.equal(a, b) for a, b in zip(watched(tmp_path, [], Failing(), plain()), with_it, strict=True))
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1]
    assert callback.baseline_details[2].score == callback.history[0]["ntps/score"], "counted from the first"
    with pytest.raises(ZeroDivisionError, match="once too often"):
        trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(on_error="raise")])
        trainer.fit(Failing(), loader(), plain())


# Memory


@lifecycle(
    "all weights trained", "the copy on the host is announced with its size, and let go after the first validation"
)
def test_a_copy_of_all_weights(tmp_path, caplog):
    module, copies = GLUETransformer(), []
    size = sum(p.numel() * p.itemsize for p in module.parameters())

    class Look(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            copies.append(callback._replay is not None)

    callback = NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[callback, Look()], max_epochs=2)
    with caplog.at_level(logging.INFO, logger="torchmetrics"):
        trainer.fit(module, loader(), plain())
    assert f"NTPS takes {size / 2**20:.1f} MiB on the host for a copy of the weights that train" in caplog.text
    assert copies == [True] * 6 + [False] * 6


def test_a_copy_that_nobody_wants_is_not_taken(tmp_path, caplog):
    callback = NTPSCallback(baseline=False)
    with caplog.at_level(logging.INFO, logger="torchmetrics"):
        make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(LoraModule(), loader(), plain())
    assert "for a copy of the weights" not in caplog.text
    assert [row["step"] for row in callback.history] == [6]


@pytest.mark.compatibility("Faults", "no memory for a copy of the weights", "refused at the start, with the way out")
def test_a_copy_that_there_is_no_room_for_is_refused(tmp_path, monkeypatch):
    class Full(GLUETransformer):
        def on_sanity_check_end(self):
            free = psutil.virtual_memory()._replace(available=2**10)
            monkeypatch.setattr(psutil, "virtual_memory", lambda: free)

    class Look(Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            pl_module.on_sanity_check_end()

    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(), Look()])
    message = r"a copy of the weights that train .*, and only 0.0 MiB are free; `baseline=False` spares it"
    with pytest.raises(ValueError, match=message):
        trainer.fit(Full(), loader(), plain())
    assert trainer.global_step == 0


def test_nothing_stays_of_a_run_that_ends_before_its_first_validation(tmp_path):
    callback = NTPSCallback()
    make_trainer(tmp_path, callbacks=[callback], max_steps=3).fit(LoraModule(), loader(), plain())
    assert callback.history == []
    assert callback._replay is None
