"""A small model that behaves as a large one does: few blocks, few tokens, narrow in between, with random weights.

The hidden size stays, and so do attention, masks and all else that decides whether states depend on later tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.capture.hooks import LayerHooks
from ntps_lightning.capture.lookahead import try_lookahead

# Sizes that say nothing of what a token may see, and what they are made at most.
_WIDTHS = (
    "intermediate_size", "moe_intermediate_size", "shared_expert_intermediate_size", "shared_intermediate_size",
    "intermediate_size_mlp", "ffn_dim", "ffn_hidden_size", "n_inner", "d_inner",
)  # fmt: skip
_NARROW = 16
_VOCABULARY = 128
# Float32 numbers that are made at most: 1 GiB, some seconds.
_MOST_NUMBERS = 2**28


class CannotTryError(Exception):
    """Why no small model could be made and called."""


@dataclass(frozen=True)
class Tried:
    """What a small model has shown.

    Args:
        blocks: which of the large one's it has.
        all_kinds: whether these are all kinds that there are.
        unnamed: why only the last layer can be named, where that is so.

    """

    blocks: list[int]
    all_kinds: bool
    unnamed: str


def try_small_model(backbone: Backbone) -> Tried:
    """Make a small model of a decoder's configuration, and call it as the callback calls a model at its start.

    Args:
        backbone: of a model, which may be on the meta device.

    Raises:
        SetupError: If it looks ahead.
        CannotTryError: If it cannot be made or called.

    """
    reasons = []
    kinds = _kinds(backbone.decoder.config, backbone.layers)
    for blocks in (kinds, kinds[:1], list(range(len(backbone.layers)))):
        try:
            small = _build(backbone, blocks)
            unnamed = _call(small)
        except CannotTryError as error:
            reasons.append(str(error))
        else:
            return Tried(blocks, set(kinds) <= set(blocks), unnamed)
    raise CannotTryError(reasons[0])


def _kinds(config: Any, layers: Sequence[nn.Module]) -> list[int]:
    """A block of each kind; where no list of the configuration says which is of which, their places do: all up to the
    last that is needed."""
    lists = _lists(config, len(layers)).values()
    rows = list(zip(*lists, strict=True)) or [()] * len(layers)
    kinds = [(str(row), _structure(layer)) for row, layer in zip(rows, layers, strict=True)]
    firsts = sorted({kinds.index(kind) for kind in kinds})
    return firsts if lists else list(range(firsts[-1] + 1))


def _structure(layer: nn.Module) -> tuple[str, ...]:
    return tuple(type(module).__name__ for module in layer.modules())


def _lists(config: Any, depth: int) -> dict[str, list[Any]]:
    """What a configuration lists for each of its blocks."""
    return {name: value for name, value in vars(config).items() if isinstance(value, list) and len(value) == depth}


def _build(backbone: Backbone, blocks: list[int]) -> Backbone:
    kind, place = type(backbone.decoder), _place(backbone)
    try:
        config = _small(backbone.decoder.config, len(backbone.layers), blocks)
        numbers = _numbers(kind, config)
        decoder = _random(kind, config) if numbers <= _MOST_NUMBERS else None
    except Exception as error:  # whatever a configuration does not allow
        raise CannotTryError(f"{len(blocks)} of its blocks cannot be made: {error!r:.200}") from error
    if decoder is None:
        raise CannotTryError(f"{len(blocks)} of its blocks take {numbers / 2**28:.1f} GiB")
    layers = list(decoder.get_submodule(place).children())
    tokens = {"pad_token_id": getattr(config, "pad_token_id", None), "vocab_size": config.vocab_size}
    return replace(backbone, decoder=decoder, layers=layers, model=None, **tokens)


def _numbers(kind: Callable[[Any], nn.Module], config: Any) -> int:
    with torch.device("meta"):
        return sum(math.prod(weight.shape) for weight in kind(config).parameters())


def _random(kind: Callable[[Any], nn.Module], config: Any) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind(config).float().eval()


def _place(backbone: Backbone) -> str:
    """The name of the list of layers in the decoder."""
    lists = {name: each for name, each in backbone.decoder.named_modules() if isinstance(each, nn.ModuleList)}
    names: list[str] = [name for name, each in lists.items() if list(each.children()) == list(backbone.layers)]
    return names[0]


def _small(config: Any, depth: int, blocks: list[int]) -> Any:
    small = deepcopy(config)
    for name, values in _lists(config, depth).items():
        setattr(small, name, [values[block] for block in blocks])
    small.num_hidden_layers = len(blocks)
    for name in vars(config):
        value = getattr(small, name, None)
        if type(value) is int and name in _WIDTHS:
            setattr(small, name, min(value, _NARROW))
        if type(value) is int and name.startswith("vocab_size"):
            setattr(small, name, min(value, _VOCABULARY))
    if hasattr(small, "num_kv_shared_layers"):
        small.num_kv_shared_layers = 0
    padding = getattr(small, "pad_token_id", None)
    if padding is not None and padding >= small.vocab_size:
        small.pad_token_id = 0
    return small


def _call(small: Backbone) -> str:
    """Call it as the callback does; returns why not all layers can be named, empty where they can."""
    said: list[str] = []
    hooks = LayerHooks(small, small.resolve("all"), _ignore, lambda inputs: True, lambda error: said.append(str(error)))
    hooks.install()
    try:
        untried = try_lookahead(small, small.decoder)
    finally:
        hooks.remove()
    if untried:
        raise CannotTryError(untried)
    return said[0] if said else ""


def _ignore(index: int, hidden_states: Tensor, inputs: Any) -> None:
    """Nothing is kept."""
