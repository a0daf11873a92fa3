"""Sums over ranks, in place and in few collectives."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

# Tensors of fewer numbers travel together.
_PACKED_NUMEL = 2**18


def sum_over_ranks_(tensors: Iterable[Tensor], dst: int | None = None, group: Any = None) -> None:
    """Sum each of ``tensors``, in place, over all ranks; every rank must call it with tensors of the same shapes.

    Args:
        tensors: of one dtype and device.
        dst: the rank that gets the sums, while the tensors of others are left without meaning; by default all do.
        group: process group, by default all ranks.

    """
    tensors = list(tensors)
    small = [tensor for tensor in tensors if tensor.numel() < _PACKED_NUMEL]
    if small:
        packed = torch.cat([tensor.flatten() for tensor in small])
        _sum_(packed, dst, group)
        for tensor, part in zip(small, torch.split(packed, [tensor.numel() for tensor in small]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for tensor in tensors:
        if tensor.numel() >= _PACKED_NUMEL:
            _sum_(tensor, dst, group)


def _sum_(tensor: Tensor, dst: int | None, group: Any) -> None:
    on_gpu = tensor.device.type == "cpu" and dist.get_backend(group) == "nccl"
    shared = tensor.cuda() if on_gpu else tensor  # NCCL moves nothing else
    if dst is None:
        dist.all_reduce(shared, group=group)
    else:
        dist.reduce(shared, dst, group=group)
    if on_gpu:
        tensor.copy_(shared)


def rank_and_world_size() -> tuple[int, int]:
    """0 and 1 where nothing is distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather(value: Any) -> list[Any]:
    """The picklable ``value`` of every rank, on every rank."""
    values = [value] * rank_and_world_size()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values
