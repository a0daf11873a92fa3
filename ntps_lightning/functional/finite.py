"""Hidden states that no sum can be made of."""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.functional.packed_batch import Part

# Of float64 states; the squares of long prefix sums, and the solver's of those, are then below the largest float64.
_LARGEST = 2.0**200


def refuse_unsummable(hidden_states: Tensor, part: Part) -> None:
    """Say which samples hold values that are not finite or too large, if any does: padding may.

    Raises:
        ValueError: If one does.

    """
    size, length, d = hidden_states.shape
    tokens = part.gather(hidden_states, 0, length).reshape(-1, d)
    index = torch.arange(len(tokens), device=tokens.device) % size if part.index is None else part.index // length
    broken = sorted(set(index[~tokens.isfinite().all(1)].tolist()))
    if broken:
        raise ValueError(
            f"hidden_states hold NaN or Inf at valid tokens of samples {broken[:8]} of the batch ({len(broken)} of"
            f" {size}); check the model's dtype (float16 overflows where bfloat16 does not) or the learning rate"
        )
    largest = float(tokens.abs().amax())
    if largest > _LARGEST:
        raise ValueError(f"hidden_states go up to {largest:.1e}, and sums of their squares overflow: divide them first")


def refuse_unsummable_parts(parts: list[tuple[Part, Tensor]]) -> None:
    """Before the first part of a batch is added, all are looked at.

    Raises:
        ValueError: See :func:`refuse_unsummable`.

    """
    for part, hidden_states in parts:
        low, high = torch.aminmax(hidden_states)
        if not -_LARGEST <= float(low) <= float(high) <= _LARGEST:
            refuse_unsummable(hidden_states, part)
