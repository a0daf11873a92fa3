"""The run is the same bits with and without a watch, however Trainer trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from transformers import Trainer

from ntps_lightning.huggingface import watch
from tests.huggingface.runs import BESIDE, make_model, make_trainer, ours, weights

_WATCHES: dict[str, dict[str, Any]] = {
    "listening": {},
    "side set": {"data": BESIDE},
    "several side sets": {"data": {"first": BESIDE[:30], "second": BESIDE[30:]}},
    "every n steps": {"data": BESIDE, "every_n_steps": 2},
}
_WAYS: dict[str, dict[str, Any]] = {
    "gradient accumulation": {"gradient_accumulation_steps": 2, "per_device_train_batch_size": 8},
    "gradient checkpointing": {
        "gradient_checkpointing": True,
        "gradient_checkpointing_kwargs": {"use_reentrant": False},
    },
    "bfloat16": {"bf16": True},
    "NEFTune": {"neftune_noise_alpha": 5.0},
    "evaluation at the start": {"eval_on_start": True},
    "label smoothing": {"label_smoothing_factor": 0.1},
    "evaluation within epochs": {"eval_strategy": "steps", "eval_steps": 2},
}


def sum_of_losses(outputs, labels, num_items_in_batch=None):
    losses = nn.functional.cross_entropy(outputs.logits, labels, reduction="sum")
    return losses / (len(labels) if num_items_in_batch is None else num_items_in_batch)


class Penalised(Trainer):
    """A Trainer of a user's own, with a random number in its loss."""

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")
        outputs = model(**inputs)
        loss = nn.functional.cross_entropy(outputs.logits, labels) * (1 + torch.rand(()))
        return (loss, outputs) if return_outputs else loss


def outcome(trainer: Trainer) -> dict[str, Any]:
    trainer.train()
    log = [
        {key: value for key, value in row.items() if not key.startswith("eval_ntps") and "_per_second" not in key
         and "runtime" not in key and "preparation_time" not in key}
        for row in trainer.state.log_history
    ]  # fmt: skip
    return {
        "weights": weights(trainer),
        "log": [row for row in log if row.keys() - {"step", "epoch"}],
        "random": torch.rand(3),
        "modes": [module.training for module in trainer.model.modules()],
    }


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    weights = one["weights"].keys() == other["weights"].keys() and all(
        torch.equal(each, other["weights"][name]) for name, each in one["weights"].items()
    )
    random = torch.equal(one["random"], other["random"])
    return weights and random and one["log"] == other["log"] and one["modes"] == other["modes"]


def check(tmp_path: Any, watched: dict[str, Any], **options: Any) -> None:
    model = {"model": make_model(attention_dropout=0.1)}
    plain = outcome(make_trainer(tmp_path, **options, **model))
    trainer = make_trainer(tmp_path, **options, model=make_model(attention_dropout=0.1))
    callback = watch(trainer, **watched)
    found = outcome(trainer)
    assert same(plain, found)
    assert all(len(ours(row)) > 5 for row in callback.history)
    assert len(callback.history) >= 3
    assert callback.history[0]["step"] == 0, "with a baseline"


@pytest.mark.parametrize("watched", _WATCHES.values(), ids=_WATCHES)
def test_every_watch(tmp_path, watched):
    check(tmp_path, watched)


@pytest.mark.filterwarnings(
    "ignore:`gradient_checkpointing", "ignore:`torch.cpu.amp.autocast"
)  # by transformers' 5.2x, in its 4.x
@pytest.mark.parametrize("watched", [{}, {"data": BESIDE}], ids=["listening", "side set"])
@pytest.mark.parametrize("options", _WAYS.values(), ids=_WAYS)
def test_every_way_to_train(tmp_path, options, watched):
    check(tmp_path, watched, **options)


@pytest.mark.parametrize("watched", [{}, {"data": BESIDE}], ids=["listening", "side set"])
def test_a_loss_of_the_users_own(tmp_path, watched):
    check(tmp_path, watched, options={"compute_loss_func": sum_of_losses})


@pytest.mark.parametrize("watched", [{}, {"data": BESIDE}], ids=["listening", "side set"])
def test_a_trainer_of_the_users_own(tmp_path, watched):
    check(tmp_path, watched, kind=Penalised)


def test_what_is_compared_can_differ(tmp_path):
    one, other = (outcome(make_trainer(tmp_path, learning_rate=rate)) for rate in (0.02, 0.021))
    assert not same(one, other)
    assert one["log"] != other["log"]
