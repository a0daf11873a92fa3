"""Hidden states out of the user's own forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.backbone import Backbone, Layers, find_backbone
from ntps_lightning.errors import SetupError
from ntps_lightning.sequences import Call, padding_mask


class _Eager:
    """Compiled code runs as it was written while anybody listens: it ignores hooks that it was not compiled with,
    and would be compiled anew, and deaf again, with them."""

    def __init__(self) -> None:
        self._listeners, self._stance = 0, ExitStack()

    def enter(self) -> None:
        if self._listeners == 0:
            self._stance.enter_context(torch.compiler.set_stance("force_eager"))
        self._listeners += 1

    def leave(self) -> None:
        self._listeners -= 1
        if self._listeners == 0:
            self._stance.close()


_EAGER = _Eager()


class Hooks:
    """Streams chosen layers of every accepted forward pass to ``receive``, one at a time, and keeps none.

    From :meth:`install` to :meth:`remove` compiled models run eagerly, so that they can be heard.

    Args:
        backbone: the decoder to listen to.
        layers: indices as :meth:`Backbone.resolve` returns them.
        receive: called with the index, the detached ``(N, T, d)`` hidden states and the call they come from.
        accept: called before a forward pass; layers of those it refuses are left alone.
        on_error: takes what goes wrong in listening; by default it is raised inside the forward pass.

    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        receive: Callable[[int, Tensor, Call], None],
        accept: Callable[[Call], bool],
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:
        self._backbone, self._layers = backbone, layers
        self._receive, self._accept, self._on_error = receive, accept, on_error
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: Call | None = None
        self._outer: dict[str, Any] = {}

    def install(self) -> None:
        """Start listening."""
        self.remove()
        _EAGER.enter()
        decoder, layers = self._backbone.decoder, self._backbone.layers
        add, guarded = self._handles.append, self._guarded
        if self._backbone.model is not None:
            add(self._backbone.model.register_forward_pre_hook(guarded(self._on_outer_call), with_kwargs=True))
            add(self._backbone.model.register_forward_hook(guarded(self._on_outer_return)))
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
        _EAGER.leave()
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._call, self._outer = None, {}

    def _guarded(self, hook: Callable[..., None]) -> Callable[..., None]:
        def call(*args: Any) -> None:
            try:
                hook(*args)
            except Exception as error:
                if self._on_error is None:
                    raise
                self._on_error(error)

        return call

    def _on_outer_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._outer = _named(module, args, kwargs)

    def _on_outer_return(self, module: nn.Module, args: Any, output: Any) -> None:
        self._outer = {}

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = _read_call(_named(module, args, kwargs), self._outer)
        self._call = call if self._accept(call) else None

    def _on_embeddings(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._emit(0, _first_tensor((*args, kwargs.get("hidden_states"), *kwargs.values())))

    def _on_layer(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        return lambda module, args, output: self._emit(index, _output(output))

    def _on_return(self, module: nn.Module, args: Any, output: Any) -> None:
        if len(self._backbone.layers) in self._layers:
            self._emit(len(self._backbone.layers), _output(output))
        self._call = None

    def _emit(self, index: int, hidden_states: Tensor) -> None:
        if self._call is None:
            return
        if hasattr(hidden_states, "full_tensor"):  # sharded over ranks, which all come here
            hidden_states = hidden_states.full_tensor()
        shape = tuple(hidden_states.shape)
        if len(shape) != 3 or self._call.shape not in (shape[:2], (0, 0)):
            raise SetupError(
                f"layer {index} of {type(self._backbone.decoder).__name__} has hidden states of shape {shape}, not"
                f" (N, T, d) for an input of (N, T) = {self._call.shape}: name another one with `layers=`, such as -1"
            )
        self._receive(index, hidden_states.detach(), self._call)


def _named(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    # Wrapped forwards also take arguments that the signature does not name.
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def _read_call(named: dict[str, Any], outer: dict[str, Any]) -> Call:
    """What a decoder was called with; what the model round it made embeddings or other masks of is read there."""
    ids, embeds = named.get("input_ids"), named.get("inputs_embeds")
    given = ids if ids is not None else embeds if embeds is not None else _first_tensor(named.values())
    if ids is None and given is not None and not given.is_floating_point():
        ids = given
    mask, padding = named.get("attention_mask"), named.get("src_key_padding_mask")
    if mask is None and isinstance(padding, Tensor):  # true at padding, as torch.nn.TransformerEncoder has it
        mask = ~padding
    shape = (0, 0) if given is None or given.ndim < 2 else (given.shape[0], given.shape[1])
    outer_ids, outer_mask = outer.get("input_ids"), outer.get("attention_mask")
    if ids is None and isinstance(outer_ids, Tensor) and tuple(outer_ids.shape) == shape:
        ids = outer_ids
    if isinstance(outer_mask, Tensor) and tuple(outer_mask.shape) == shape:
        mask = outer_mask
    return Call(
        input_ids=ids,
        attention_mask=mask,
        shape=shape,
        cached=named.get("past_key_values") is not None,
        position_ids=named.get("position_ids"),
        cu_seq_lens=named.get("cu_seq_lens_q"),
    )


def _first_tensor(values: Iterable[Any]) -> Any:
    return next((value for value in values if isinstance(value, Tensor)), None)


def _output(output: Any) -> Tensor:
    """Hidden states come as a tensor, or first in a tuple or a ModelOutput."""
    hidden_states: Tensor = output if isinstance(output, Tensor) else output[0]
    return hidden_states


class CapturedRepresentations(Mapping[int, Tensor]):
    """Hidden states of the latest forward pass: ``captured[layer]`` is ``(N, T, d)``, detached."""

    def __init__(self, backbone: Backbone) -> None:
        self._depth = len(backbone.layers)
        self._name = type(backbone.decoder).__name__
        self._states: dict[int, Tensor] = {}
        self._call: Call | None = None

    @property
    def attention_mask(self) -> Tensor | None:
        """The ``(N, T)`` mask of that pass, or ``None`` where it had none."""
        return None if self._call is None else padding_mask(self._call)

    def __getitem__(self, layer: int) -> Tensor:
        index = layer + self._depth + 1 if layer < 0 else layer
        if index not in self._states:
            what = (
                f"only layers {sorted(self._states)} were asked for"
                if self._states
                else f"no forward pass of {self._name} was seen inside the block"
            )
            raise KeyError(f"layer {layer} was not captured: {what}")
        return self._states[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._states)

    def __len__(self) -> int:
        return len(self._states)

    def _receive(self, index: int, hidden_states: Tensor, call: Call) -> None:
        self._states[index], self._call = hidden_states, call


@contextmanager
def capture_representations(model: nn.Module, layers: Layers = -1) -> Iterator[CapturedRepresentations]:
    """Capture hidden states of chosen layers from forward passes inside the block, without a second pass.

    Args:
        model: a Hugging Face causal LM, sequence classifier or bare decoder, inside PEFT or any other module; or a
            module of plain PyTorch that returns ``(N, T, d)`` hidden states.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, i the
            output of the i-th layer, -1 the states after the final norm.

    Yields:
        A mapping from layer to ``(N, T, d)`` hidden states, of the latest pass; those that ``generate()`` makes are
        left out.

    Raises:
        ValueError: If ``model`` does not hold exactly one supported language model, or a layer is out of range.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from ntps_lightning import capture_representations
        >>> config = LlamaConfig(vocab_size=99, hidden_size=16, intermediate_size=32, num_hidden_layers=2,
        ...     num_attention_heads=2)
        >>> model = LlamaForCausalLM(config)
        >>> with torch.no_grad(), capture_representations(model, layers=[0, -1]) as captured:
        ...     output = model(input_ids=torch.randint(99, (3, 7)))
        >>> {layer: tuple(states.shape) for layer, states in captured.items()}
        {0: (3, 7, 16), 2: (3, 7, 16)}

    """
    backbone = find_backbone(model, model)
    captured = CapturedRepresentations(backbone)
    hooks = Hooks(backbone, backbone.resolve(layers), captured._receive, accept=lambda call: not call.cached)
    hooks.install()
    try:
        yield captured
    finally:
        hooks.remove()
