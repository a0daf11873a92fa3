"""Sequences that were packed into one row: where each begins, and as rows of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.capture.forward_inputs import ForwardInputs


def sequence_ids(inputs: ForwardInputs) -> Tensor | None:
    """Which packed sequence each token belongs to.

    Returns:
        ``(N, T)`` indices, counted through the rows, with -1 at padding; ``None`` where no row holds more than one
        sequence, as far as the inputs say.

    """
    if isinstance(inputs.cu_seq_lens, Tensor):
        return _from_lengths(inputs.cu_seq_lens, inputs)
    positions = inputs.position_ids
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        return None
    mask = inputs.attention_mask
    everything = torch.ones(inputs.shape, dtype=torch.bool, device=positions.device)
    valid = mask == 1 if isinstance(mask, Tensor) and mask.ndim == 2 else everything
    return _from_positions(positions.expand(valid.shape), valid)  # one row of positions serves all rows


class PackedSequences:
    """Sequences packed into rows, as rows of their own.

    Args:
        ids: ``(N, T)`` as :func:`sequence_ids` returns them.

    Attributes:
        mask: ``(S, L)`` bool, false at padding.

    """

    def __init__(self, ids: Tensor) -> None:
        flat = ids.flatten()
        self._tokens = flat >= 0
        lengths = flat[self._tokens].bincount()
        self.mask = torch.arange(int(lengths.max()), device=ids.device) < lengths[:, None]

    def __len__(self) -> int:
        """Number S of sequences."""
        return len(self.mask)

    def rows(self, packed: Tensor) -> Tensor:
        """``(S, L, ...)`` rows of packed ``(N, T, ...)`` hidden states or tokens; zero where :attr:`mask` is false."""
        rows = packed.new_zeros((*self.mask.shape, *packed.shape[2:]))
        rows[self.mask.to(packed.device)] = packed.flatten(0, 1)[self._tokens.to(packed.device)]
        return rows


def _from_lengths(cu_seq_lens: Tensor, inputs: ForwardInputs) -> Tensor | None:
    ends, (rows, length) = cu_seq_lens[1:].long(), inputs.shape
    if len(ends) <= rows:
        return None
    token = torch.arange(rows * length, device=ends.device)
    ids = torch.searchsorted(ends, token, right=True)
    return torch.where(token < ends[-1], ids, -1).reshape(rows, length)


def _from_positions(positions: Tensor, valid: Tensor) -> Tensor | None:
    """A sequence starts at the first valid token of a row, and wherever positions do not go up."""
    index = torch.arange(valid.shape[1], device=valid.device).expand(valid.shape)
    latest = torch.where(valid, index, -1).cummax(1).values
    before = torch.cat([torch.full_like(latest[:, :1], -1), latest[:, :-1]], 1)
    start = valid & ((before < 0) | (positions <= positions.gather(1, before.clamp(min=0))))
    if int(start.sum()) <= len(start):
        return None
    return torch.where(valid, start.flatten().cumsum(0).reshape(start.shape) - 1, -1)
