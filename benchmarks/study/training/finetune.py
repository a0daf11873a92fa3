"""LoRA on a classification task, evaluated as it goes."""

import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from benchmarks.study.settings import Job, Scale
from benchmarks.study.texts.windows import SPLITS
from benchmarks.study.training.classifier import Classifier
from benchmarks.study.training.data import data
from benchmarks.study.training.evaluate import evaluate
from benchmarks.study.training.states import DEVICE, Ragged


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
    stages = []
    losses = []
    started = time.perf_counter()
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
