"""A base model on a task: what the package says of the training texts, and how their probe reads the test texts."""

import torch
from torch import Tensor

from benchmarks.decisions.measures import candidates, details, ridge_probe
from benchmarks.gain.texts import Texts
from benchmarks.study.training.backbones import backbone
from benchmarks.study.training.states import DEVICE, hidden_states, listen_before_norm, masked_mean
from ntps_lightning import NextTokenPerceptionScore

BATCH = 256
# All training texts, where 2,048 are usual: the curve of these would not reach twice 4,000 labels.
KEPT = 4096


def base_row(model: str, texts: Texts) -> dict:
    """Numbers of the last and the middle layer, and the accuracy of the probe."""
    found, pooled = base_pass(model, texts)
    probe = ridge_probe(pooled["train"], texts.train.labels.tolist(), texts.num_classes)
    predicted = probe.predict(pooled["test"].double().numpy()).argmax(1)
    right = torch.from_numpy(predicted) == texts.test.labels.cpu()
    return {
        "num_classes": texts.num_classes,
        "num_train": len(texts.train),
        "num_test": len(texts.test),
        "probe_accuracy": float(right.double().mean()),
        "layers": {name: numbers(metric, len(texts.train)) for name, metric in found.items()},
    }


@torch.no_grad()
def base_pass(model: str, texts: Texts) -> tuple[dict[str, NextTokenPerceptionScore], dict[str, Tensor]]:
    """One forward pass: a metric of the training windows by layer, and the last layer's pooled states by split."""
    base = backbone(model).to(DEVICE)
    heard = listen_before_norm(base)
    layers = {"last": -1, "middle": len(base.layers) // 2}
    sizes = (base.config.hidden_size, texts.num_classes)
    found = {name: NextTokenPerceptionScore(*sizes, kept=KEPT).to(DEVICE) for name in layers}
    pooled: dict[str, list[Tensor]] = {"train": [], "test": []}
    for split, windows in (("train", texts.train), ("test", texts.test)):
        for batch in torch.arange(len(windows)).split(BATCH):
            ids, mask = trimmed(*windows.batch(batch))
            states = hidden_states(base, heard, input_ids=ids, attention_mask=mask)
            pooled[split].append(masked_mean(states[-1], mask).cpu())
            for name, layer in layers.items() if split == "train" else ():
                found[name].update(states[layer], windows.labels[batch], mask, sample_ids=batch)
    return found, {split: torch.cat(parts) for split, parts in pooled.items()}


def trimmed(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Without columns that are padding alone."""
    longest = int(mask.sum(1).max())
    return ids[:, :longest], mask[:, :longest]


def numbers(metric: NextTokenPerceptionScore, num_labels: int) -> dict:
    """What the package says, and the accuracy that it predicts of twice as many labels.

    ``predicted_accuracy`` has the accuracy, its standard error and the number of labels: twice as many, or the most
    that the learning curve reaches.

    """
    said = details(metric, whole_curve=True)
    found = candidates(metric, said)
    curve = said.held_out.learning_curve
    size = min(2 * num_labels, curve.farthest) if curve else 0
    # A prediction needs a curve of three sizes, which toys have not.
    reaches = curve is not None and len(curve.r2) >= 3
    return found | {"predicted_accuracy": [*curve.predict_accuracy(size), size] if reaches else None}
