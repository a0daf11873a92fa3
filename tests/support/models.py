"""A tiny language model, a module that finetunes it, and data: what a user's existing run looks like."""

from __future__ import annotations

import inspect
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import Callback
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import BertConfig, BertForSequenceClassification, LlamaConfig, LlamaForSequenceClassification

from tests.support import oracle

HIDDEN, LAYERS, CLASSES, VOCAB = 16, 2, 3, 50
# How a checkpoint is resumed from: before Lightning 2.6 fit() does not ask.
SAFELY = {"weights_only": True} if "weights_only" in inspect.signature(pl.Trainer.fit).parameters else {}


def tiny_config(**overrides: Any) -> LlamaConfig:
    options = {
        "vocab_size": VOCAB,
        "hidden_size": HIDDEN,
        "intermediate_size": 32,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 2,
        "num_labels": CLASSES,
        "pad_token_id": 0,
    }
    return LlamaConfig(**options | overrides)


class LoraModule(pl.LightningModule):
    """An ordinary module; knows nothing of NTPS."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__()
        self.learning_rate = learning_rate
        torch.manual_seed(0)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
        self.model = get_peft_model(LlamaForSequenceClassification(tiny_config()), lora)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return self.model(**batch).loss

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        self.log("val_loss", self.model(**batch).loss, batch_size=len(batch["labels"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam((p for p in self.parameters() if p.requires_grad), lr=self.learning_rate)


class EncoderModule(LoraModule):
    """The same with BERT, whose attention looks ahead."""

    def __init__(self, learning_rate: float = 0.02) -> None:
        super().__init__(learning_rate)
        sizes = {"hidden_size": HIDDEN, "intermediate_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 2}
        self.model = BertForSequenceClassification(BertConfig(**sizes | {"vocab_size": VOCAB, "num_labels": CLASSES}))


class Recording(LoraModule):
    """Saves the hidden states of its own forward pass, for the oracle."""

    def on_validation_epoch_start(self):
        self.epochs = [*getattr(self, "epochs", []), []]

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.record(self.model(**batch, output_hidden_states=True), batch)

    def record(self, output, batch):
        states = [h.detach().double().numpy() for h in output.hidden_states]
        for i, mask in enumerate(batch["attention_mask"].bool().numpy()):
            self.epochs[-1].append(([h[i][mask] for h in states], int(batch["labels"][i])))

    def score(self, epoch, layer=-1, k=3, **options):
        states, labels = zip(*self.epochs[epoch], strict=True)
        targets = oracle.one_hot(labels, CLASSES)
        return oracle.ntps([s[layer] for s in states], targets, k, CLASSES - 1, ridge=0.1, **options)


class Seen(Callback):
    """What monitors see at the end of each validation."""

    def __init__(self):
        self.at_train_start, self.epochs = None, []

    def on_train_start(self, trainer, pl_module):
        self.at_train_start = dict(trainer.callback_metrics)

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self.epochs.append({k: float(v) for k, v in trainer.callback_metrics.items()})


class Padding:
    """Pads token lists into a batch; a class, so that it pickles."""

    def __init__(self, side: str = "right") -> None:
        self.side = side

    def __call__(self, rows: list[tuple[list[int], int]]) -> dict[str, Tensor]:
        ids = [torch.tensor(tokens) for tokens, _ in rows]
        pad = lambda t: nn.utils.rnn.pad_sequence(t, batch_first=True, padding_side=self.side)  # noqa: E731
        return {
            "input_ids": pad(ids),
            "attention_mask": pad([torch.ones_like(i) for i in ids]),
            "labels": torch.tensor([label for _, label in rows]),
        }


def samples(n: int, seed: int = 0) -> list[tuple[list[int], int]]:
    """Token lists of 2 to 9 tokens whose class is told by which third of the vocabulary they favour."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(n):
        label = int(torch.randint(CLASSES, (), generator=generator))
        weights = torch.ones(VOCAB)
        weights[0] = 0
        weights[1 + label :: CLASSES] += 3
        length = int(torch.randint(2, 10, (), generator=generator))
        rows.append((torch.multinomial(weights, length, replacement=True, generator=generator).tolist(), label))
    return rows


def loader(n: int = 90, seed: int = 0, batch_size: int = 16, **options: Any) -> DataLoader:
    return DataLoader(samples(n, seed), batch_size=batch_size, collate_fn=Padding(), **options)


def make_trainer(tmp_path: Any, **options: Any) -> pl.Trainer:
    quiet = {
        "accelerator": "cpu",
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": False,
        "default_root_dir": tmp_path,
        "max_epochs": 3,
    }
    return pl.Trainer(**quiet | options)


def hooks_on(module: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
