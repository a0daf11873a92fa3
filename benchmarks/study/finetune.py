"""LoRA on a classification task, with the moments of the changing layers at every evaluation."""

import time
from itertools import pairwise

import torch
from backbones import backbone, keep_top
from collect import (
    DEVICE,
    Ragged,
    by_length,
    data,
    empty_moments,
    hidden_states,
    listen_before_norm,
    masked_mean,
)
from peft import LoraConfig, get_peft_model
from settings import VIEWED, Job, Scale
from texts import SPLITS
from torch import nn
from torch.nn.functional import cross_entropy

from ntps_lightning.functional.moments import accumulate_, encode_targets


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
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=job.learning_rate, weight_decay=1e-5)
    steps_per_epoch = -(-scale.train // scale.batch_size)
    due = [round(e * steps_per_epoch) for e in scale.evaluations]
    warmup = max(1, round(0.05 * due[-1]))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / warmup))
    order = torch.Generator().manual_seed(job.seed)
    stages, losses, queue, started = [], [], [], time.perf_counter()
    for step in progress(range(due[-1] + 1), job.name):
        if step in due:
            epoch = scale.evaluations[due.index(step)]
            stage = evaluate(model, states, labels, scale, texts.num_classes, epoch)
            stage |= {"step": step, "epoch": epoch}
            stage |= {"train_loss": sum(losses) / len(losses) if losses else None}
            stages.append(stage | {"seconds": time.perf_counter() - started})
            losses = []
        if step == due[-1]:
            break
        if not queue:
            queue = list(torch.randperm(scale.train, generator=order).split(scale.batch_size))
        batch = queue.pop().tolist()
        model.train()
        loss = cross_entropy(model(*states["train"].batch(batch)), labels["train"][batch])
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        losses.append(loss.item())
    return stages


@torch.no_grad()
def evaluate(model, states, labels, scale: Scale, num_classes: int, epoch: float) -> dict:
    """Losses and accuracies; moments of validation windows, in parts for the last layer; pooled states."""
    model.eval()
    stage: dict = {"moments": {}, "parts": [], "pooled": {"val": {}, "test": {}}}
    bounds = [0, *torch.tensor(scale.val_parts).cumsum(0).tolist()]
    groups = [("val", range(a, b)) for a, b in pairwise(bounds)]
    groups += [("test", range(len(labels["test"])))]
    groups += [("train", range(len(labels["train"])))] if epoch == 0 else []
    hits = {split: [0.0, 0.0, 0] for split in SPLITS}
    for split, indices in groups:
        part = None
        for batch in by_length(states[split].lengths, indices):
            trunk, mask = states[split].batch(batch)
            layers = model.layers(trunk, mask)
            target = labels[split][batch]
            logits = model.head(masked_mean(layers[-1], mask))
            total = hits[split]
            total[0] += float(cross_entropy(logits, target, reduction="sum"))
            total[1] += int((logits.argmax(1) == target).sum())
            total[2] += len(batch)
            targets = encode_targets(target, num_classes)
            layers.pop(min(k for k in layers if isinstance(k, int) and k >= 0))  # the trunk's own output never changes
            part = part or empty_moments(layers[-1].shape[-1], num_classes)
            if split == "val" or epoch == 0:
                accumulate_(part, layers[-1], targets, mask)
            if split != "train":
                for layer in (-1, "pre"):
                    store = stage["pooled"][split].setdefault(layer, torch.zeros(len(labels[split]), trunk.shape[-1]))
                    store[batch] = masked_mean(layers[layer], mask).cpu()
            if split == "val" and epoch in VIEWED:
                _variants(stage["moments"], layers, targets, mask, num_classes)
        stage["parts"].append((split, part))
    for split, (loss, hit, count) in hits.items():
        if count:
            stage[f"{split}_loss"], stage[f"{split}_accuracy"] = loss / count, hit / count
    return stage


def _variants(moments: dict, layers: dict, targets, mask, num_classes: int) -> None:
    """Every other layer as it is; of the last one also its last token alone, and all but its first token."""
    last = layers[-1]
    end = mask.sum(1) - 1
    views = {layer: (hidden, mask) for layer, hidden in layers.items() if layer != -1}
    views["last"] = (last[torch.arange(len(end), device=end.device), end].unsqueeze(1), mask[:, :1])
    views["no_first"] = (last[:, 1:], mask[:, 1:])
    for name, (hidden, valid) in views.items():
        sums = moments.setdefault(name, empty_moments(hidden.shape[-1], num_classes))
        accumulate_(sums, hidden, targets, valid)
