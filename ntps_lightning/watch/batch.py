"""What a user's batch says of its samples: where its labels, mask, tokens and ids are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ntps_lightning.batch_items import BatchItem, read_item
from ntps_lightning.errors import SetupError

# The token label that PyTorch's losses ignore: a causal language model is not trained to predict these.
_IGNORED = -100


def read_tokens(batch: Any, where: BatchItem) -> Any:
    """The ``(N, T)`` tokens of a batch that count: the item that ``where`` names, or what its token labels say.

    Args:
        batch: the user's batch.
        where: ``"supervised"``, tokens whose token label is not -100; ``"prompt"``, those whose token label is; or as
            :func:`read_item` takes it.

    Raises:
        SetupError: If there is no such item, or no token labels.

    """
    if where == "supervised":
        return _token_labels(batch, where) != _IGNORED
    if where == "prompt":
        return _token_labels(batch, where) == _IGNORED
    return read_item(batch, where, "tokens")


def _token_labels(batch: Any, where: str) -> Tensor:
    found = batch.get("labels") if isinstance(batch, Mapping) else getattr(batch, "labels", None)
    if isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point():
        return found
    got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise SetupError(
        f'tokens="{where}" reads token labels, the item "labels" of a batch: integers of shape (N, T), -100 at the'
        f" prompt and at padding; in a batch that is a {type(batch).__name__} it found {got}. Say which tokens count"
        " with tokens=...: a key, an index, an attribute, or a function of the batch"
    )


def input_ids(batch: Any) -> list[Tensor]:
    """What the model's call may carry as its ids: the batch's own, or any tensor of a tuple."""
    if isinstance(batch, Mapping):
        found = [batch.get("input_ids")]
    elif isinstance(batch, (list, tuple)):
        found = [t for t in batch if isinstance(t, Tensor) and not t.is_floating_point()]
    else:
        found = [getattr(batch, "input_ids", None)]
    return [t for t in found if isinstance(t, Tensor)]
