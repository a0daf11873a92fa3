"""Checkpoints keep what was measured, and a run that goes on goes on with it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback

from ntps_lightning.huggingface import watch
from tests.huggingface.runs import BESIDE, make_trainer, ours, rows_of

_FIRST = "ignore:`eval_ntps/gain` counts from step 6"


class Stop(TrainerCallback):
    """Ends a run after an epoch, as a machine that is taken away does."""

    def on_save(self, args, state, control, **kwargs):
        control.should_training_stop = True


def same_rows(one: list[dict[str, float]], other: list[dict[str, float]]) -> bool:
    return [ours(row) | {"step": row["step"]} for row in one] == [ours(row) | {"step": row["step"]} for row in other]


def make(tmp_path: Any, **options: Any):
    return make_trainer(tmp_path, **{"save_strategy": "epoch", "num_train_epochs": 3} | options)


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_a_run_goes_on(tmp_path, data):
    whole = make(tmp_path / "whole")
    wanted = watch(whole, data=data)
    whole.train()
    first = make(tmp_path / "parts", callbacks=[Stop()])
    watch(first, data=data)
    first.train()
    assert first.state.global_step == 3
    trainer = make(tmp_path / "parts")
    callback = watch(trainer, data=data)
    trainer.train(resume_from_checkpoint=True)
    assert [row["step"] for row in callback.history] == [0, 3, 6, 9]
    assert same_rows(callback.history, wanted.history)
    assert same_rows(rows_of(trainer), rows_of(whole)), "Trainer's log has each row once"
    assert callback.history[-1]["eval_ntps/gain"] != 0
    for what in ("baseline", "previous", "best"):
        change, whole_change = (each.records["eval_ntps"].changes[what] for each in (callback, wanted))
        assert change.keys() == whole_change.keys()
        for name, each in change.items():
            assert (each.value, each.se) == (whole_change[name].value, whole_change[name].se)


def test_a_run_goes_on_with_early_stopping(tmp_path):
    """Trainer makes callbacks anew that it has kept, and not ours."""
    options = {
        "metric_for_best_model": "eval_ntps/captured_r2",
        "load_best_model_at_end": True,
        "restore_callback_states_from_checkpoint": True,
    }
    first = make(tmp_path, callbacks=[EarlyStoppingCallback(9), Stop()], **options)
    watch(first)
    first.train()
    trainer = make(tmp_path, callbacks=[EarlyStoppingCallback(9)], **options)
    callback = watch(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert [row["step"] for row in callback.history] == [0, 3, 6, 9]
    assert trainer.state.best_metric == max(row["eval_ntps/captured_r2"] for row in callback.history[1:])


def test_what_was_measured_before_training_is_kept_too(tmp_path):
    """A checkpoint from before the first evaluation has the baseline."""
    first = make(tmp_path, save_strategy="steps", save_steps=1, callbacks=[Stop()])
    wanted = watch(first)
    first.evaluate()
    first.train()
    assert first.state.global_step == 1
    trainer = make(tmp_path, save_strategy="no")
    callback = watch(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert [row["step"] for row in callback.history] == [0, 3, 6, 9]
    assert callback.history[0] == wanted.history[0]


def test_a_checkpoint_without_ours(tmp_path):
    make(tmp_path, callbacks=[Stop()]).train()
    trainer = make(tmp_path)
    callback = watch(trainer)
    with pytest.warns(UserWarning, match="gain` counts from step 6: there is no score from before the first step"):
        trainer.train(resume_from_checkpoint=True)
    assert [row["step"] for row in callback.history] == [6, 9]


@pytest.mark.filterwarnings(_FIRST)
@pytest.mark.parametrize("prepared", [False, True], ids=["at once", "after an evaluation"])
def test_another_side_set_starts_anew(tmp_path, prepared):
    first = make(tmp_path, callbacks=[Stop()])
    watch(first, data=BESIDE)
    first.train()
    trainer = make(tmp_path)
    callback = watch(trainer, data=BESIDE[:50])
    if prepared:
        trainer.evaluate()
    with pytest.warns(UserWarning, match="data") as said:
        trainer.train(resume_from_checkpoint=True)
    told = [str(each.message) for each in said if "it starts anew" in str(each.message)]
    assert len(told) == 1
    assert "data" in told[0]
    after = [row["step"] for row in callback.history]
    assert after == ([0, 6, 9] if prepared else [6, 9])
    assert all(row["eval_ntps_info/samples"] == 50 for row in callback.history)


@pytest.mark.parametrize(
    ("changed", "goes_on"),
    [({"learning_rate": 0.001}, True), ({"per_device_eval_batch_size": 5}, True), ({}, True)],
    ids=["learning rate", "batch size", "nothing"],
)
def test_other_arguments_change_nothing(tmp_path, changed, goes_on):
    first = make(tmp_path, callbacks=[Stop()])
    watch(first)
    first.train()
    trainer = make(tmp_path, **changed)
    callback = watch(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert ([row["step"] for row in callback.history] == [0, 3, 6, 9]) == goes_on


@pytest.mark.filterwarnings(_FIRST)
def test_another_definition_starts_anew(tmp_path):
    first = make(tmp_path, callbacks=[Stop()])
    watch(first)
    first.train()
    trainer = make(tmp_path)
    callback = watch(trainer, layers=1)
    with pytest.warns(UserWarning, match=r"measured with layers=-1 \(now 1\): it starts anew"):
        trainer.train(resume_from_checkpoint=True)
    assert [row["step"] for row in callback.history] == [6, 9]


def test_several_sets_go_on_each(tmp_path):
    sets = {"first": BESIDE, "second": BESIDE[:40]}
    first = make(tmp_path, callbacks=[Stop()])
    watch(first, data=sets)
    first.train()
    state = json.loads((tmp_path / "checkpoint-3" / "trainer_state.json").read_text())
    assert set(state["stateful_callbacks"]["ntps_lightning"]) == {"eval_ntps_first", "eval_ntps_second"}
    trainer = make(tmp_path)
    callback = watch(trainer, data=sets)
    trainer.train(resume_from_checkpoint=True)
    for name, samples in (("first", 60), ("second", 40)):
        history = callback.records[f"eval_ntps_{name}"].history
        assert [row["step"] for row in history] == [0, 3, 6, 9]
        assert all(row[f"eval_ntps_{name}_info/samples"] == samples for row in history)
