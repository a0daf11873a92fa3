"""TRL's Trainers with a labelled side set: the run does not notice, and its own logs stay what they were."""

from __future__ import annotations

import random
from functools import partial
from typing import Any

import pytest
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, PreTrainedTokenizerFast

from ntps_lightning.huggingface import watch
from tests.support.models import tiny_config

trl = pytest.importorskip("trl", "1.0", reason="TRL is not tried with the lowest versions")

pytestmark = pytest.mark.filterwarnings("ignore")
GOOD, BAD, REST = ("good", "fine", "nice"), ("bad", "poor", "sad"), ("the", "film", "was", "a", "bit", "very", "plot")


def text(generator: random.Random, good: bool) -> str:
    words = (GOOD if good else BAD) + REST
    return " ".join(generator.choice(words) for _ in range(generator.randint(4, 14)))


def side_set() -> list[dict[str, str]]:
    generator = random.Random(0)
    return [{"text": text(generator, i % 2 == 0), "label": ("happy", "sad")[i % 2]} for i in range(60)]


def instructions() -> Dataset:
    generator = random.Random(1)
    return Dataset.from_list([{"text": text(generator, i % 2 == 0)} for i in range(48)])


def preferences() -> Dataset:
    generator = random.Random(2)
    rows = [{"prompt": "the film", "chosen": " " + text(generator, True), "rejected": " " + text(generator, False)}]
    return Dataset.from_list(rows * 24 + rows * 8)


def word_level_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = trainers.WordLevelTrainer(special_tokens=["<unk>", "<pad>", "<eos>"], show_progress=False)
    words.train_from_iterator([row["text"] for row in side_set()], special)
    found = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    found.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    return found


@pytest.fixture(scope="module")
def tokenizer():
    return word_level_tokenizer()


def model(kind: Any = LlamaForCausalLM) -> Any:
    torch.manual_seed(0)
    return kind(tiny_config(num_labels=1, pad_token_id=1, eos_token_id=2))


def lora() -> LoraConfig:
    return LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="CAUSAL_LM")


def sft(tokenizer: Any, base: dict[str, Any], peft: LoraConfig | None = None, **options: Any) -> Any:
    args = trl.SFTConfig(**base, **options)
    data = {"train_dataset": instructions(), "eval_dataset": instructions().select(range(16))}
    return trl.SFTTrainer(model(), args, **data, processing_class=tokenizer, peft_config=peft)


def dpo(tokenizer: Any, base: dict[str, Any], peft: LoraConfig | None = None, **options: Any) -> Any:
    args = trl.DPOConfig(**base, **options)
    data = {"train_dataset": preferences(), "eval_dataset": preferences().select(range(16))}
    reference = model() if peft is None else None  # or the same model with its adapters off
    return trl.DPOTrainer(model(), reference, args, **data, processing_class=tokenizer, peft_config=peft)


def reward(tokenizer: Any, base: dict[str, Any], **options: Any) -> Any:
    args = trl.RewardConfig(**base, **options)
    data = {"train_dataset": preferences(), "eval_dataset": preferences().select(range(16))}
    return trl.RewardTrainer(model(LlamaForSequenceClassification), args, **data, processing_class=tokenizer)


CASES = {
    "SFTTrainer": partial(sft, eval_strategy="epoch"),
    "SFTTrainer, packed": partial(sft, packing=True),
    "SFTTrainer, LoRA": partial(sft, peft=lora()),
    "DPOTrainer": partial(dpo, eval_strategy="epoch"),
    "DPOTrainer, LoRA with adapters off for reference": partial(dpo, peft=lora(), eval_strategy="epoch"),
    "RewardTrainer": partial(reward, eval_strategy="epoch"),
}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "SFTTrainer, LoRA" else [pytest.mark.slow]) for name in CASES]
)
def test_a_side_set_beside_trl(name, tokenizer, tmp_path):
    base = {
        "output_dir": str(tmp_path),
        "num_train_epochs": 2,
        "per_device_train_batch_size": 8,
        "learning_rate": 0.01,
        "logging_steps": 3,
        "max_length": 32,
        "bf16": False,
        "use_cpu": True,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
    }
    alone, watched = CASES[name](tokenizer, base), CASES[name](tokenizer, base)
    alone.train()
    ntps = watch(watched, data=side_set())
    watched.train()
    weights = zip(alone.model.state_dict().values(), watched.model.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in weights)
    assert ntps.history[0]["step"] == 0
    assert len(ntps.history) == 3
    assert all(row["eval_ntps_info/valid"] == 1 for row in ntps.history)
    assert ntps.history[0]["eval_ntps/score"] != ntps.history[-1]["eval_ntps/score"]
    assert own(alone) == own(watched)


def own(trainer: Any) -> list[dict[str, float]]:
    """What the Trainer logs by itself, but for times."""
    rows = [
        {k: v for k, v in row.items() if not any(part in k for part in ("ntps", "runtime", "per_second"))}
        for row in trainer.state.log_history
    ]
    return [row for row in rows if row.keys() - {"step", "epoch"}]
