"""From where hidden states are measured, so that float32 holds what tells samples apart."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.packed_batch import Part

# Steps that are looked at together; the first block without a shared one ends the search.
_BLOCK = 8
# Of fewer samples nobody can say what they share; float64 serves them while they have no more tokens than this.
_FEWEST = 4
_FEW_TOKENS = 1024


@dataclass(frozen=True)
class Origins:
    """Origins of the residuals that products are taken of.

    Args:
        steps: ``(K, d)`` of the first K steps, K >= 1.
        other: ``(d,)`` of all others.

    """

    steps: Tensor
    other: Tensor


def find_origins(hidden_states: Tensor, part: Part) -> Origins:
    """The means of the steps that samples share, the first token always among them (language models keep an outlier of
    hundreds of times the usual norm there, and a common prompt is the same for all); and that of some later tokens.

    A step is shared where its mean stands out of the other tokens by more than its samples differ. A few samples with
    few tokens cannot tell, and are measured in float64.

    """
    few = len(part.samples) < _FEWEST and sum(part.counts) <= _FEW_TOKENS
    dtype = torch.float64 if few else torch.promote_types(hidden_states.dtype, torch.float32)
    other = _mean_from(hidden_states, part, 1, dtype)
    steps = [_step(hidden_states, part, 0, part.counts[0]).mean(0, dtype=dtype)[None]]
    if not few:
        steps += _shared_steps(hidden_states, part, other)
    found = torch.cat(steps)
    return Origins(found, other if len(found) == 1 else _mean_from(hidden_states, part, len(found), dtype))


def _shared_steps(hidden_states: Tensor, part: Part, other: Tensor) -> list[Tensor]:
    """Origins of the steps after the first, up to the last that is shared."""
    found: list[Tensor] = []
    start = 1
    while start < len(part.counts):
        end = min(start + _BLOCK, len(part.counts))
        count = part.counts[end - 1]
        if count < _FEWEST:
            break
        tokens = torch.stack([_step(hidden_states, part, step, count) for step in range(start, end)]).to(other.dtype)
        means = tokens.mean(1)
        spread = (tokens - means[:, None]).square().sum((1, 2)) / count
        shared = ((means - other).square().sum(1) > spread).tolist()
        if not any(shared):
            break
        last = len(shared) - shared[::-1].index(True)
        chosen = torch.where(torch.tensor(shared, device=other.device)[:, None], means, other)
        found.append(chosen[:last])
        if last < len(shared):
            break
        start = end
    return found


def _step(hidden_states: Tensor, part: Part, step: int, count: int) -> Tensor:
    """The tokens of the ``count`` longest samples at a step."""
    return part.gather(hidden_states, step, step + 1).reshape(-1, hidden_states.shape[2])[:count]


def _mean_from(hidden_states: Tensor, part: Part, start: int, dtype: torch.dtype) -> Tensor:
    """The mean of some hundred tokens from a step on."""
    size, length, d = hidden_states.shape
    first = sum(part.counts[:start])
    stride = max(1, (size * length - first) // 512)
    if part.index is None:
        some = hidden_states[:, start::stride].reshape(-1, d)
    else:
        some = hidden_states.flatten(0, 1).index_select(0, part.index[first::stride])
    return some.mean(0, dtype=dtype) if len(some) else hidden_states.new_zeros(d, dtype=dtype)
