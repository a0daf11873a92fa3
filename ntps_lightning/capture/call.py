"""A call that somebody else made of a model: its arguments, and what held while it ran."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.hooks import RemovableHandle

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.capture.forward_inputs import named_arguments, read_forward_inputs

_PACKAGE = __name__.partition(".")[0]


@dataclass(frozen=True)
class Call:
    """A forward pass as it was called, to be made again.

    Args:
        module: what was called.
        args: its positional arguments.
        kwargs: its named arguments.
        training: the mode of each of its modules.
        autocast: whether each type of device cast, and to which dtype.
        versions: of the tensors among the arguments, which go up when these are changed in place.
        hooks: the forward hooks of others that were on its modules.

    """

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    training: list[bool]
    autocast: list[tuple[str, bool, torch.dtype]]
    versions: list[int]
    hooks: frozenset[int]

    @staticmethod
    def of(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Call:
        """A call that is about to be made."""
        weight = next(module.parameters(), None)
        types = {"cpu", "cpu" if weight is None or weight.is_meta else weight.device.type}
        return Call(
            module,
            args,
            dict(kwargs),
            [each.training for each in module.modules()],
            [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in sorted(types)],
            versions((args, kwargs)),
            _hooks(module),
        )

    @property
    def embedded(self) -> bool:
        """Whether it was given embeddings, which were made of the ids outside of it."""
        inputs = read_forward_inputs(named_arguments(self.module, self.args, self.kwargs), {})
        return inputs.input_ids is None and inputs.device is not None

    def why_not_again(self) -> str:
        """Why it cannot be made again as it was; empty where it can."""
        if versions((self.args, self.kwargs)) != self.versions:
            return "what the model was called with has been changed in place since"
        if _hooks(self.module) != self.hooks:
            return "forward hooks that were on the model in the call are gone, or others have come"
        return ""

    @contextmanager
    def as_it_was(self) -> Iterator[None]:
        """The modes and the autocast of the call; the modes stay."""
        for module, training in zip(self.module.modules(), self.training, strict=True):
            if module.training != training:
                module.training = training
        with ExitStack() as stack:
            for kind, enabled, dtype in self.autocast:
                stack.enter_context(torch.autocast(kind, dtype=dtype, enabled=enabled))
            yield


class CallRecorder:
    """Keeps the latest outermost call of a model, from :meth:`install` to :meth:`remove`.

    Args:
        backbone: the decoder, and the model that calls it.

    Attributes:
        latest: the call, or ``None`` where none was made, or what held while it ran could not be read.

    """

    def __init__(self, backbone: Backbone) -> None:
        self.latest: Call | None = None
        self._backbone = backbone
        self._inside = False
        self._handles: list[RemovableHandle] = []

    def install(self) -> None:
        """Start recording, in front of hooks that change arguments: these would change them again."""
        outer = self._backbone.model
        options: dict[str, bool] = {"prepend": True, "with_kwargs": True}
        if outer is not None:
            self._handles.append(outer.register_forward_pre_hook(self._on_outer_call, **options))
            self._handles.append(outer.register_forward_hook(self._on_outer_return, always_call=True))
        self._handles.append(self._backbone.decoder.register_forward_pre_hook(self._on_call, **options))

    def remove(self) -> None:
        """Stop recording, and let go of the call."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.latest = None

    def _on_outer_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._record(module, args, kwargs)
        self._inside = True

    def _on_outer_return(self, module: nn.Module, args: Any, output: Any) -> None:
        self._inside = False

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not self._inside:
            self._record(module, args, kwargs)

    def _record(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        try:
            self.latest = Call.of(module, args, kwargs)
        except Exception:  # not inside somebody else's forward pass
            self.latest = None


def versions(values: Any) -> list[int]:
    """Of every tensor in ``values``, whatever holds it; those of inference mode have none."""
    return [0 if leaf.is_inference() else leaf._version for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]


def _hooks(module: nn.Module) -> frozenset[int]:
    """The forward hooks on a module and those below it, except this package's."""
    return frozenset(
        key
        for each in module.modules()
        for hooks in (each._forward_pre_hooks, each._forward_hooks)
        for key, hook in hooks.items()
        if str(getattr(hook, "__module__", "")).partition(".")[0] != _PACKAGE
    )
