"""What a model keeps from one forward pass to the next beside its weights: buffers, counts, the state of generators."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.capture.call import versions

# Larger buffers are weights or tables in all but name, and are not copied.
_COPIED_BYTES = 2**20


class ModuleState:
    """A copy of a model's state, for passes that go on from it and leave the model's own alone.

    Part of it are buffers; attributes that are numbers or tensors, such as the longest sequence that a rotary embedding
    has seen; and generators. Flags and names are settings, which stay as they are. Tensors of more than 1 MiB are not
    copied: such buffers are kept by reference, such attributes are left alone.

    Args:
        model: whose state it is.

    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._by_reference: list[tuple[Tensor, list[int]]] = []
        copies: dict[int, tuple[Tensor, Tensor]] = {}
        self._buffers = [self._copy(module._buffers, copies) for module in model.modules()]
        self._attributes = [self._copy(_attributes(module), copies) for module in model.modules()]
        self._generators = _generators(model)

    def why_not(self) -> str:
        """Why it is no longer what it was; empty where it is."""
        if any(versions(tensor) != version for tensor, version in self._by_reference):
            return "a large buffer of the model was changed in place"
        return ""

    def install(self) -> None:
        """Give it to the model, in the place of what that has; inside :func:`own_pass`, which puts this back."""
        for module, buffers, attributes in zip(self._model.modules(), self._buffers, self._attributes, strict=True):
            now = _attributes(module)
            states = {name for values in (now, attributes) for name, value in values.items() if _is_state(value)}
            _replace(module.__dict__, attributes, states)
            _replace(module._buffers, buffers, {*module._buffers, *buffers})
        for generator, state in self._generators:
            generator.set_state(state)

    def take(self) -> None:
        """Keep what a pass has made of it."""
        self._buffers = [dict(module._buffers) for module in self._model.modules()]
        self._attributes = [_attributes(module) for module in self._model.modules()]
        self._generators = _generators(self._model)

    def _copy(self, values: Mapping[str, Any], copies: dict[int, tuple[Tensor, Tensor]]) -> dict[str, Any]:
        """Tensors copied, the same one once; ``copies`` holds originals too, so that no other gets the id of one."""
        for value in values.values():
            if not isinstance(value, Tensor) or id(value) in copies:
                continue
            if _is_large(value):
                self._by_reference.append((value, versions(value)))
            copies[id(value)] = (value, value if _is_large(value) else value.detach().clone())
        return {name: copies[id(value)][1] if id(value) in copies else value for name, value in values.items()}


def _attributes(module: nn.Module) -> dict[str, Any]:
    """All but large tensors."""
    return {
        name: value for name, value in module.__dict__.items() if not isinstance(value, Tensor) or not _is_large(value)
    }


def _is_state(value: Any) -> bool:
    return isinstance(value, (int, float, Tensor)) and not isinstance(value, bool)


def _is_large(tensor: Tensor) -> bool:
    return tensor.numel() * tensor.itemsize > _COPIED_BYTES


def _replace(held: dict[str, Any], state: Mapping[str, Any], names: set[str]) -> None:
    """Compiled code watches the dictionaries of modules: what is the same is left alone."""
    for name in names:
        if name not in state:
            del held[name]
        elif name not in held or held[name] is not state[name]:
            held[name] = state[name]


def _generators(model: nn.Module) -> list[tuple[torch.Generator, Tensor]]:
    values = [value for module in model.modules() for value in module.__dict__.values()]
    return [(value, value.get_state()) for value in values if isinstance(value, torch.Generator)]
