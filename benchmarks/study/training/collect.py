"""The hidden states of a model on a data set before any training, as moments, pooled states and the trunk's output."""

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.study.settings import Job, Scale
from benchmarks.study.texts.windows import SPLITS
from benchmarks.study.training.backbones import backbone
from benchmarks.study.training.data import data
from benchmarks.study.training.states import DEVICE, Ragged, by_length, hidden_states, listen_before_norm, masked_mean
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.targets import read_labels


@torch.no_grad()
def collect(job: Job, scale: Scale, progress) -> dict:
    """One pass over all windows: per layer moments (validation), pooled states (validation, test), trunk (all)."""
    model = backbone(job.model, seed=job.seed if job.weights == "random" else None).to(DEVICE)
    before_norm = listen_before_norm(model)
    split_at = len(model.layers) - job.top_blocks if job.top_blocks else 0
    texts = data(job, scale)
    moments: dict[int | str, Moments] = {}
    pooled: dict[str, dict[int | str, Tensor]] = {"val": {}, "test": {}}
    trunk = {}
    for split in SPLITS:
        chosen = texts.ids[split]
        labels = torch.tensor(texts.labels[split])
        ragged = Ragged(torch.zeros(sum(map(len, chosen)), model.config.hidden_size), [len(w) for w in chosen])
        for batch in progress(by_length(ragged.lengths, range(len(chosen))), f"{job.name} states {split}"):
            ids, mask = _padded([chosen[i] for i in batch])
            states = hidden_states(model, before_norm, input_ids=ids, attention_mask=mask)
            ragged.store(batch, states[split_at])
            if split == "train":
                continue
            targets = read_labels(labels[batch].to(DEVICE))
            for layer, hidden in states.items():
                kept = pooled[split].setdefault(layer, torch.zeros(len(labels), hidden.shape[-1]))
                kept[batch] = masked_mean(hidden, mask).cpu()
                if split == "val":
                    sums = moments.setdefault(layer, Moments.zeros(hidden.shape[-1], texts.num_classes, DEVICE))
                    accumulate_(sums, hidden, targets, mask)
        trunk[split] = (ragged.flat, ragged.lengths)
    moments = {layer: sums.to("cpu") for layer, sums in moments.items()}
    return {"moments": moments, "pooled": pooled, "trunk": trunk, "split_at": split_at}


def _padded(windows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, both ``(N, T)``, padded on the right."""
    ids = pad_sequence([torch.tensor(window) for window in windows], batch_first=True)
    mask = pad_sequence([torch.ones(len(window), dtype=torch.long) for window in windows], batch_first=True)
    return ids.to(DEVICE), mask.to(DEVICE)
