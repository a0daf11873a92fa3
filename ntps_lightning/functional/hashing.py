"""A hash of int64 numbers that is the same on every device."""

from __future__ import annotations

import torch
from torch import Tensor

# Odd 64-bit constants of splitmix64 (Steele, Lea and Flood, OOPSLA 2014), as int64, whose products wrap around.
GAMMA = -0x61C8864680B583EB
_MIX = ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15), (31, 1))


def mix(value: Tensor) -> Tensor:
    """The finaliser of splitmix64, of int64: one to one, and each bit of the result depends on each of the value's."""
    for shift, factor in _MIX:
        value = (value ^ (value >> shift & (1 << (64 - shift)) - 1)) * factor
    return value


def mix_keys(keys: Tensor) -> Tensor:
    """``()`` hash of ``(N, c)`` int64 rows, in whatever order."""
    found = torch.zeros_like(keys[:, 0])
    for column in keys.unbind(1):
        found = mix(found * GAMMA + column)
    return found.sum()


def mix_rows(values: Tensor) -> Tensor:
    """``(N,)`` hashes of the rows of ``(N, C)`` float32 numbers."""
    bits = values.contiguous().view(torch.int32).long()
    return mix(bits * GAMMA + torch.arange(bits.shape[1], device=bits.device)).sum(1)
