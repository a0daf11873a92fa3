"""What crosses between ranks: sums in place and in few collectives, and small values."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")

# Tensors of fewer numbers travel together.
_PACKED_NUMEL = 2**18


def rank_and_world_size() -> tuple[int, int]:
    """0 and 1 where nothing is distributed."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def rank_in(group: Any = None) -> int:
    """This rank's place in a process group, by default among all."""
    return dist.get_rank(group) if dist.is_available() and dist.is_initialized() else 0


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
        _reduce_(packed, dist.ReduceOp.SUM, dst, group)
        for tensor, part in zip(small, torch.split(packed, [tensor.numel() for tensor in small]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for tensor in tensors:
        if tensor.numel() >= _PACKED_NUMEL:
            _reduce_(tensor, dist.ReduceOp.SUM, dst, group)


def gather_tensor(tensor: Tensor, group: Any = None) -> Tensor:
    """``(W, ...)`` the tensor of each of W ranks, which are of one shape; every rank must call it."""
    if rank_and_world_size()[1] == 1:
        return tensor[None]
    shared = tensor.cuda() if _through_gpu(tensor, group) else tensor
    parts = [torch.empty_like(shared) for _ in range(dist.get_world_size(group))]
    dist.all_gather(parts, shared.contiguous(), group=group)
    return torch.stack(parts).to(tensor.device)


def max_over_ranks(values: Sequence[int], group: Any = None) -> list[int]:
    """The largest of each of ``values`` over the ranks of ``group``, by default all; each calls it with as many."""
    if rank_and_world_size()[1] == 1:
        return list(values)
    largest = torch.tensor(values)
    _reduce_(largest, dist.ReduceOp.MAX, group=group)
    return [int(value) for value in largest.tolist()]


def from_first_rank(value: T) -> T:
    """The picklable ``value`` of rank 0, on every rank; every rank must call it."""
    if rank_and_world_size()[1] == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def gather(value: T) -> list[T]:
    """The picklable ``value`` of every rank, on every rank; every rank must call it."""
    values = [value] * rank_and_world_size()[1]
    if len(values) > 1:
        dist.all_gather_object(values, value)
    return values


def _reduce_(tensor: Tensor, op: Any, dst: int | None = None, group: Any = None) -> None:
    through_gpu = _through_gpu(tensor, group)
    shared = tensor.cuda() if through_gpu else tensor
    if dst is None:
        dist.all_reduce(shared, op, group=group)
    else:
        dist.reduce(shared, dst, op, group=group)
    if through_gpu:
        tensor.copy_(shared)


def _through_gpu(tensor: Tensor, group: Any) -> bool:
    """NCCL moves nothing else."""
    return tensor.device.type == "cpu" and dist.get_backend(group) == "nccl"
