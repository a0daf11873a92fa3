"""Hidden states of windows of different lengths: kept, batched, pooled, and heard before the final norm."""

from dataclasses import dataclass

import torch
from torch import Tensor

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
