"""Language models as Lightning modules, each with the data of a validation epoch."""

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, DataCollatorWithPadding, LlamaConfig, LlamaForSequenceClassification

from examples import offline
from examples.finetune_lora import LoraClassifier, windows


def smollm2(samples, window, batch_size):
    """SmolLM2-135M with adapters in its top six blocks, and BBC news."""
    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    texts, sections = offline.bbc_news()
    classes = sorted(set(sections))
    labels = [classes.index(section) for section in sections]
    data = windows(tokenizer, texts, labels, window, samples, torch.Generator().manual_seed(0))
    loader = DataLoader(data, batch_size=batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
    return LoraClassifier(path, num_classes=len(classes), adapted_layers=6, learning_rate=0.0), loader


class Llama(pl.LightningModule):
    """Random weights of the shapes of Llama-3-8B, in bfloat16."""

    def __init__(self, **sizes):
        super().__init__()
        shapes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
        others = {"num_labels": 5, "pad_token_id": 0, "dtype": torch.bfloat16}
        config = LlamaConfig(**{**shapes, **heads, **sizes}, **others)
        self.model = LlamaForSequenceClassification(config).bfloat16()

    def validation_step(self, batch, batch_idx):
        self.log("val_loss", self.model(**batch).loss)


def llama(samples, length, batch_size, **sizes):
    """Random weights and random tokens."""
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        module = Llama(**sizes)
    vocabulary = module.model.config.vocab_size
    data = [{"input_ids": torch.randint(1, vocabulary, (length,)), "labels": i % 5} for i in range(samples)]
    return module, DataLoader(data, batch_size=batch_size)
