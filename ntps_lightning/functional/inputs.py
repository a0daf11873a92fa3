"""What users hand over, as tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def to_tensor(value: Any, name: str, wanted: str) -> Tensor:
    """A tensor as it is; a copy of a numpy array, of nested lists of numbers, or of a list of tensors of one shape.

    Args:
        value: what was given.
        name: of the argument, for the error.
        wanted: what it should be, for the error.

    Raises:
        ValueError: If no tensor can be made of it.

    """
    if isinstance(value, Tensor):
        return value
    try:
        if isinstance(value, Sequence) and value and all(isinstance(item, Tensor) for item in value):
            return torch.stack(list(value))
        return torch.tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{name} must be {wanted}, got a {type(value).__name__} ({error})") from error
