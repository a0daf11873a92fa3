"""Tiny models with tokenizers of their own, as folders, and texts that they can read."""

from __future__ import annotations

import random
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from ntps_lightning.prescreening.texts import TextSet, read_texts
from tests.support.models import tiny_config

TOPICS = {
    "sport": ["team", "match", "coach", "goal", "cheered", "won"],
    "money": ["bank", "rates", "shares", "fell", "profit", "market"],
    "kitchen": ["salt", "oven", "baked", "onion", "bread", "soup"],
}
FILLER = ["the", "a", "of", "and", "to", "in", "was", "it"]
WORDS = [word for words in TOPICS.values() for word in words] + FILLER


def rows(n: int = 120, seed: int = 0) -> list[dict[str, str]]:
    """Texts of 4 to 20 words, a third of which tell the topic, now and then another's."""
    draw = random.Random(seed)
    found = []
    for index in range(n):
        label = list(TOPICS)[index % 3]
        size = draw.randint(4, 20)
        topics = [label if draw.random() < 0.7 else draw.choice(list(TOPICS)) for _ in range(size)]
        words = [draw.choice(TOPICS[topic] if draw.random() < 0.4 else FILLER) for topic in topics]
        found.append({"text": " ".join(words), "label": label})
    return found


def texts(n: int = 120, **options) -> TextSet:
    return read_texts(rows(n), **options)


def word_tokenizer(pad: str | None = "<pad>", also: list[str] | None = None) -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.train_from_iterator(
        [" ".join(WORDS + (also or []))], trainers.WordLevelTrainer(special_tokens=["<unk>", "<s>", "<pad>"])
    )
    return PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", pad_token=pad)


def letter_tokenizer() -> PreTrainedTokenizerFast:
    letters = Tokenizer(models.BPE(unk_token="<unk>"))
    letters.pre_tokenizer = pre_tokenizers.Whitespace()
    letters.train_from_iterator(WORDS, trainers.BpeTrainer(vocab_size=45, special_tokens=["<unk>"]))
    return PreTrainedTokenizerFast(tokenizer_object=letters, unk_token="<unk>")


def llama(seed: int = 0, **overrides) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(tiny_config(max_position_embeddings=64, **overrides)).eval()


def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(1)
    config = GPT2Config(vocab_size=50, n_positions=64, n_embd=24, n_layer=3, n_head=2, bos_token_id=1, eos_token_id=1)
    return GPT2LMHeadModel(config).eval()


def llama_folder(folder: Path, seed: int = 0) -> Path:
    llama(seed).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder


def adapters_folder(folder: Path, base: Path, labels: int | None = None) -> Path:
    """LoRA that was trained a little; on a classifier of so many labels, where that is said."""
    torch.manual_seed(2)
    if labels is None:
        model, task = LlamaForCausalLM.from_pretrained(base), "CAUSAL_LM"
    else:
        model, task = LlamaForSequenceClassification.from_pretrained(base, num_labels=labels), "SEQ_CLS"
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type=task))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.5)
    adapted.save_pretrained(folder)
    return folder


def bert_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(BertConfig(**sizes, vocab_size=50)).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    return folder
