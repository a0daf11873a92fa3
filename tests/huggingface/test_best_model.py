"""What looks for the best model finds our numbers, and a measurement that fails costs neither a run nor patience."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from ntps_lightning.huggingface import watch
from tests.huggingface.runs import BESIDE, make_trainer, ours, rows_of

_KEY = "eval_ntps/captured_r2"
_VALID = "eval_ntps_info/valid"


def make(tmp_path: Any, callbacks: list[TrainerCallback], **arguments: Any) -> Trainer:
    best = {
        "metric_for_best_model": _KEY,
        "load_best_model_at_end": True,
        "save_strategy": "epoch",
        "num_train_epochs": 4,
    }
    return make_trainer(tmp_path, callbacks=callbacks, **best | arguments)


class Poison(TrainerCallback):
    """Hidden states are not numbers in the evaluations of these epochs, whoever runs the model."""

    def __init__(self, model: Any, epochs: set[int]) -> None:
        self.epoch = 0
        self.epochs = epochs
        model.get_input_embeddings().register_forward_hook(self.hook)

    def on_epoch_begin(self, args, state, control, **kwargs):
        self.epoch = round(state.epoch) + 1

    def hook(self, module, arguments, output):
        return output if module.training or self.epoch not in self.epochs else output * float("nan")


class Labels:
    """Raises half-way through the evaluation of an epoch, which has four batches."""

    def __init__(self, evaluation: int) -> None:
        self.calls = 0
        self.bad = 1 + 4 * evaluation - 2  # and one of the check before the first step

    def __call__(self, batch):
        self.calls += 1
        if self.calls == self.bad:
            raise RuntimeError("no labels today")
        return batch["labels"]


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
@pytest.mark.parametrize("order", ["before", "after"])
def test_early_stopping_and_the_best_model(tmp_path, data, order):
    stopping = EarlyStoppingCallback(early_stopping_patience=1)
    trainer = make(tmp_path, [stopping] if order == "before" else [], num_train_epochs=8)
    callback = watch(trainer, data=data)
    if order == "after":
        trainer.add_callback(stopping)
    trainer.train()
    values = [row[_KEY] for row in callback.history[1:]]
    falls = [index for index in range(1, len(values)) if values[index] <= max(values[:index])]
    assert len(values) == (falls[0] + 1 if falls else 8), "stops at the first that is no better, and not before"
    assert trainer.state.best_metric == max(values)
    best = 3 * (1 + values.index(max(values)))
    assert Path(trainer.state.best_model_checkpoint).name == f"checkpoint-{best}"
    again = trainer.evaluate()
    assert again[_KEY] == pytest.approx(max(values), abs=1e-6), "the best model was loaded"


def test_a_key_without_eval_and_less_that_is_better(tmp_path):
    trainer = make(tmp_path, [], metric_for_best_model="ntps/null", greater_is_better=False)
    callback = watch(trainer)
    trainer.train()
    assert trainer.state.best_metric == min(row["eval_ntps/null"] for row in callback.history[1:])


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
@pytest.mark.filterwarnings("ignore:NTPS, step")
def test_states_that_are_no_numbers(tmp_path, data):
    trainer = make(tmp_path, [EarlyStoppingCallback(early_stopping_patience=1)], num_train_epochs=3)
    trainer.add_callback(Poison(trainer.model, {2}))
    callback = watch(trainer, data=data)
    trainer.train()
    assert [row[_VALID] for row in callback.history[:3]] == [1, 1, 0]
    assert callback.history[2].keys() == {"step", "epoch", _VALID}, "the history has nothing that was not measured"
    first, failed = rows_of(trainer, _VALID)[1:3]
    assert failed[_VALID] == 0
    assert {key: failed[key] for key in ours(first) if key != _VALID} == {
        key: value for key, value in ours(first).items() if key != _VALID
    }, "held"
    assert trainer.state.global_step == 9, "no patience was lost: the third epoch was trained"
    third = callback.history[3]
    assert third[_VALID] == 1
    assert trainer.state.best_metric == max(callback.history[1][_KEY], third[_KEY])


@pytest.mark.filterwarnings("ignore:`eval_ntps/gain` counts from step 6")
@pytest.mark.parametrize("greater", [True, False])
def test_the_first_evaluation_fails(tmp_path, greater):
    trainer = make(
        tmp_path, [EarlyStoppingCallback(early_stopping_patience=1)], num_train_epochs=2, greater_is_better=greater
    )
    callback = watch(trainer, labels=Labels(1))
    with pytest.warns(UserWarning, match="no labels today"):
        trainer.train()
    assert [row[_VALID] for row in callback.history] == [0, 1]
    assert trainer.state.global_step == 6
    assert trainer.state.best_metric == callback.history[1][_KEY]
    assert rows_of(trainer, _KEY)[0][_KEY] == (-1e9 if greater else 1e9)
    json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text(), parse_constant=pytest.fail)


def test_a_function_that_raises_half_way(tmp_path):
    plain = make_trainer(tmp_path / "plain", num_train_epochs=4)
    plain.train()
    trainer = make(tmp_path, [EarlyStoppingCallback(early_stopping_patience=4)], load_best_model_at_end=False)
    callback = watch(trainer, labels=Labels(2))
    with pytest.warns(UserWarning, match=r"NTPS, step 6: no labels today. The run goes on") as said:
        trainer.train()
    assert len([each for each in said if "no labels today" in str(each.message)]) == 1
    assert [row[_VALID] for row in callback.history] == [1, 1, 0, 1, 1]
    losses = [[row["eval_loss"] for row in rows_of(each, "eval_loss")] for each in (plain, trainer)]
    assert losses[0] == losses[1]
    weights = zip(plain.model.parameters(), trainer.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_a_fault_can_stop_the_run(tmp_path, data):
    trainer = make_trainer(tmp_path)
    trainer.add_callback(Poison(trainer.model, {2}))
    watch(trainer, data=data, on_error="raise")
    with pytest.raises(ValueError, match=r"NaN|nan|finite"):
        trainer.train()
    assert trainer.state.global_step == 6


def test_an_evaluation_that_raises_leaves_nothing(tmp_path):
    trainer = make_trainer(tmp_path)
    callback = watch(trainer)
    poison = trainer.model.get_input_embeddings().register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainer.evaluate()
    poison.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in trainer.model.modules())
    assert trainer.evaluate()[_VALID] == 1
    assert len(callback.history) == 1
