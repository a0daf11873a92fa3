"""One evaluation of a classifier: losses, accuracies, moments of its trained layers, and pooled states."""

from itertools import pairwise

import torch
from torch.nn.functional import cross_entropy

from benchmarks.study.settings import VIEWED, Scale
from benchmarks.study.training.states import DEVICE, by_length, masked_mean
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.targets import read_labels


@torch.no_grad()
def evaluate(model, states, labels, scale: Scale, num_classes: int, epoch: float) -> dict:
    """Losses and accuracies; moments of validation windows, in parts for the last layer; pooled states."""
    model.eval()
    stage: dict = {"moments": {}, "parts": [], "pooled": {"val": {}, "test": {}}}
    logits = {split: torch.zeros(len(y), num_classes) for split, y in labels.items()}
    for split, indices in _groups(scale, labels, epoch):
        part = Moments.zeros(model.head.in_features, num_classes, DEVICE)
        for batch in by_length(states[split].lengths, indices):
            trunk, mask = states[split].batch(batch)
            layers = model.layers(trunk, mask)
            logits[split][batch] = model.head(masked_mean(layers[-1], mask)).cpu()
            targets = read_labels(labels[split][batch])
            if split == "val" or epoch == 0:
                accumulate_(part, layers[-1], targets, mask)
            if split == "val" and epoch in VIEWED:
                _views(stage["moments"], layers, targets, mask, num_classes)
            if split != "train":
                for layer in (-1, "pre"):
                    store = stage["pooled"][split].setdefault(layer, torch.zeros(len(labels[split]), trunk.shape[-1]))
                    store[batch] = masked_mean(layers[layer], mask).cpu()
        stage["parts"].append((split, part.to("cpu")))
    stage["moments"] = {view: sums.to("cpu") for view, sums in stage["moments"].items()}
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
    last = layers[-1]
    end = mask.sum(1) - 1
    frozen = min(layer for layer in layers if isinstance(layer, int) and layer >= 0)
    views = {layer: (hidden, mask) for layer, hidden in layers.items() if layer not in (-1, frozen)}
    views["last"] = (last[torch.arange(len(end), device=end.device), end].unsqueeze(1), mask[:, :1])
    views["no_first"] = (last[:, 1:], mask[:, 1:])
    for name, (hidden, valid) in views.items():
        sums = moments.setdefault(name, Moments.zeros(hidden.shape[-1], num_classes, DEVICE))
        accumulate_(sums, hidden, targets, valid)
