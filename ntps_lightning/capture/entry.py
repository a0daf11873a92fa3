"""Which module a pass of our own may call, however the model is sharded."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

# Arguments of models that spare what nobody reads.
_SPARING = {"use_cache": False, "logits_to_keep": 1}


class NotCallableError(Exception):
    """Why the decoder cannot be called from here."""


def find_entry(decoder: nn.Module, module: nn.Module) -> nn.Module:
    """What to call with ``input_ids``: the decoder, or the outermost module round it that gathers weights (FSDP 2).

    A call of a module inside an FSDP model would fail, or make it the root that its own runs expect another to be.

    Args:
        decoder: the module whose states are wanted.
        module: what it was found in.

    Raises:
        NotCallableError: If there is none.

    """
    inside = list(decoder.modules())
    around = [m for m in module.modules() if decoder in set(m.modules())]
    if any(_is_fsdp(m, "FullyShardedDataParallel") for m in (*around, *inside)):
        raise NotCallableError("FSDP wraps it, whose inner modules cannot be called by themselves")
    if any(weight.is_meta or not weight.numel() for weight in decoder.parameters()):
        raise NotCallableError("its weights are not here (on the meta device, or sharded)")
    gathering = [m for m in around if _is_fsdp2(m)]
    if not gathering and any(_is_fsdp2(m) for m in inside):
        raise NotCallableError("its layers are sharded by FSDP 2, and the module to call is not in what was given")
    entry = gathering[0] if gathering else decoder
    _check_arguments(entry)
    return entry


def sparing(entry: nn.Module) -> dict[str, Any]:
    """Arguments with which a call of this module leaves out what nobody reads who listens to hidden states."""
    known = inspect.signature(entry.forward).parameters
    return {name: value for name, value in _SPARING.items() if name in known}


def reshard(entry: nn.Module) -> None:
    """After a pass the outermost module of FSDP 2 keeps its weights gathered: part with them."""
    for module in entry.modules():
        if _is_fsdp2(module):
            module.reshard()  # type: ignore[operator]


def _check_arguments(entry: nn.Module) -> None:
    named = [p for p in inspect.signature(entry.forward).parameters.values() if p.kind != p.VAR_KEYWORD]
    needed = {p.name for p in named if p.default is p.empty and p.kind != p.VAR_POSITIONAL}
    if "input_ids" not in {p.name for p in named} or needed - {"input_ids"}:
        raise NotCallableError(f"{type(entry).__name__} cannot be called with input_ids alone")


def _is_fsdp2(module: nn.Module) -> bool:
    return _is_fsdp(module, "FSDPModule")


def _is_fsdp(module: nn.Module, name: str) -> bool:
    if not torch.distributed.is_available():
        return False
    from torch.distributed import fsdp

    return isinstance(module, getattr(fsdp, name))
