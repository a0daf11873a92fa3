"""Which module of a user's model holds the representation, and its layers in order."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from transformers import PreTrainedModel

Layers = int | Sequence[int] | Literal["all"]


@dataclass(frozen=True)
class Backbone:
    """A decoder and its layers.

    Args:
        decoder: the module whose forward pass is listened to; what it returns is the last hidden states.
        layers: its layers in order; none where a plain module has no unique list of them.
        hidden_size: the size that the model's configuration declares, if it has one.
        model: the model that calls the decoder, if another is called first.
        pad_token_id: the token that the configuration declares as padding, if any.
        vocab_size: how many tokens the configuration declares, if it has one.
        context: the most tokens of a row that it declares, if any.

    """

    decoder: nn.Module
    layers: Sequence[nn.Module]
    hidden_size: int | None = None
    model: nn.Module | None = None
    pad_token_id: int | None = None
    vocab_size: int | None = None
    context: int | None = None

    @property
    def outermost(self) -> nn.Module:
        """The model that is called first."""
        return self.decoder if self.model is None else self.model

    def device_of(self, layer: int) -> torch.device:
        """Where a layer's hidden states are expected: with the weights of the module that returns them, as far as it
        has any that are on a device."""
        holder = self.layers[max(layer - 1, 0)] if self.layers else self.decoder
        weight = next(holder.parameters(), None)
        return torch.device("cpu") if weight is None or weight.is_meta else weight.device

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


def find_backbone(module: nn.Module, model: nn.Module | str | None = None) -> Backbone:
    """The decoder of the one Hugging Face model at or below ``module``, or of the ``model`` that is named.

    Args:
        module: a causal LM, a sequence classifier, a bare decoder, a PEFT model, or any module that holds one.
        model: the module to look in instead, or its name in ``module``. It may be one of plain PyTorch, which
            returns ``(N, T, d)`` hidden states; its layers are then those of its one outermost ``nn.ModuleList``.

    Raises:
        ValueError: If there is none or more than one, or it is of a kind whose hidden states cannot be scored.

    """
    named = _named(module, model) if isinstance(model, str) else model
    found = _pretrained(module if named is None else named)
    if named is not None and not found:
        return _plain(named)
    where = type(module if named is None else named).__name__
    if len(found) != 1:
        held = f"{len(found)}: {', '.join(repr(n) for n in found)}" if found else "none"
        raise ValueError(
            f"{where} must hold one Hugging Face model, it holds {held}; name the one to score with `model=`"
        )
    (pretrained,) = found.values()
    _refuse_prompt_learning(module if named is None else named)
    return _decoder(pretrained)


def adapters_disabled(backbone: Backbone) -> bool:
    """Whether PEFT adapters are present and switched off, as in a reference pass."""
    # PreTrainedModel has a method disable_adapters; PEFT's layers have a flag of this name.
    flags = [m._disable_adapters for m in backbone.decoder.modules() if hasattr(m, "_disable_adapters")]
    return bool(flags) and all(flags)


def refuse_prompt_learning(config: Any) -> None:
    """Refuse a configuration of PEFT's that puts tokens into the sequence.

    Raises:
        ValueError: If it does.

    """
    if config.is_prompt_learning:
        raise ValueError(
            "prompt and prefix tuning put virtual tokens into the sequence, which cannot be told from the text;"
            " LoRA and other adapters of the weights are supported"
        )


def _named(module: nn.Module, name: str) -> nn.Module:
    try:
        return module.get_submodule(name)
    except AttributeError as error:
        names = [child for child, _ in module.named_children()]
        raise ValueError(f"model={name!r} names no submodule of the module, which has {names}") from error


def _pretrained(module: nn.Module) -> dict[str, PreTrainedModel]:
    """The outermost Hugging Face models by name."""
    found: dict[str, PreTrainedModel] = {}
    for name, child in module.named_modules():
        inside = any(name == k or name.startswith(f"{k}.") or not k for k in found)
        if isinstance(child, PreTrainedModel) and not inside:
            found[name] = child
    return found


def _decoder(model: PreTrainedModel) -> Backbone:
    if model.config.is_encoder_decoder:
        raise ValueError(f"{type(model).__name__} is an encoder-decoder; decoder-only language models are supported")
    decoder: nn.Module = model.get_decoder()  # type: ignore[no-untyped-call]
    if not isinstance(decoder, PreTrainedModel):  # a head that is called decoder
        decoder = model.base_model
    _refuse_other_kinds(decoder)
    config = model.config.get_text_config()
    depth = config.num_hidden_layers
    stacks = [m for m in decoder.modules() if isinstance(m, nn.ModuleList) and len(m) == depth]
    if len(stacks) != 1:
        raise ValueError(
            f"{type(decoder).__name__} has {len(stacks)} lists of num_hidden_layers = {depth} modules, expected one;"
            " name a module that returns hidden states with `model=`"
        )
    # Some causal LMs call themselves their decoder, but return logits: the innermost model round the layers does not.
    owners = [m for m in decoder.modules() if isinstance(m, PreTrainedModel) and stacks[0] in set(m.modules())]
    outer = None if model is owners[-1] else model
    names = ("pad_token_id", "vocab_size", "max_position_embeddings")
    declared = [getattr(config, name, None) for name in names]
    return Backbone(owners[-1], list(stacks[0]), config.hidden_size, outer, *declared)


def _refuse_other_kinds(decoder: nn.Module) -> None:
    name, parameters = type(decoder).__name__, inspect.signature(decoder.forward).parameters
    if "past_key_values" in parameters:
        return
    if "cache_params" in parameters or "state" in parameters:
        raise ValueError(
            f"{name} takes no past_key_values: it is no attention decoder (a state-space model?);"
            " decoder-only attention language models are supported"
        )
    if "input_ids" not in parameters:
        raise ValueError(f"{name} takes no input_ids; decoder-only attention language models are supported")


def _plain(module: nn.Module) -> Backbone:
    if any(getattr(m, "batch_first", True) is False for m in module.modules()):
        raise ValueError(
            f"{type(module).__name__} has batch_first=False, so that its hidden states are (T, N, d); (N, T, d) is"
            " supported: build it with batch_first=True, or name a module round it that transposes"
        )
    if any(getattr(m, "use_nested_tensor", False) for m in module.modules()):
        return Backbone(module, [])  # layers of torch.nn.TransformerEncoder hand nested tensors to each other
    stacks = {name: m for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    outermost = [m for name, m in stacks.items() if not any(name.startswith(f"{k}.") for k in stacks)]
    return Backbone(module, list(outermost[0]) if len(outermost) == 1 else [])


def _refuse_prompt_learning(module: nn.Module) -> None:
    for child in module.modules():
        configs = getattr(child, "peft_config", None)
        for config in configs.values() if isinstance(configs, Mapping) else ():
            refuse_prompt_learning(config)
