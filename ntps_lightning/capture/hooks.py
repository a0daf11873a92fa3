"""Hooks that hand on the hidden states of chosen layers, one at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.capture.eager import FORCE_EAGER
from ntps_lightning.capture.forward_inputs import (
    ForwardInputs,
    first_tensor,
    named_arguments,
    read_forward_inputs,
)
from ntps_lightning.errors import SetupError


class LayerHooks:
    """Streams chosen layers of every accepted forward pass to ``receive``, one at a time, and keeps none.

    From :meth:`install` to :meth:`remove` compiled models run eagerly, so that they can be heard.

    Args:
        backbone: the decoder to listen to.
        layers: indices as :meth:`Backbone.resolve` returns them.
        receive: called with the index, the detached ``(N, T, d)`` hidden states and the inputs they come from.
        accept: called before a forward pass; layers of those it refuses are left alone.
        on_error: takes what goes wrong in listening; by default it is raised inside the forward pass.
        complete: called after each accepted forward pass that has not failed.

    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        receive: Callable[[int, Tensor, ForwardInputs], None],
        accept: Callable[[ForwardInputs], bool],
        on_error: Callable[[Exception], None] | None = None,
        complete: Callable[[], None] = lambda: None,
    ) -> None:
        self._backbone = backbone
        self._layers = layers
        self._receive = receive
        self._accept = accept
        self._on_error = on_error
        self._complete = complete
        self._handles: list[RemovableHandle] = []
        self._inputs: ForwardInputs | None = None
        self._outer: dict[str, Any] = {}

    def install(self) -> None:
        """Start listening."""
        self.remove()
        FORCE_EAGER.enter()
        decoder, layers = self._backbone.decoder, self._backbone.layers
        add, guarded = self._handles.append, self._guarded
        if self._backbone.model is not None:
            add(self._backbone.model.register_forward_pre_hook(guarded(self._on_outer_call), with_kwargs=True))
            add(self._backbone.model.register_forward_hook(guarded(self._on_outer_return), always_call=True))
        add(decoder.register_forward_pre_hook(guarded(self._on_call), with_kwargs=True))
        for index in self._layers:
            if index == len(layers):
                continue
            if index == 0:
                add(layers[0].register_forward_pre_hook(guarded(self._on_embeddings), with_kwargs=True))
            else:
                add(layers[index - 1].register_forward_hook(guarded(self._on_layer(index))))
        add(decoder.register_forward_hook(guarded(self._on_return)))

    def remove(self) -> None:
        """Stop listening; no trace stays on the model."""
        if not self._handles:
            return
        FORCE_EAGER.leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._inputs = None
        self._outer = {}

    def _guarded(self, hook: Callable[..., None]) -> _Hook:
        return _Hook(hook, self._on_error)

    def _on_outer_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._outer = named_arguments(module, args, kwargs)

    def _on_outer_return(self, module: nn.Module, args: Any, output: Any) -> None:
        self._outer = {}

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        inputs = read_forward_inputs(named_arguments(module, args, kwargs), self._outer)
        self._inputs = inputs if self._accept(inputs) else None

    def _on_embeddings(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._emit(0, first_tensor((*args, kwargs.get("hidden_states"), *kwargs.values())))

    def _on_layer(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: self._emit(index, output_states(output))

    def _on_return(self, module: nn.Module, args: Any, output: Any) -> None:
        accepted = self._inputs is not None
        try:
            if len(self._backbone.layers) in self._layers:
                self._emit(len(self._backbone.layers), output_states(output))
        finally:
            self._inputs = None
            if accepted:
                self._complete()

    def _emit(self, index: int, hidden_states: Tensor) -> None:
        if self._inputs is None:
            return
        hidden_states = whole(hidden_states)
        shape = tuple(hidden_states.shape)
        if len(shape) != 3 or self._inputs.shape not in (shape[:2], (0, 0)):
            raise SetupError(
                f"layer {index} of {type(self._backbone.decoder).__name__} has hidden states of shape {shape}, not"
                f" (N, T, d) for an input of (N, T) = {self._inputs.shape}: name another one with `layers=`, such as -1"
            )
        self._receive(index, hidden_states.detach(), self._inputs)


class _Hook:
    """Calls ``hook``; its errors go to ``on_error``, if there is one.

    A copy or pickle of a model comes with the hooks of the moment, which nobody would remove: those do nothing.
    """

    def __init__(self, hook: Callable[..., None], on_error: Callable[[Exception], None] | None) -> None:
        self._hook = hook
        self._on_error = on_error

    def __call__(self, *args: Any) -> None:
        try:
            self._hook(*args)
        except Exception as error:
            if self._on_error is None:
                raise
            self._on_error(error)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Hook, (_listen_no_more, None)


def _listen_no_more(*args: Any) -> None:
    """What a copied hook does."""


def output_states(output: Any) -> Tensor:
    """Hidden states come as a tensor, or first in a tuple or a ModelOutput."""
    hidden_states: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden_states


def whole(hidden_states: Tensor) -> Tensor:
    """Hidden states may be sharded over ranks, which must all come here then."""
    gathered: Tensor = hidden_states.full_tensor() if hasattr(hidden_states, "full_tensor") else hidden_states
    return gathered
