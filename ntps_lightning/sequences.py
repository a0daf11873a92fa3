"""Which tokens of a forward pass belong to which sequence: padding, and sequences packed into one row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.errors import SetupError


@dataclass(frozen=True)
class Call:
    """What the decoder was called with.

    Args:
        input_ids: ``(N, T)``, or ``None`` where embeddings were passed.
        attention_mask: whatever was passed as the mask.
        shape: ``(N, T)``, or ``(0, 0)`` where no input was recognised.
        cached: whether a key-value cache was passed in, as ``generate()`` does.
        position_ids: whatever was passed as positions.
        cu_seq_lens: ``(S + 1,)`` cumulative lengths of packed sequences, as FlashAttention takes them.

    """

    input_ids: Tensor | None
    attention_mask: Any
    shape: tuple[int, int]
    cached: bool
    position_ids: Any = None
    cu_seq_lens: Any = None


def padding_mask(call: Call) -> Tensor | None:
    """The ``(N, T)`` padding mask of a call; ``None`` where it had none, so that every token is valid.

    Raises:
        SetupError: If the call had a mask of another kind.

    """
    mask = call.attention_mask
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    got = f"one of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise SetupError(
        f"the model was called with an attention_mask that is not (N, T) but {got}; say where the batch holds the"
        " padding mask with `attention_mask=`"
    )


def unmasked_padding(call: Call, pad_token_id: int | None) -> bool:
    """Whether a call without a mask has rows that begin or end in padding, which then counts as text."""
    ids = call.input_ids
    if ids is None or call.attention_mask is not None or pad_token_id is None or call.shape[1] < 2:
        return False
    padded = ids == pad_token_id  # a single one may be an end of text
    return bool((padded[:, :2].all(1) | padded[:, -2:].all(1)).any())


def sequence_ids(call: Call) -> Tensor | None:
    """Which packed sequence each token belongs to.

    Returns:
        ``(N, T)`` indices, counted through the rows, with -1 at padding; ``None`` where no row holds more than one
        sequence, as far as the call says.

    """
    if isinstance(call.cu_seq_lens, Tensor):
        return _from_lengths(call.cu_seq_lens, call)
    positions = call.position_ids
    if not isinstance(positions, Tensor) or positions.ndim != 2:
        return None
    mask = call.attention_mask
    everything = torch.ones(call.shape, dtype=torch.bool, device=positions.device)
    valid = mask == 1 if isinstance(mask, Tensor) and mask.ndim == 2 else everything
    return _from_positions(positions.expand(valid.shape), valid)  # one row of positions serves all rows


def unpack(hidden_states: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Packed sequences as rows of their own.

    Args:
        hidden_states: ``(N, T, d)``.
        ids: ``(N, T)`` as :func:`sequence_ids` returns them.

    Returns:
        ``(S, L, d)`` hidden states, zero at padding, and their ``(S, L)`` mask.

    """
    ids = ids.to(hidden_states.device).flatten()
    tokens, ids = hidden_states.flatten(0, 1)[ids >= 0], ids[ids >= 0]
    lengths = ids.bincount()
    mask = torch.arange(int(lengths.max()), device=ids.device) < lengths[:, None]
    rows = hidden_states.new_zeros((*mask.shape, hidden_states.shape[2]))
    rows[mask] = tokens
    return rows, mask


def _from_lengths(cu_seq_lens: Tensor, call: Call) -> Tensor | None:
    ends, (rows, length) = cu_seq_lens[1:].long(), call.shape
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
