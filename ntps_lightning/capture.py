"""Hidden states out of the user's own forward pass."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

Layers = int | Sequence[int] | Literal["all"]


@dataclass(frozen=True)
class Backbone:
    """The decoder of a language model, and its layers in order."""

    decoder: PreTrainedModel
    layers: nn.ModuleList

    def resolve(self, layers: Layers) -> list[int]:
        """Indices into ``hidden_states``, in ascending order: 0 the embeddings, L the states after the final norm.

        Raises:
            ValueError: If an index is out of range, or there is none.

        """
        depth = len(self.layers)
        wanted = range(depth + 1) if layers == "all" else [layers] if isinstance(layers, int) else layers
        if isinstance(wanted, str) or not all(isinstance(i, int) and -depth - 1 <= i <= depth for i in wanted):
            raise ValueError(
                f'layers must be "all" or indices in [{-depth - 1}, {depth}] for the {depth} layers of'
                f" {type(self.decoder).__name__} (0: embeddings, -1: after the final norm), got {layers!r}"
            )
        if not wanted:
            raise ValueError("layers is empty: name at least one, such as -1")
        return sorted({i % (depth + 1) for i in wanted})


@dataclass(frozen=True)
class Call:
    """What the decoder was called with.

    Args:
        input_ids: ``(N, T)``, or ``None`` where embeddings were passed.
        attention_mask: whatever was passed as the mask.
        batch_size: N.
        cached: whether a key-value cache was passed in, as ``generate()`` does.

    """

    input_ids: Tensor | None
    attention_mask: Any
    batch_size: int
    cached: bool


def find_backbone(module: nn.Module) -> Backbone:
    """The decoder of the one Hugging Face model at or below ``module``.

    Args:
        module: a causal LM, a sequence classifier, a bare decoder, a PEFT model, or any module that holds one.

    Raises:
        ValueError: If there is none or more than one, or it is of a kind whose hidden states cannot be scored.

    """
    found: dict[str, PreTrainedModel] = {}
    for name, child in module.named_modules():
        if isinstance(child, PreTrainedModel) and not any(
            name == k or name.startswith(f"{k}.") or not k for k in found
        ):
            found[name] = child
    where = type(module).__name__
    if len(found) != 1:
        held = f"{len(found)}: {', '.join(repr(n) for n in found)}" if found else "none"
        raise ValueError(
            f"{where} must hold one Hugging Face model, it holds {held}; name the one to score with `model=`"
        )
    _refuse_prompt_learning(module)
    (model,) = found.values()
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder; decoder-only language models are supported")
    decoder: PreTrainedModel = model.get_decoder()  # type: ignore[no-untyped-call]
    if "past_key_values" not in inspect.signature(decoder.forward).parameters:
        raise ValueError(
            f"{type(decoder).__name__} takes no past_key_values: it is no attention decoder (a state-space model?);"
            " decoder-only attention language models are supported"
        )
    depth = model.config.get_text_config().num_hidden_layers
    stacks = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(stacks) != 1:
        raise ValueError(
            f"{type(decoder).__name__} has {len(stacks)} lists of num_hidden_layers = {depth} modules, expected one"
        )
    return Backbone(decoder, stacks[0])


def _refuse_prompt_learning(module: nn.Module) -> None:
    for child in module.modules():
        configs = getattr(child, "peft_config", None)
        if isinstance(configs, Mapping) and any(config.is_prompt_learning for config in configs.values()):
            raise ValueError(
                "prompt and prefix tuning put virtual tokens into the sequence, which cannot be told from the text;"
                " LoRA and other adapters of the weights are supported"
            )


def adapters_disabled(backbone: Backbone) -> bool:
    """Whether PEFT adapters are present and switched off, as in a reference pass."""
    # PreTrainedModel has a method disable_adapters; PEFT's layers have a flag of this name.
    flags = [m._disable_adapters for m in backbone.decoder.modules() if hasattr(m, "_disable_adapters")]
    return bool(flags) and all(flags)


class Hooks:
    """Streams chosen layers of every accepted forward pass to ``receive``, one at a time, and keeps none.

    Args:
        backbone: the decoder to listen to.
        layers: indices as :meth:`Backbone.resolve` returns them.
        receive: called with the index, the detached ``(N, T, d)`` hidden states and the call they come from.
        accept: called before a forward pass; layers of those it refuses are left alone.

    """

    def __init__(
        self,
        backbone: Backbone,
        layers: Sequence[int],
        receive: Callable[[int, Tensor, Call], None],
        accept: Callable[[Call], bool],
    ) -> None:
        self._backbone, self._layers = backbone, layers
        self._receive, self._accept = receive, accept
        self._handles: list[torch.utils.hooks.RemovableHandle] = []
        self._call: Call | None = None
        self._signature = inspect.signature(backbone.decoder.forward)

    def install(self) -> None:
        """Start listening."""
        self.remove()
        decoder, layers = self._backbone.decoder, self._backbone.layers
        add = self._handles.append
        add(decoder.register_forward_pre_hook(self._on_call, with_kwargs=True))
        for index in self._layers:
            if index == len(layers):
                continue
            if index == 0:
                add(layers[0].register_forward_pre_hook(self._on_embeddings, with_kwargs=True))
            else:
                add(layers[index - 1].register_forward_hook(self._on_layer(index)))
        add(decoder.register_forward_hook(self._on_return))

    def remove(self) -> None:
        """Stop listening; no trace stays on the model."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._call = None

    def _on_call(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        # Wrapped forwards also take arguments that the signature does not name.
        named = dict(zip(self._signature.parameters, args, strict=False)) | kwargs
        ids, embeds = named.get("input_ids"), named.get("inputs_embeds")
        given = ids if ids is not None else embeds
        call = Call(
            input_ids=ids,
            attention_mask=named.get("attention_mask"),
            batch_size=0 if given is None else len(given),
            cached=named.get("past_key_values") is not None,
        )
        self._call = call if self._accept(call) else None

    def _on_embeddings(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._emit(0, args[0] if args else kwargs["hidden_states"])

    def _on_layer(self, index: int) -> Callable[[nn.Module, Any, Any], None]:
        # Some architectures return a tuple, most a tensor.
        return lambda module, args, output: self._emit(index, output if isinstance(output, Tensor) else output[0])

    def _on_return(self, module: nn.Module, args: Any, output: Any) -> None:
        if len(self._backbone.layers) in self._layers:
            self._emit(len(self._backbone.layers), output[0])
        self._call = None

    def _emit(self, index: int, hidden_states: Tensor) -> None:
        if self._call is not None:
            self._receive(index, hidden_states.detach(), self._call)


def padding_mask(call: Call) -> Tensor | None:
    """The ``(N, T)`` padding mask of a call; ``None`` where it had none, so that every token is valid.

    Raises:
        ValueError: If the call had a mask of another kind.

    """
    mask = call.attention_mask
    if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
        return mask
    got = f"one of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
    raise ValueError(
        f"the model was called with an attention_mask that is not (N, T) but {got}; give the padding mask yourself"
    )


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
                else (f"no forward pass of {self._name} was seen inside the block (a compiled model may ignore hooks)")
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
        model: a Hugging Face causal LM, sequence classifier or bare decoder, inside PEFT or any other module.
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
    backbone = find_backbone(model)
    captured = CapturedRepresentations(backbone)
    hooks = Hooks(backbone, backbone.resolve(layers), captured._receive, accept=lambda call: not call.cached)
    hooks.install()
    try:
        yield captured
    finally:
        hooks.remove()
