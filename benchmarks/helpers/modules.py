"""Language models as Lightning modules, each with the data of a validation epoch."""

import lightning.pytorch as pl
import torch
from peft import LoraConfig, get_peft_model
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassAccuracy
from transformers import AutoModel, AutoTokenizer, DataCollatorWithPadding, LlamaConfig, LlamaForSequenceClassification

from examples import offline


class LoraClassifier(pl.LightningModule):
    """The classifier of examples/finetune_lora.py, for validation alone: LoRA, mean pooling and a linear head."""

    def __init__(self, model, num_classes, adapted_layers):
        super().__init__()
        backbone = AutoModel.from_pretrained(model)
        depth = backbone.config.num_hidden_layers
        top = "|".join(map(str, range(depth - adapted_layers, depth)))
        lora = LoraConfig(r=8, lora_alpha=16, target_modules=rf".*\.({top})\..*(q|k|v)_proj")
        self.backbone = get_peft_model(backbone, lora)
        self.head = torch.nn.Linear(backbone.config.hidden_size, num_classes)
        self.accuracy = MulticlassAccuracy(num_classes, average="micro")

    def forward(self, input_ids, attention_mask):
        states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask.unsqueeze(-1)
        return self.head((states * mask).sum(1) / mask.sum(1))

    def validation_step(self, batch, batch_idx):
        self.accuracy(self(batch["input_ids"], batch["attention_mask"]), batch["labels"])
        self.log("val_accuracy", self.accuracy)


def smollm2(samples, window, batch_size):
    """SmolLM2-135M with adapters in its top six blocks, and BBC news."""
    path = offline.smollm2()
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.eos_token
    data = bbc_windows(tokenizer, window, samples)
    loader = DataLoader(data, batch_size=batch_size, collate_fn=DataCollatorWithPadding(tokenizer))
    return LoraClassifier(path, num_classes=5, adapted_layers=6), loader


def bbc_windows(tokenizer, size, limit):
    """``limit`` windows of at most ``size`` tokens of BBC news, at random."""
    texts, sections = offline.bbc_news()
    numbers = {section: number for number, section in enumerate(sorted(set(sections)))}
    rows = []
    for ids, section in zip(tokenizer(texts, verbose=False)["input_ids"], sections, strict=True):
        starts = range(0, len(ids), size)
        rows += [{"input_ids": ids[i : i + size], "labels": numbers[section]} for i in starts]
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    return [rows[i] for i in order[:limit].tolist()]


class Llama(pl.LightningModule):
    """Random weights of the shapes of Llama-3-8B, in bfloat16."""

    def __init__(self, **sizes):
        super().__init__()
        shapes = {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "vocab_size": 128256}
        heads = {"num_attention_heads": 32, "num_key_value_heads": 8}
        config = LlamaConfig(**{**shapes, **heads, **sizes}, num_labels=5, pad_token_id=0, dtype=torch.bfloat16)
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
