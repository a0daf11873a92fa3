"""Weights that are spread over ranks: their shards, and modules that keep them gathered after a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def local(tensor: Tensor) -> Tensor:
    """What this rank holds of a tensor, without its history."""
    with torch.no_grad():
        shard: Tensor = tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]
    return shard.detach()


def is_sharded(tensor: Tensor) -> bool:
    """Whether it is a DTensor, as tensor parallelism and FSDP 2 have them."""
    return hasattr(tensor, "to_local")


def groups_of(tensors: list[Tensor]) -> list[Any]:
    """The process groups over which they are sharded, each once."""
    meshes = [tensor.device_mesh for tensor in tensors if is_sharded(tensor)]  # type: ignore[attr-defined]
    groups = {id(group): group for mesh in meshes for group in mesh.get_all_groups()}
    return list(groups.values())


def holds_flat_weights(root: nn.Module) -> bool:
    """Whether it has modules of the first FSDP, which keep shards of flattened weights that cannot be told apart."""
    if not dist.is_available():
        return False
    from torch.distributed.fsdp import FullyShardedDataParallel

    return any(isinstance(module, FullyShardedDataParallel) for module in root.modules())


@contextmanager
def resharded(root: nn.Module) -> Iterator[None]:
    """Every weight as a shard; those that FSDP 2 had gathered are gathered again after it, by every rank."""
    units = _units(root)
    gathered = [unit for unit in units if _reshard(unit)]
    try:
        yield
    finally:
        for unit in units:
            unit.reshard()
        for unit in gathered:
            unit.unshard()


def gather_around(model: nn.Module, root: nn.Module) -> None:
    """Gather weights that modules of FSDP 2 round ``model`` hold, since their own forward pass will not."""
    inside = set(model.modules())
    for unit in _units(root):
        if unit not in inside and model in set(unit.modules()):
            unit.unshard()


def _units(root: nn.Module) -> list[Any]:
    if not dist.is_available():
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in root.modules() if isinstance(module, FSDPModule)]


def _reshard(unit: Any) -> bool:
    """Whether it was gathered."""
    before = [id(parameter) for parameter in unit.parameters()]
    unit.reshard()
    return before != [id(parameter) for parameter in unit.parameters()]
