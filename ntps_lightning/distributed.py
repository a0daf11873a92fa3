"""What crosses between ranks: sums in place and in few collectives, and small values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from ntps_lightning.errors import SetupError

T = TypeVar("T")

ELSEWHERE = "it failed on another rank"
# Tensors of fewer numbers travel together.
_PACKED_NUMEL = 2**18
# Numbers that pass through a GPU at once, of tensors that are kept off it.
_STAGED_NUMEL = 2**22


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
    with together(group):  # for want of memory no rank leaves the others waiting
        packed = torch.cat([tensor.flatten() for tensor in small]) if small else None
        large = [tensor for tensor in tensors if tensor.numel() >= _PACKED_NUMEL]
        stage = _stage([*large, *([] if packed is None else [packed])], group)
    if packed is not None:
        _reduce_(packed, dist.ReduceOp.SUM, dst, group, stage)
        for tensor, part in zip(small, torch.split(packed, [tensor.numel() for tensor in small]), strict=True):
            tensor.copy_(part.view_as(tensor))
    for tensor in large:
        _reduce_(tensor, dist.ReduceOp.SUM, dst, group, stage)


@contextmanager
def together(group: Any = None) -> Iterator[None]:
    """What one rank raises in this block, all raise at its end; every rank of ``group`` must come here.

    Nothing in the block may wait for other ranks.

    Raises:
        SetupError: (a ``ValueError``) If another rank raised one, with what that says.
        ValueError: If another rank raised anything else. What the rank itself raised stays what it is.

    """
    fault: Exception | None = None
    try:
        yield
    except Exception as error:
        fault = error
    kind = 0 if fault is None else 2 if isinstance(fault, SetupError) else 1
    (worst,) = max_over_ranks([kind], group)
    if not worst:
        return
    said = gather((kind, str(fault) or repr(fault)), group)
    if fault is not None:
        raise fault
    rank, reason = next((rank, reason) for rank, (kind, reason) in enumerate(said) if kind == worst)
    rank = rank if group is None else dist.get_global_rank(group, rank)
    raise (SetupError if worst == 2 else ValueError)(f"rank {rank}: {reason}")


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


def gather(value: T, group: Any = None) -> list[T]:
    """The picklable ``value`` of each rank of ``group``, by default all, on each; each must call it."""
    if rank_and_world_size()[1] == 1:
        return [value]
    values = [value] * dist.get_world_size(group)
    dist.all_gather_object(values, value, group)
    return values


def _stage(tensors: Sequence[Tensor], group: Any) -> Tensor | None:
    """Room on the GPU that these pass through, if they do."""
    largest = max((tensor for tensor in tensors if _through_gpu(tensor, group)), key=Tensor.numel, default=None)
    if largest is None:
        return None
    return torch.empty(min(largest.numel(), _STAGED_NUMEL), dtype=largest.dtype, device="cuda")


def _reduce_(tensor: Tensor, op: Any, dst: int | None = None, group: Any = None, stage: Tensor | None = None) -> None:
    """In pieces where they may have to pass through a GPU, of the same sizes on ranks whose tensors do not."""
    if dist.get_backend(group) != "nccl":
        _reduce_here_(tensor, op, dst, group)
        return
    for part in torch.split(tensor.view(-1), _STAGED_NUMEL):
        if not _through_gpu(part, group):
            _reduce_here_(part, op, dst, group)
            continue
        room = part.new_empty(len(part), device="cuda") if stage is None else stage[: len(part)]
        _reduce_here_(room.copy_(part), op, dst, group)
        part.copy_(room)


def _reduce_here_(tensor: Tensor, op: Any, dst: int | None, group: Any) -> None:
    if dst is None:
        dist.all_reduce(tensor, op, group=group)
    else:
        dist.reduce(tensor, dst, op, group=group)


def _through_gpu(tensor: Tensor, group: Any) -> bool:
    """NCCL moves nothing else."""
    return tensor.device.type == "cpu" and dist.get_backend(group) == "nccl"
