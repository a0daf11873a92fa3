"""LoRA on a classification task, with the moments of the changing layers at every evaluation."""

import time
from itertools import pairwise

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.study.settings import VIEWED, Job, Scale
from benchmarks.study.texts.readers import SPLITS
from benchmarks.study.training.backbones import backbone, keep_top
from benchmarks.study.training.collect import (
    DEVICE,
    Ragged,
    by_length,
    data,
    empty_moments,
    hidden_states,
    listen_before_norm,
    masked_mean,
    on_cpu,
)
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.targets import encode_targets


class Classifier(nn.Module):
    """The top blocks, mean pooling and a linear head."""

    def __init__(self, job: Job, scale: Scale, num_classes: int):
        super().__init__()
        base = backbone(job.model, seed=job.seed if job.weights == "random" else None)
        self.depth = len(base.layers)
        self.blocks = keep_top(base, self.depth - job.top_blocks if job.top_blocks else 0)
        self.before_norm = listen_before_norm(self.blocks)
        torch.manual_seed(job.seed)
        if job.trained == "full":
            self.blocks.requires_grad_(True)
        else:
            adapters = LoraConfig(
                r=scale.lora_rank,
                lora_alpha=scale.lora_rank,
                lora_dropout=0.05,
                target_modules=["q_proj", "k_proj", "v_proj"],
            )
            self.wrapped = get_peft_model(self.blocks, adapters)
        self.head = nn.Linear(base.config.hidden_size, num_classes)

    def layers(self, trunk, mask):
        """States of the trained layers, named by their number in the whole model, -1 after the final norm."""
        states = hidden_states(self.blocks, self.before_norm, inputs_embeds=trunk, attention_mask=mask)
        first = self.depth - len(self.blocks.layers)
        return {first + layer if isinstance(layer, int) and layer >= 0 else layer: s for layer, s in states.items()}

    def forward(self, trunk, mask):
        self.before_norm.clear()
        hidden = self.blocks(inputs_embeds=trunk, attention_mask=mask, use_cache=False).last_hidden_state
        return self.head(masked_mean(hidden, mask))


def finetune(job: Job, scale: Scale, trunk: dict, progress) -> list[dict]:
    """Train and evaluate; one dictionary per evaluation, the first from before the first step."""
    texts = data(job, scale)
    states = {split: Ragged(*trunk[split]) for split in SPLITS}
    labels = {split: torch.tensor(texts.labels[split], device=DEVICE) for split in SPLITS}
    model = Classifier(job, scale, texts.num_classes).to(DEVICE)
    steps_per_epoch = -(-scale.train // scale.batch_size)
    due = {round(epoch * steps_per_epoch): epoch for epoch in scale.evaluations}
    last = max(due)
    train = _training(model, job, warmup=max(1, round(0.05 * last)))
    batches = _batches(scale, job.seed)
    stages, losses, started = [], [], time.perf_counter()
    for step in progress(range(last + 1), job.name):
        if step in due:
            stage = evaluate(model, states, labels, scale, texts.num_classes, due[step])
            stage |= {"step": step, "epoch": due[step], "seconds": time.perf_counter() - started}
            stages.append(stage | {"train_loss": sum(losses) / len(losses) if losses else None})
            losses = []
        if step < last:
            batch = next(batches)
            losses.append(train(*states["train"].batch(batch), labels["train"][batch]))
    return stages


def _batches(scale: Scale, seed: int):
    """Indices of training windows, shuffled anew every epoch."""
    order = torch.Generator().manual_seed(seed)
    while True:
        for batch in reversed(torch.randperm(scale.train, generator=order).split(scale.batch_size)):
            yield batch.tolist()


def _training(model: Classifier, job: Job, warmup: int):
    """A function that makes one step of AdamW on a batch and returns its loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=1e-5)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))

    def train(trunk, mask, target) -> float:
        model.train()
        loss = cross_entropy(model(trunk, mask), target)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        return loss.item()

    return train


@torch.no_grad()
def evaluate(model, states, labels, scale: Scale, num_classes: int, epoch: float) -> dict:
    """Losses and accuracies; moments of validation windows, in parts for the last layer; pooled states."""
    model.eval()
    stage: dict = {"moments": {}, "parts": [], "pooled": {"val": {}, "test": {}}}
    logits = {split: torch.zeros(len(y), num_classes) for split, y in labels.items()}
    for split, indices in _groups(scale, labels, epoch):
        part = empty_moments(model.head.in_features, num_classes)
        for batch in by_length(states[split].lengths, indices):
            trunk, mask = states[split].batch(batch)
            layers = model.layers(trunk, mask)
            logits[split][batch] = model.head(masked_mean(layers[-1], mask)).cpu()
            targets = encode_targets(labels[split][batch], num_classes)
            if split == "val" or epoch == 0:
                accumulate_(part, layers[-1], targets, mask)
            if split == "val" and epoch in VIEWED:
                _views(stage["moments"], layers, targets, mask, num_classes)
            if split != "train":
                for layer in (-1, "pre"):
                    store = stage["pooled"][split].setdefault(layer, torch.zeros(len(labels[split]), trunk.shape[-1]))
                    store[batch] = masked_mean(layers[layer], mask).cpu()
        stage["parts"].append((split, on_cpu(part)))
    stage["moments"] = {view: on_cpu(sums) for view, sums in stage["moments"].items()}
    for split in ("val", "test"):
        truth = labels[split].cpu()
        stage[f"{split}_loss"] = float(cross_entropy(logits[split], truth))
        stage[f"{split}_accuracy"] = float((logits[split].argmax(1) == truth).double().mean())
    return stage


def _groups(scale: Scale, labels: dict, epoch: float) -> list[tuple[str, range]]:
    """Validation windows in their parts, test windows, and before training those that will be trained on."""
    bounds = [0, *torch.tensor(scale.val_parts).cumsum(0).tolist()]
    groups = [("val", range(a, b)) for a, b in pairwise(bounds)] + [("test", range(len(labels["test"])))]
    return groups + ([("train", range(len(labels["train"])))] if epoch == 0 else [])


def _views(moments: dict, layers: dict, targets, mask, num_classes: int) -> None:
    """Every other trained layer as it is; of the last one also its last token alone, and all but its first token."""
    last, end = layers[-1], mask.sum(1) - 1
    frozen = min(layer for layer in layers if isinstance(layer, int) and layer >= 0)
    views = {layer: (hidden, mask) for layer, hidden in layers.items() if layer not in (-1, frozen)}
    views["last"] = (last[torch.arange(len(end), device=end.device), end].unsqueeze(1), mask[:, :1])
    views["no_first"] = (last[:, 1:], mask[:, 1:])
    for name, (hidden, valid) in views.items():
        sums = moments.setdefault(name, empty_moments(hidden.shape[-1], num_classes))
        accumulate_(sums, hidden, targets, valid)
