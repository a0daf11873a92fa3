"""What was measured stays, whatever a Trainer, another Trainer or a tuner does next."""

from __future__ import annotations

import copy

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.tuner.tuning import Tuner
from lightning.pytorch.utilities import CombinedLoader

from ntps_lightning import NTPSCallback
from tests.support.models import LAYERS, LoraModule, loader, make_trainer


def lifecycle(row: str, note: str):
    return pytest.mark.compatibility("Lifecycle", row, note)


def validation():
    return loader(60, seed=1)


class WithTests(LoraModule):
    def test_step(self, batch, batch_idx):
        self.model(**batch)


def steps(callback):
    return [row["step"] for row in callback.history]


@lifecycle("`test()` and `validate()` by another Trainer", "history and details stay; the second adds to them")
def test_another_trainer_takes_nothing_away(tmp_path):
    callback, module = NTPSCallback(layers="all"), WithTests()
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader(), validation())
    history, details = list(callback.history), dict(callback.details)
    make_trainer(tmp_path, callbacks=[callback]).test(module, validation(), verbose=False)
    assert callback.history == history
    assert callback.details == details
    make_trainer(tmp_path, callbacks=[callback]).validate(module, validation(), verbose=False)
    assert callback.history[:-1] == history
    names = ("ntps/score", "ntps/gain", "ntps/probe_accuracy")
    assert [callback.history[-1][name] for name in names] == pytest.approx([history[-1][name] for name in names])


@lifecycle("`test(ckpt_path=...)` and `validate(ckpt_path=...)`", "history and details stay")
def test_a_checkpoint_that_is_tested_takes_nothing_away(tmp_path):
    callback, module = NTPSCallback(), WithTests()
    checkpoint = ModelCheckpoint(tmp_path, save_top_k=-1, filename="{epoch}")
    trainer = make_trainer(tmp_path, callbacks=[callback, checkpoint], enable_checkpointing=True)
    trainer.fit(module, loader(), validation())
    history = list(callback.history)
    assert steps(callback) == [0, 6, 12, 18]
    trainer.test(module, validation(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert callback.history == history
    trainer.validate(module, validation(), ckpt_path=tmp_path / "epoch=0.ckpt", verbose=False)
    assert callback.history[:-1] == history


def test_a_copy_that_validates_keeps_its_history(tmp_path):
    callback, module = NTPSCallback(), LoraModule()
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader(), validation())
    twin = copy.deepcopy(callback)
    make_trainer(tmp_path, callbacks=[twin]).validate(module, validation(), verbose=False)
    assert twin.history[:-1] == callback.history
    assert twin.history[-1]["ntps/gain"] == pytest.approx(callback.history[-1]["ntps/gain"])


def test_a_trained_model_is_no_silent_baseline(tmp_path):
    callback, module = NTPSCallback(), LoraModule()
    with pytest.warns(UserWarning, match="this run has none"):
        make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader())
    with pytest.warns(UserWarning, match="there is no score from before the first step"):
        make_trainer(tmp_path, callbacks=[callback]).validate(module, validation(), verbose=False)


@lifecycle("a second module in one Trainer", "a history and a baseline of its own")
def test_a_second_module_begins_anew(tmp_path):
    class Other(LoraModule):
        def __init__(self):
            super().__init__()
            with torch.no_grad():
                self.model.get_input_embeddings().weight.mul_(torch.linspace(0.5, 2, 16))

    callback = NTPSCallback(layers="all")
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=1)
    trainer.fit(LoraModule(), loader(), validation())
    assert steps(callback) == [0, 6]
    trainer.fit_loop.max_epochs = 2
    trainer.fit(Other(), loader(), validation())
    alone = NTPSCallback(layers="all")
    make_trainer(tmp_path, callbacks=[alone], max_epochs=1).fit(Other(), loader(), validation())
    assert steps(callback) == [6, 12]
    for row, expected in zip(callback.history, alone.history, strict=True):
        ours = {key: value for key, value in row.items() if key not in ("step", "epoch")}
        assert ours == {key: expected[key] for key in ours}
    assert callback.baseline_details.keys() == set(range(LAYERS + 1))


@lifecycle("`fit()` twice", "one history, one baseline")
def test_fit_twice(tmp_path):
    once, twice = NTPSCallback(), NTPSCallback()
    make_trainer(tmp_path, callbacks=[once], max_epochs=2).fit(LoraModule(), loader(), validation())
    module, trainer = LoraModule(), make_trainer(tmp_path, callbacks=[twice], max_epochs=1)
    trainer.fit(module, loader(), validation())
    before = twice.baseline_details
    trainer.fit_loop.max_epochs = 2
    trainer.fit(module, loader(), validation())
    assert steps(twice) == steps(once) == [0, 6, 12]
    assert twice.baseline_details is before
    assert twice.history[:2] == once.history[:2]


@lifecycle("a new Trainer's `fit()`", "begins anew, with a baseline of its own")
def test_a_new_fit_begins_anew(tmp_path):
    callback, module = NTPSCallback(), LoraModule()
    for _ in range(2):
        make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader(), validation())
    assert steps(callback) == [0, 6]
    assert callback.history[0]["ntps/gain"] == 0


class Tuned(LoraModule):
    """Makes its own loaders, and has what tuners change."""

    def __init__(self) -> None:
        super().__init__()
        self.batch_size = 2

    def train_dataloader(self):
        return loader(batch_size=min(self.batch_size, 16))

    def val_dataloader(self):
        return validation()


@lifecycle("`Tuner.lr_find` and `Tuner.scale_batch_size`", "the history and baseline of a run without them")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tuned", ["lr_find", "scale_batch_size"])
def test_tuners_leave_no_trace(tmp_path, tuned):
    callback, module = NTPSCallback(layers="all"), Tuned()
    trainer = make_trainer(tmp_path, callbacks=[callback, EarlyStopping("ntps/score", mode="max")], max_epochs=2)
    if tuned == "lr_find":
        Tuner(trainer).lr_find(module, num_training=8, update_attr=False)
    else:
        alone = Tuned()
        for each, tuned_module in ((make_trainer(tmp_path, max_epochs=2), alone), (trainer, module)):
            Tuner(each).scale_batch_size(tuned_module, steps_per_trial=2, max_trials=3)
        assert module.batch_size == alone.batch_size > 2
    assert callback.history == []
    module.batch_size = 16
    trainer.fit(module)
    plain = NTPSCallback(layers="all")
    make_trainer(tmp_path, callbacks=[plain], max_epochs=2).fit(LoraModule(), loader(), validation())
    assert steps(callback) == [0, 6, 12]
    assert callback.history[0] == plain.history[0]
    assert callback.history[1] == pytest.approx(plain.history[1], rel=1e-5)


class Two(LoraModule):
    """Validates on two loaders."""

    def val_dataloader(self):
        return CombinedLoader([validation(), loader(40, seed=2)], "sequential")


def two() -> list[NTPSCallback]:
    return [NTPSCallback(prefix="a", layers=1), NTPSCallback(prefix="b", pooling="last", dataloader_idx=1)]


@lifecycle("two callbacks of different prefixes", "in fit, validate, checkpoint and resume")
@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_two_callbacks_keep_apart(tmp_path):
    whole, before, after = two(), two(), two()
    make_trainer(tmp_path, callbacks=whole).fit(Two(), loader())
    checkpoint = ModelCheckpoint(tmp_path, save_last=True)
    first = make_trainer(tmp_path, callbacks=[*before, checkpoint], max_epochs=2, enable_checkpointing=True)
    first.fit(Two(), loader())
    others = [ModelCheckpoint(tmp_path, save_last=True)]
    second = make_trainer(tmp_path, callbacks=[*after, *others], enable_checkpointing=True)
    second.fit(Two(), loader(), ckpt_path=checkpoint.last_model_path)
    for expected, callback in zip(whole, after, strict=True):
        assert steps(callback) == [0, 6, 12, 18]
        assert callback.history == expected.history
    a, b = (callback.history[0] for callback in after)
    assert (a["a_info/samples"], b["b_info/samples"]) == (60, 40)
    validated = two()
    make_trainer(tmp_path, callbacks=validated).validate(Two(), verbose=False)
    for expected, callback in zip(whole, validated, strict=True):
        assert callback.history[0] == pytest.approx(expected.history[0], abs=1e-6)
