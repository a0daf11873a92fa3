"""What a decoder was called with: ids, padding mask, positions."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ntps_lightning.errors import SetupError


@dataclass(frozen=True)
class ForwardInputs:
    """What the decoder was called with.

    Args:
        input_ids: ``(N, T)``, or ``None`` where embeddings were passed.
        attention_mask: whatever was passed as the mask.
        shape: ``(N, T)``, or ``(0, 0)`` where no input was recognised.
        device: of the input, or ``None`` where none was recognised.
        cached: whether a key-value cache was passed in, as ``generate()`` does.
        position_ids: whatever was passed as positions.
        cu_seq_lens: ``(S + 1,)`` cumulative lengths of packed sequences, as FlashAttention takes them.

    """

    input_ids: Tensor | None
    attention_mask: Any
    shape: tuple[int, int]
    device: torch.device | None
    cached: bool
    position_ids: Any = None
    cu_seq_lens: Any = None

    def padding_mask(self) -> Tensor | None:
        """The ``(N, T)`` padding mask; ``None`` where there was none, so that every token is valid.

        Raises:
            SetupError: If there was a mask of another kind.

        """
        mask = self.attention_mask
        if mask is None or (isinstance(mask, Tensor) and mask.ndim == 2):
            return mask
        got = f"one of shape {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask).__name__
        raise SetupError(
            f"the model was called with an attention_mask that is not (N, T) but {got}; say where the batch holds the"
            " padding mask with `attention_mask=`"
        )

    def has_unmasked_padding(self, pad_token_id: int | None, tokens: Tensor | None = None) -> bool:
        """Whether there was no mask, and rows begin or end in padding, which then counts as text.

        Args:
            pad_token_id: what padding is; ``None`` where that is not known.
            tokens: ``(N, T)`` bool, the tokens that count; ``None``: all.

        """
        ids = self.input_ids
        if ids is None or self.attention_mask is not None or pad_token_id is None or self.shape[1] < 2:
            return False
        padded = ids == pad_token_id  # a single one may be an end of text
        if tokens is not None and tokens.shape == ids.shape:
            padded &= tokens.to(ids.device)
        return bool((padded[:, :2].all(1) | padded[:, -2:].all(1)).any())


def read_forward_inputs(named: Mapping[str, Any], outer: Mapping[str, Any]) -> ForwardInputs:
    """What a decoder was called with, by the names of its arguments.

    Args:
        named: the decoder's own arguments.
        outer: those of the model round it, which may have made embeddings or other masks of what it was given.

    """
    ids, embeds = named.get("input_ids"), named.get("inputs_embeds")
    given = ids if ids is not None else embeds if embeds is not None else first_tensor(named.values())
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
    return ForwardInputs(
        input_ids=ids,
        attention_mask=mask,
        shape=shape,
        device=None if given is None else given.device,
        cached=named.get("past_key_values") is not None,
        position_ids=named.get("position_ids"),
        cu_seq_lens=named.get("cu_seq_lens_q"),
    )


def named_arguments(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of a forward pass by name; wrapped forwards also take some that the signature does not name."""
    return dict(zip(inspect.signature(module.forward).parameters, args, strict=False)) | kwargs


def first_tensor(values: Iterable[Any]) -> Any:
    """The first tensor among ``values``, or ``None``."""
    return next((value for value in values if isinstance(value, torch.Tensor)), None)
