"""The recipes of docs/HUGGINGFACE.md that run here: sentence-transformers, SetFit, a Trainer that nobody is handed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression
from transformers import LlamaModel, Trainer

from ntps_lightning.huggingface import watch
from tests.huggingface.test_trl import side_set, tokenizer
from tests.support.models import HIDDEN, tiny_config

sentence_transformers = pytest.importorskip("sentence_transformers")
parts = pytest.importorskip("sentence_transformers.models")
losses = pytest.importorskip("sentence_transformers.losses")

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
__all__ = ["tokenizer"]


@pytest.fixture
def body(tokenizer, tmp_path):
    """Makes a sentence transformer out of a tiny decoder."""
    LlamaModel(tiny_config(pad_token_id=1, eos_token_id=2)).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def make() -> Any:
        torch.manual_seed(0)
        modules = [parts.Transformer(str(tmp_path / "model"), max_seq_length=32), parts.Pooling(HIDDEN, "mean")]
        return sentence_transformers.SentenceTransformer(modules=modules, device="cpu")

    return make


def embedding_trainer(model: Any, folder: Any) -> Any:
    rows = side_set()
    pairs = [{"anchor": a["text"], "positive": b["text"]} for a, b in zip(rows[:40], rows[2:42], strict=True)]
    args = sentence_transformers.SentenceTransformerTrainingArguments(
        str(folder),
        num_train_epochs=2,
        per_device_train_batch_size=8,
        learning_rate=0.01,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    loss = losses.MultipleNegativesRankingLoss(model)
    return sentence_transformers.SentenceTransformerTrainer(
        model, args, train_dataset=Dataset.from_list(pairs), loss=loss
    )


def same(first: Any, second: Any) -> bool:
    weights = zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in weights)


def test_sentence_transformers(body, tokenizer, tmp_path):
    alone, watched = body(), body()
    embedding_trainer(alone, tmp_path).train()
    trainer = embedding_trainer(watched, tmp_path)
    ntps = watch(trainer, data=side_set(), tokenizer=tokenizer)
    trainer.train()
    assert same(alone, watched)
    assert [row["step"] for row in ntps.history] == [0, 5, 10]


def test_setfit(body, tokenizer, tmp_path):
    setfit = pytest.importorskip("setfit")
    rows = Dataset.from_list(side_set()[:16])

    def trainer(model: Any) -> Any:
        args = setfit.TrainingArguments(str(tmp_path), num_epochs=1, batch_size=8, max_steps=8, report_to="none")
        classifier = setfit.SetFitModel(model_body=model, model_head=LogisticRegression(), labels=["happy", "sad"])
        return setfit.Trainer(model=classifier, args=args, train_dataset=rows)

    alone, watched = body(), body()
    trainer(alone).train()
    second = trainer(watched)
    ntps = watch(second.st_trainer, data=side_set(), tokenizer=tokenizer, every_n_steps=4)
    second.train()
    assert same(alone, watched)
    assert [row["step"] for row in ntps.history] == [0, 4, 8]


def test_a_trainer_that_nobody_is_handed(body, tokenizer, tmp_path, monkeypatch):
    train, seen = Trainer.train, []

    def watched(self, *args, **kwargs):
        seen.append(watch(self, data=side_set(), tokenizer=tokenizer))
        return train(self, *args, **kwargs)

    monkeypatch.setattr(Trainer, "train", watched)
    embedding_trainer(body(), tmp_path).train()
    assert [row["step"] for row in seen[0].history] == [0, 5, 10]
