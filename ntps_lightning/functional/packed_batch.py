"""A padded batch without its padding: all first tokens, all second ones, ... Worked out once, for all layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import accumulate, groupby

import torch
from torch import Tensor

# What is worked on at once: a step's samples are the least that scratch memory holds.
_MAX_SAMPLES = 1024
_MAX_TOKENS = 2**15


@dataclass(frozen=True)
class Part:
    """Some samples of a batch. Step t holds the tokens at position t, from 0, those of the longest sample first.

    So the samples that reach step t are the first ``counts[t]`` of any step before, and no padding is stored.

    Args:
        samples: ``(N,)`` indices of the samples, the longest first.
        lengths: ``(N,)`` number of valid tokens of each, in that order.
        last: ``(N,)`` column of the last valid token of each, in that order.
        counts: number of tokens of each step.
        position: ``(sum(counts),)`` the step of every token.
        index: ``(sum(counts),)`` its flat index among all ``(N * T)``; ``None`` where there is no padding.

    """

    samples: Tensor
    lengths: Tensor
    last: Tensor
    counts: list[int]
    position: Tensor
    index: Tensor | None = None

    def to(self, device: torch.device) -> Part:
        """The same on another device."""
        return replace(
            self,
            samples=self.samples.to(device),
            lengths=self.lengths.to(device),
            last=self.last.to(device),
            position=self.position.to(device),
            index=None if self.index is None else self.index.to(device),
        )

    def gather(self, hidden_states: Tensor, start: int, end: int) -> Tensor:
        """The tokens of steps ``[start, end)`` of ``(N, T, d)``: ``(tokens, d)``, or a ``(steps, N, d)`` view."""
        if self.index is None:
            return hidden_states.transpose(0, 1)[start:end]
        return hidden_states.flatten(0, 1).index_select(0, self.index[self.tokens(start, end)])

    def tokens(self, start: int, end: int) -> slice:
        """Where the tokens of steps ``[start, end)`` stand."""
        first = sum(self.counts[:start])
        return slice(first, first + sum(self.counts[start:end]))

    def chunks(self, max_tokens: int) -> Iterator[tuple[int, int]]:
        """Ranges of steps, from 1 on, of at most ``max_tokens`` tokens (or one step)."""
        start = 1
        while start < len(self.counts):
            sums = accumulate(self.counts[start:])
            end = start + max(1, sum(total <= max_tokens for total in sums))
            yield start, end
            start = end

    def runs(self, start: int, end: int) -> list[tuple[int, int]]:
        """Steps ``[start, end)`` as runs of equal size: (number of steps, tokens of each)."""
        return [(len(list(run)), count) for count, run in groupby(self.counts[start:end])]


@dataclass(frozen=True)
class PackedBatch:
    """Where the valid tokens of a padded ``(N, T)`` batch stand.

    Args:
        shape: ``(N, T)``.
        device: of the tensors in ``parts``.
        parts: the samples in order, so many in a part as hold 2^15 tokens, and no more than 1,024.

    """

    shape: tuple[int, int]
    device: torch.device
    parts: list[Part]

    def to(self, device: torch.device) -> PackedBatch:
        """The same on another device."""
        if device == self.device:
            return self
        return PackedBatch(self.shape, device, [part.to(device) for part in self.parts])


def pack_batch(attention_mask: Tensor | None, shape: tuple[int, int], device: torch.device) -> PackedBatch:
    """Work out where the valid tokens stand.

    Args:
        attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding, wherever the padding is; ``None``: all valid.
        shape: ``(N, T)``.
        device: of the hidden states.

    Raises:
        ValueError: If the mask has another shape or other values, or a sample has no valid token.

    """
    size, length = shape
    if attention_mask is None:
        step = _part_size(length)
        parts = [_unpadded(min(step, size - low), length, device) for low in range(0, size, step)]
        return PackedBatch(shape, device, parts)
    if tuple(attention_mask.shape) != (size, length):
        raise ValueError(
            f"attention_mask must have shape (N, T) = {(size, length)}, got {tuple(attention_mask.shape)}; of a 4D mask"
            " give the (N, T) padding mask that it was made from"
        )
    valid = _checked(attention_mask.to(device))
    return PackedBatch(shape, device, [_padded(rows) for rows in torch.split(valid, _part_size(length))])


def _checked(mask: Tensor) -> Tensor:
    valid = mask == 1
    if not (valid | (mask == 0)).all():
        raise ValueError("attention_mask must hold 1 (valid) and 0 (padding) alone, got other values")
    empty = ~valid.any(1)
    if empty.any():
        raise ValueError(f"samples {empty.nonzero().flatten().tolist()[:8]} of the batch have no valid token")
    return valid


def _part_size(length: int) -> int:
    return max(1, min(_MAX_SAMPLES, _MAX_TOKENS // length))


def _unpadded(size: int, length: int, device: torch.device) -> Part:
    samples = torch.arange(size, device=device)
    lengths = torch.full_like(samples, length)
    position = torch.arange(length, device=device).repeat_interleave(size)
    return Part(samples, lengths, lengths - 1, [size] * length, position)


def _padded(valid: Tensor) -> Part:
    size, length = valid.shape
    lengths, samples = valid.sum(1).sort(descending=True, stable=True)
    if int(lengths[-1]) == length:
        return _unpadded(size, length, valid.device)
    rows = valid[samples]
    last = length - 1 - rows.flip(1).int().argmax(1)
    sample, column = rows.nonzero(as_tuple=True)
    position = (rows.cumsum(1) - 1)[sample, column]
    order = (position * size + sample).argsort()
    counts = torch.bincount(position).tolist()
    return Part(samples, lengths, last, counts, position[order], (samples[sample] * length + column)[order])
