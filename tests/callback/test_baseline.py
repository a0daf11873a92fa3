"""What a model scored before its first step: the first validation's calls, made again, and no trace in the run."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers.logger import DummyLogger
from torch import nn

from ntps_lightning import NTPSCallback
from tests.callback.kinds import GLUETransformer, Kind, plain
from tests.support.models import LoraModule, loader, make_trainer


def lifecycle(row: str, note: str):
    return pytest.mark.compatibility("Lifecycle", row, note)


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

    callback = NTPSCallback(layers="all")
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(Frozen(), loader(), plain())
    assert callback.history[0] == pytest.approx(Kind(Frozen).validate(tmp_path, Frozen()), abs=1e-6)


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
        with_it = Kind(Failing).fit(tmp_path, [callback], Failing())
    without = Kind(Failing).fit(tmp_path, [], Failing())
    for a, b in ((without.trained, with_it.trained), (without.validated, with_it.validated)):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
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
            copies.append(callback._watches[0].replay is not None)

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
            monkeypatch.setattr("ntps_lightning.available._host", lambda: 2**10)

    class Look(Callback):
        def on_sanity_check_end(self, trainer, pl_module):
            pl_module.on_sanity_check_end()

    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(), Look()])
    message = r"a copy of the weights that train .*, and at most 0.0 MiB are free; `baseline=False` spares it"
    with pytest.raises(ValueError, match=message):
        trainer.fit(Full(), loader(), plain())
    assert trainer.global_step == 0


def test_nothing_stays_of_a_run_that_ends_before_its_first_validation(tmp_path):
    callback = NTPSCallback()
    make_trainer(tmp_path, callbacks=[callback], max_steps=3).fit(LoraModule(), loader(), plain())
    assert callback.history == []
    assert callback._watches[0].replay is None
