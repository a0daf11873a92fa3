"""The hidden states of a model on a data set before any training, as moments, pooled states and the trunk's output."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.study.settings import Job, Scale
from benchmarks.study.texts.readers import SPLITS, Windows, windows
from benchmarks.study.training.backbones import backbone, tokenizer
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.moments import Moments, moment_shapes
from ntps_lightning.functional.targets import encode_targets

BATCH = 64
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass
class Ragged:
    """Hidden states of windows of different lengths: ``flat`` (tokens, d), row ``offsets[i]`` on is window i."""

    flat: Tensor
    lengths: list[int]

    def __post_init__(self):
        self.offsets = [0, *torch.tensor(self.lengths).cumsum(0).tolist()]

    def store(self, indices: list[int], states: Tensor) -> None:
        """Keep the valid states of a padded batch."""
        for row, i in enumerate(indices):
            self.flat[self.offsets[i] : self.offsets[i + 1]] = states[row, : self.lengths[i]].cpu()

    def batch(self, indices: list[int]) -> tuple[Tensor, Tensor]:
        """Padded states ``(N, T, d)`` and their mask ``(N, T)``."""
        longest = max(self.lengths[i] for i in indices)
        states = self.flat.new_zeros(len(indices), longest, self.flat.shape[1])
        mask = torch.zeros(len(indices), longest, dtype=torch.long)
        for row, i in enumerate(indices):
            states[row, : self.lengths[i]] = self.flat[self.offsets[i] : self.offsets[i + 1]]
            mask[row, : self.lengths[i]] = 1
        return states.to(DEVICE), mask.to(DEVICE)


def by_length(lengths: list[int], indices) -> list[list[int]]:
    """Batches of windows of like length, so that little is padding."""
    ordered = sorted(indices, key=lambda i: lengths[i])
    return [ordered[i : i + BATCH] for i in range(0, len(ordered), BATCH)]


def empty_moments(d: int, num_classes: int) -> Moments:
    """Sums of nothing."""
    shapes = moment_shapes(d, num_classes)
    return Moments(**{k: torch.zeros(s, dtype=torch.float64, device=DEVICE) for k, s in shapes.items()})


def on_cpu(moments: Moments) -> Moments:
    """The same sums, for keeping."""
    return Moments(**{name: value.cpu() for name, value in vars(moments).items()})


def masked_mean(hidden: Tensor, mask: Tensor) -> Tensor:
    """``(N, d)`` mean of the valid tokens."""
    return (hidden * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)


def hidden_states(model, before_norm: list, **inputs) -> dict[int | str, Tensor]:
    """Every layer's states, -1 after the final norm and "pre" before it."""
    outputs = model(**inputs, output_hidden_states=True, use_cache=False)
    *layers, last = outputs.hidden_states
    return {**dict(enumerate(layers)), "pre": before_norm.pop(), -1: last}


def listen_before_norm(model) -> list:
    """A list that each forward pass appends the final norm's input to."""
    heard: list[Tensor] = []
    model.norm.register_forward_pre_hook(lambda _, args: heard.append(args[0]))
    return heard


def data(job: Job, scale: Scale) -> Windows:
    """The windows of a job."""
    sizes = (scale.train, scale.val, scale.test)
    return windows(job.data, tokenizer(job.model), sizes, scale.length, job.labelling)


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
        chosen, labels = texts.ids[split], torch.tensor(texts.labels[split])
        ragged = Ragged(torch.zeros(sum(map(len, chosen)), model.config.hidden_size), [len(w) for w in chosen])
        for batch in progress(by_length(ragged.lengths, range(len(chosen))), f"{job.name} states {split}"):
            ids, mask = _padded([chosen[i] for i in batch])
            states = hidden_states(model, before_norm, input_ids=ids, attention_mask=mask)
            ragged.store(batch, states[split_at])
            if split == "train":
                continue
            targets = encode_targets(labels[batch].to(DEVICE), texts.num_classes)
            for layer, hidden in states.items():
                kept = pooled[split].setdefault(layer, torch.zeros(len(labels), hidden.shape[-1]))
                kept[batch] = masked_mean(hidden, mask).cpu()
                if split == "val":
                    sums = moments.setdefault(layer, empty_moments(hidden.shape[-1], texts.num_classes))
                    accumulate_(sums, hidden, targets, mask)
        trunk[split] = (ragged.flat, ragged.lengths)
    moments = {layer: on_cpu(sums) for layer, sums in moments.items()}
    return {"moments": moments, "pooled": pooled, "trunk": trunk, "split_at": split_at}


def _padded(windows: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Ids and mask, both ``(N, T)``, padded on the right."""
    ids = pad_sequence([torch.tensor(window) for window in windows], batch_first=True)
    mask = pad_sequence([torch.ones(len(window), dtype=torch.long) for window in windows], batch_first=True)
    return ids.to(DEVICE), mask.to(DEVICE)
