"""Weights that are spread over ranks: their shards, and modules that keep them gathered after a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
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


def why_not_exchanged(root: nn.Module) -> str:
    """Why the weights below ``root`` cannot be exchanged for others for a while; empty where they can."""
    if not dist.is_available():
        return ""
    from torch.distributed.fsdp import FullyShardedDataParallel

    if any(isinstance(module, FullyShardedDataParallel) for module in root.modules()):
        return "FullyShardedDataParallel keeps the weights flattened over the ranks (FSDP 2 does not)"
    if any(not hasattr(unit, "reset_iter_state") for unit in _units(root)):
        return f"FSDP 2 of PyTorch {torch.__version__} does not recover from a forward pass that fails"
    return ""


@contextmanager
def resharded(root: nn.Module) -> Iterator[None]:
    """Every weight as a shard; those that FSDP 2 had gathered are gathered again after it, by every rank.

    Not where something was raised, which may be so on one rank alone: the next forward pass gathers them.
    """
    units = _units(root)
    gathered = [unit for unit in units if _reshard(unit)]
    try:
        yield
    except BaseException:
        gathered = []
        for unit in units:
            with suppress(RuntimeError):  # it is the outermost unit's to reset all
                unit.reset_iter_state()
        raise
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
