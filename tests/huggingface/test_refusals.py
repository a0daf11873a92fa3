"""What cannot work is one clear error, or a warning, before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

from ntps_lightning.errors import SetupError
from ntps_lightning.huggingface import watch
from tests.huggingface.runs import BESIDE, EVALUATED, TRAINED, make_trainer
from tests.support.models import CLASSES, HIDDEN, LAYERS, VOCAB, Padding


def refused(trainer: Any, words: str) -> None:
    """Not only early: the weights are what they were."""
    before = [each.clone() for each in trainer.model.parameters()]
    with pytest.raises(SetupError, match=words):
        trainer.train()
    assert trainer.state.global_step == 0
    assert not trainer.state.log_history
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


class TokenLabels(Padding):
    """Of a causal language model: one label a token."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        return batch | {"labels": torch.where(batch["attention_mask"].bool(), batch["input_ids"], -100)}


class Keyed(Padding):
    """Of rows that are dictionaries."""

    def __call__(self, rows):
        batch = super().__call__([(row["input_ids"], 0) for row in rows])
        return {**batch, **{name: torch.tensor([row[name] for row in rows]) for name in rows[0] if name != "input_ids"}}


def table(rows: Any, **columns: Any) -> Dataset:
    return Dataset.from_dict({"input_ids": [ids for ids, _ in rows], "labels": [label for _, label in rows], **columns})


def test_token_labels(tmp_path):
    trainer = make_trainer(tmp_path, collate=TokenLabels())
    watch(trainer)
    refused(trainer, r"token-level labels are next-token targets(.|\n)*data=")


def test_token_labels_of_a_side_set(tmp_path):
    rows = [{"input_ids": row["input_ids"], "label": row["input_ids"]} for row in BESIDE]
    trainer = make_trainer(tmp_path)
    watch(trainer, data=rows)
    refused(trainer, "token labels, it seems, which are next-token targets")


def test_a_column_that_trainer_drops(tmp_path):
    topics = [label for _, label in EVALUATED]
    trainer = make_trainer(tmp_path, train=table(TRAINED), evaluated=table(EVALUATED, topic=topics), collate=Keyed())
    watch(trainer, labels="topic")
    refused(trainer, r"has no 'topic'(.|\n)*remove_unused_columns=False(.|\n)*data=")


def test_a_column_that_trainer_is_told_to_keep(tmp_path):
    rows = [(ids, label) for ids, label in EVALUATED]
    topics = [1 - (label > 0) for _, label in rows]
    trainer = make_trainer(
        tmp_path,
        train=table(TRAINED),
        evaluated=table(rows, topic=topics),
        collate=Keyed(),
        remove_unused_columns=False,
    )
    callback = watch(trainer, labels=Pop("topic"))
    trainer.train()
    assert callback.history[-1]["eval_ntps_info/valid"] == 1
    assert callback.history[-1]["eval_ntps_info/k"] == 2


class Pop:
    """Takes an item out of a batch, that the model does not take."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, batch):
        return batch.pop(self.name)


def test_labels_that_a_function_does_not_find(tmp_path):
    trainer = make_trainer(tmp_path)
    watch(trainer, labels=lambda batch: batch["topic"])
    refused(trainer, r"found no labels(.|\n)*labels=(.|\n)*data=")


def test_one_bad_set_of_several(tmp_path):
    trainer = make_trainer(tmp_path, evaluated={"good": EVALUATED, "bad": []})
    watch(trainer)
    refused(trainer, "evaluation set of `eval_bad` is empty")


def test_no_evaluations_are_warned_of(tmp_path):
    trainer = make_trainer(tmp_path, evaluated=None, eval_strategy="no")
    callback = watch(trainer)
    with pytest.warns(UserWarning, match=r"this run makes none \(eval_strategy\)"):
        trainer.train()
    assert not callback.history


def test_no_trainer():
    with pytest.raises(SetupError, match=r"takes a transformers.Trainer(.|\n)*got <class 'torch.nn.*Linear'>"):
        watch(nn.Linear(1, 1))


def test_twice(tmp_path):
    trainer = make_trainer(tmp_path)
    watch(trainer)
    with pytest.raises(
        SetupError, match=r"watched under \['eval_ntps'\] already: give the second watch\(\) another prefix"
    ):
        watch(trainer, data=BESIDE)
    trainer.train()
    assert [row["step"] for row in trainer.state.log_history if "eval_ntps/score" in row] == [0, 3, 6]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([row | {"label": 1} for row in BESIDE], "at least two classes"),
        ([], "is empty"),
        ({"good": BESIDE, "bad": []}, "data of `eval_ntps_bad` is empty"),
        ([row | {"label": None} for row in BESIDE], "has a label"),
        ([{"text": "so good", "label": 0}, {"text": "so bad", "label": 1}], "tokenizer"),
        (7, "got a int"),
    ],
    ids=["one class", "empty", "one of two empty", "no label", "text without a tokenizer", "a number"],
)
def test_side_sets_that_nothing_comes_of(tmp_path, data, words):
    trainer = make_trainer(tmp_path)
    watch(trainer, data=data)
    refused(trainer, words)


@pytest.mark.parametrize("options", [{"every_n_steps": 2}, {"every_n_steps": 0, "data": BESIDE}])
def test_every_n_steps_of_nothing(tmp_path, options):
    with pytest.raises(SetupError, match="every_n_steps must be at least 1, and of a side set"):
        watch(make_trainer(tmp_path), **options)


def test_a_layer_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="layer"):
        watch(make_trainer(tmp_path), layers=9)


@pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])
def test_an_encoder(tmp_path, data):
    sizes = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
    model = BertForSequenceClassification(BertConfig(**sizes | {"vocab_size": VOCAB, "num_labels": CLASSES}))
    trainer = make_trainer(tmp_path, model=model)
    watch(trainer, data=data)
    refused(trainer, "later tokens|look ahead|looks ahead|bidirectional")


@pytest.mark.parametrize("key", ["eval_ntps/captured_r3", "ntps/captured_r3", "eval_ntps_info/kepd"])
def test_a_key_that_is_not_logged(tmp_path, key):
    trainer = make_trainer(tmp_path, metric_for_best_model=key)
    watch(trainer)
    refused(trainer, f"metric_for_best_model='eval_{key.removeprefix('eval_')}' is none of what is logged")


def test_the_key_of_one_set_where_there_are_two(tmp_path):
    trainer = make_trainer(tmp_path, metric_for_best_model="eval_ntps/captured_r2")
    watch(trainer, data={"first": BESIDE, "second": BESIDE[:30]})
    refused(trainer, "is none of what is logged")


def test_the_key_of_what_evaluations_do_not_measure(tmp_path):
    trainer = make_trainer(tmp_path, metric_for_best_model="eval_ntps/captured_r2")
    watch(trainer, data=BESIDE, every_n_steps=2)
    refused(trainer, "every_n_steps")
