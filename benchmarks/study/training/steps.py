"""The steps of a run, with evaluations between them."""

import time

import torch
from torch import nn
from torch.nn.functional import cross_entropy


def stages(model, states, labels, evaluate, evaluations, *, learning_rate, batch_size, seed, progress) -> list[dict]:
    """Train and evaluate; one dictionary per evaluation, the first from before the first step.

    ``states`` and ``labels`` are those of the training windows, ``evaluate(epoch)`` is what an evaluation says, and
    ``evaluations`` are epochs, of which the last one ends the run.

    """
    steps_per_epoch = -(-len(labels) // batch_size)
    due = {round(epoch * steps_per_epoch): epoch for epoch in evaluations}
    last = max(due)
    train = _training(model, learning_rate, warmup=max(1, round(0.05 * last)))
    batches = _batches(len(labels), batch_size, seed)
    found = []
    losses = []
    started = time.perf_counter()
    for step in progress(range(last + 1)):
        if step in due:
            stage = evaluate(due[step])
            stage |= {"step": step, "epoch": due[step], "seconds": time.perf_counter() - started}
            found.append(stage | {"train_loss": sum(losses) / len(losses) if losses else None})
            losses = []
        if step < last:
            batch = next(batches)
            losses.append(train(*states.batch(batch), labels[batch]))
    return found


def _batches(count: int, size: int, seed: int):
    """Indices of training windows, shuffled anew every epoch."""
    order = torch.Generator().manual_seed(seed)
    while True:
        for batch in reversed(torch.randperm(count, generator=order).split(size)):
            yield batch.tolist()


def _training(model: nn.Module, learning_rate: float, warmup: int):
    """A function that makes one step of AdamW on a batch and returns its loss."""
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=1e-5)
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
