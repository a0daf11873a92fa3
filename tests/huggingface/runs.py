"""A tiny run of Hugging Face's Trainer, as users have it before the one line; and what measures it otherwise."""

from __future__ import annotations

import os
from copy import deepcopy
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification, Trainer, TrainerCallback, TrainingArguments

from ntps_lightning import NTPSMonitor
from ntps_lightning.functional.details import NTPSDetails
from tests.support.models import Padding, samples, tiny_config

Rows = list[tuple[list[int], int]]

TRAINED = samples(48)
EVALUATED = samples(61, seed=1)
# The same task as rows of a side set.
BESIDE = [{"input_ids": ids, "label": label} for ids, label in samples(60, seed=2)]


def make_model(**config: Any) -> nn.Module:
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_dropout=0.1, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
    return get_peft_model(LlamaForSequenceClassification(tiny_config(**config)), lora)


def make_trainer(
    tmp_path: Any,
    *,
    kind: type[Trainer] = Trainer,
    model: nn.Module | None = None,
    train: Any = TRAINED,
    evaluated: Any = EVALUATED,
    collate: Any = None,
    callbacks: list[TrainerCallback] | None = None,
    options: dict[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """Two epochs of three steps, an evaluation after each; ``options`` are the Trainer's own."""
    quiet = {
        "disable_tqdm": True,
        "report_to": "none",
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "num_train_epochs": 2,
        "per_device_train_batch_size": 16,
        "per_device_eval_batch_size": 16,
        "learning_rate": 0.02,
        "eval_strategy": "epoch",
        "save_strategy": "no",
        "logging_strategy": "epoch",
    }
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)  # transformers 4 leaves it to the Trainers that follow
    return kind(
        model=model or make_model(),
        args=TrainingArguments(output_dir=str(tmp_path), **quiet | arguments),
        train_dataset=train,
        eval_dataset=evaluated,
        data_collator=collate or Padding(),
        callbacks=callbacks,
        **options or {},
    )


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: each.detach().clone() for name, each in trainer.model.state_dict().items()}


def measure(model: nn.Module, rows: Rows, layers: Any = -1) -> dict[int, NTPSDetails]:
    """In a bare loop, of a copy, in batches of another size."""
    model = deepcopy(model).eval()
    monitor = NTPSMonitor(model, layers=layers)
    for start in range(0, len(rows), 7):
        batch = Padding()(rows[start : start + 7])
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
            model(**batch)
    return monitor.compute()


class Measured(TrainerCallback):
    """Measures in a bare loop what an evaluation had, right after it, and before the first step."""

    def __init__(self, rows: Rows, layers: Any = -1) -> None:
        self.rows = rows
        self.layers = layers
        self.before: dict[int, NTPSDetails] = {}
        self.found: list[dict[int, NTPSDetails]] = []
        self.metrics: list[dict[str, float]] = []

    def on_train_begin(self, args, state, control, model=None, **kwargs):
        self.before = measure(model, self.rows, self.layers)

    def on_evaluate(self, args, state, control, model=None, metrics=None, **kwargs):
        self.found.append(measure(model, self.rows, self.layers))
        self.metrics.append(dict(metrics))


class Logs(TrainerCallback):
    """What every callback is told when anything is logged, and at which step."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, dict[str, float]]] = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append((state.global_step, dict(logs)))


def ours(values: dict[str, Any], prefix: str = "eval_ntps") -> dict[str, Any]:
    return {key: value for key, value in values.items() if key.startswith(prefix)}


def rows_of(trainer: Trainer, key: str = "eval_ntps/score") -> list[dict[str, Any]]:
    """Of Trainer's own log those that have a key."""
    return [row for row in trainer.state.log_history if key in row]


def numbers(details: dict[int, NTPSDetails], prefix: str = "eval_ntps") -> dict[str, float]:
    """Those of the highest layer, by what they are called in logs, spelled out."""
    top = details[max(details)]
    held_out = top.held_out
    return {
        f"{prefix}/score": top.score,
        f"{prefix}/null": top.null,
        f"{prefix}/lift": top.lift,
        f"{prefix}/captured_r2": held_out.captured_r2.value,
        f"{prefix}_se/captured_r2": held_out.captured_r2.se,
        f"{prefix}/probe_r2": held_out.probe_r2.value,
        f"{prefix}/probe_accuracy": held_out.probe_accuracy.value,
        f"{prefix}_info/samples": top.num_samples,
        f"{prefix}_info/k": top.k,
    }
