"""The weights that a model had: a copy of those that train, and for a while in the place of those that it has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.capture.call import versions
from ntps_lightning.errors import SetupError
from ntps_lightning.memory import CopyEstimate
from ntps_lightning.monitor.shards import gather_around, groups_of, is_sharded, local, resharded, why_not_exchanged


def copy_estimate(model: nn.Module) -> CopyEstimate:
    """What a copy takes, of what this rank holds."""
    shards = [local(parameter) for parameter in model.parameters() if parameter.requires_grad]
    return CopyEstimate(sum(shard.numel() * shard.itemsize for shard in shards))


class Weights:
    """A copy of a model's trainable parameters, on the host, and a note of the others, as of :meth:`copy`.

    Args:
        model: whose weights they are.
        root: the module that holds it.

    Attributes:
        groups: the process groups that share the parameters, whose ranks must do everything together.

    Raises:
        SetupError: If the weights cannot be exchanged, as with the first FSDP.

    """

    def __init__(self, model: nn.Module, root: nn.Module) -> None:
        self._model = model
        self._root = root
        reason = why_not_exchanged(root)
        if reason:
            raise SetupError(reason)
        with resharded(root):
            self._all: dict[str, Any] = dict(model.named_parameters())
        self.groups = groups_of(list(self._all.values()))
        self._copies: dict[str, Tensor] = {}
        self._frozen: dict[str, list[int]] = {}

    def copy(self) -> None:
        """Take the copy."""
        for name, parameter in self._all.items():
            if parameter.requires_grad:
                self._copies[name] = local(parameter).to("cpu", copy=True)
            else:
                self._frozen[name] = versions(local(parameter))

    def why_not(self) -> str:
        """Why the model cannot have these weights again; empty where it can. Inside :func:`resharded`."""
        now = dict(self._model.named_parameters())
        if now.keys() != self._all.keys() or any(now[name] is not self._all[name] for name in now):
            return "parameters were added, removed or replaced since the first step"
        for name, version in self._frozen.items():
            if now[name].requires_grad or versions(local(now[name])) != version:
                return f"{name} was frozen before the first step and was unfrozen or changed since"
        if any(getattr(module, "merged_adapters", None) for module in self._model.modules()):
            return "adapters are merged into the weights"
        if any(type(local(parameter).data) is not Tensor for parameter in self._trained().values()):
            return "weights that train are no plain tensors"
        return ""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """The model has these weights, and then those that it had, by reference where they are whole, else to the bit.

        Inside :func:`resharded`.
        """
        before = [(parameter, _held(parameter)) for parameter in self._trained().values()]
        # Casts are kept by the tensor that they were made of, whatever its weights are now.
        torch.clear_autocast_cache()
        try:
            for name, parameter in self._trained().items():
                _hold(parameter, self._copies[name])
            gather_around(self._model, self._root)
            yield
        finally:
            for parameter, tensor in before:
                _hold(parameter, tensor)
            torch.clear_autocast_cache()

    def _trained(self) -> dict[str, nn.Parameter]:
        return {name: self._all[name] for name in self._copies}


def _held(parameter: nn.Parameter) -> Tensor:
    """What to give back: the very tensor; of a shard, which FSDP 2 reads through other references too, a copy."""
    return local(parameter).clone() if is_sharded(parameter) else parameter.data


def _hold(parameter: nn.Parameter, tensor: Tensor) -> None:
    """Behind the back of autograd: graphs that are still to go backward must not see that anything changed."""
    if is_sharded(parameter):
        local(parameter).data.copy_(tensor)
    else:
        parameter.data = tensor.to(parameter.device)
