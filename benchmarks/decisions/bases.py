"""A base model on a set: one pass for the trunk's output, which runs need, and for the row of all layers."""

from dataclasses import asdict

import torch
from torch.nn.utils.rnn import pad_sequence

from benchmarks.decisions.label_counts import label_counts
from benchmarks.decisions.measures import candidates, details, metric, tested
from benchmarks.decisions.settings import TOP_BLOCKS, Base, Scale
from benchmarks.decisions.windows import Labelled, labelled
from benchmarks.study.texts.windows import SPLITS
from benchmarks.study.training.backbones import backbone
from benchmarks.study.training.states import Ragged, by_length, hidden_states, listen_before_norm, masked_mean


@torch.no_grad()
def base_pass(base: Base, scale: Scale, progress, *, every_layer: bool = True) -> dict:
    """What one pass over all windows gives.

    Returns:
        ``trunk[split]``, what runs start from; with ``every_layer`` also ``metrics[layer]``, ``pooled[split][layer]``,
        and the validation windows' states in the ``chosen`` layers.

    """
    model = backbone(base.model)
    before_norm = listen_before_norm(model)
    depth = len(model.layers)
    texts = labelled(base.data, base.model, scale)
    found: dict = {"trunk": {}, "metrics": {}, "pooled": {split: {} for split in SPLITS}, "chosen": {}}
    for split in SPLITS:
        ids = texts.windows.ids[split]
        trunk = Ragged(torch.zeros(sum(map(len, ids)), model.config.hidden_size), [len(window) for window in ids])
        for batch in progress(by_length(trunk.lengths, range(len(ids))), f"{base.name}, {split}"):
            tokens, mask = _padded([ids[i] for i in batch])
            states = hidden_states(model, before_norm, input_ids=tokens, attention_mask=mask)
            trunk.store(batch, states[depth - TOP_BLOCKS[base.model]])
            if every_layer:
                del states["pre"]
                _add(found, split, batch, states, mask, texts, middle=depth // 2)
        found["trunk"][split] = (trunk.flat, trunk.lengths)
    return found


def _padded(windows: list[list[int]]):
    ids = pad_sequence([torch.tensor(window) for window in windows], batch_first=True)
    return ids, pad_sequence([torch.ones(len(window), dtype=torch.long) for window in windows], batch_first=True)


def _add(found: dict, split: str, batch: list[int], states: dict, mask, texts: Labelled, middle: int) -> None:
    labels = texts.windows.labels[split]
    groups = torch.tensor(texts.windows.texts[split])[batch]
    for layer, hidden in states.items():
        pooled = found["pooled"][split].setdefault(layer, torch.zeros(len(labels), hidden.shape[-1]))
        pooled[batch] = masked_mean(hidden, mask)
        if split != "val":
            continue
        chosen = layer in (-1, middle)
        if layer not in found["metrics"]:
            found["metrics"][layer] = metric(hidden.shape[-1], texts.windows.num_classes, controls=chosen)
        truth = torch.tensor(labels)[batch]
        found["metrics"][layer].update(hidden, truth, mask, sample_ids=torch.tensor(batch), group_ids=groups)
        if chosen:
            lengths = [len(window) for window in texts.windows.ids["val"]]
            empty = Ragged(torch.zeros(sum(lengths), hidden.shape[-1]), lengths)
            found["chosen"].setdefault(layer, empty).store(batch, hidden)


def base_row(base: Base, scale: Scale, found: dict, progress) -> dict:
    """Numbers of all layers, and what is asked of the chosen ones."""
    texts = labelled(base.data, base.model, scale)
    num_classes = texts.windows.num_classes
    labels = texts.windows.labels
    layers = {}
    order = {}
    for layer, sums in progress(list(found["metrics"].items()), f"{base.name}, layers"):
        chosen = layer in found["chosen"]
        said = details(sums, whole_curve=chosen)
        train, test = ((found["pooled"][split][layer], labels[split]) for split in ("val", "test"))
        layers[layer] = candidates(sums, said) | {"test": tested(train, test, num_classes)}
        if chosen:
            order[layer] = said.held_out.curves
    counts = {
        layer: label_counts(states, {split: found["pooled"][split][layer] for split in SPLITS}, texts, progress)
        for layer, states in found["chosen"].items()
    }
    return {"base": asdict(base), "num_classes": num_classes, "layers": layers, "order": order, "label_counts": counts}
