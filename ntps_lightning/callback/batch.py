"""What a user's batch says of its samples: where its labels, mask, tokens and ids are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from ntps_lightning.errors import SetupError

BatchItem = str | int | Callable[[Any], Any]

# The token label that PyTorch's losses ignore: a causal language model is not trained to predict these.
_IGNORED = -100


def read_item(batch: Any, where: BatchItem, what: str) -> Any:
    """The item of a batch that ``where`` names."""
    if batch is None:
        raise SetupError("validation_step takes a dataloader_iter, so that no batch is seen; take (batch, batch_idx)")
    try:
        if callable(where):
            return where(batch)
        if isinstance(where, str) and not isinstance(batch, Mapping):
            return getattr(batch, where)
        return batch[where]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        size = f" of {len(batch)}" if isinstance(batch, (list, tuple)) else ""
        raise SetupError(
            f"found no {what} at {where!r} in a batch that is a {type(batch).__name__}{keys}{size}; say where they are"
            f" with NTPSCallback({what}=...): a key, an index, an attribute, or a function of the batch"
        ) from error


def count_samples(labels: Any) -> int:
    """Over how many samples these labels are."""
    try:
        return len(labels)
    except TypeError as error:
        raise SetupError(f"labels must be one per sequence, got a {type(labels).__name__} without length") from error


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


def describe(where: BatchItem | None) -> str:
    """A text that stays the same from process to process: a key, an index, or a function's qualified name."""
    if where is None or isinstance(where, (str, int)):
        return str(where)
    if isinstance(where, partial):
        return describe(where.func)
    return getattr(where, "__qualname__", type(where).__qualname__)


def _token_labels(batch: Any, where: str) -> Tensor:
    found = batch.get("labels") if isinstance(batch, Mapping) else getattr(batch, "labels", None)
    if isinstance(found, Tensor) and found.ndim == 2 and not found.is_floating_point():
        return found
    got = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise SetupError(
        f'tokens="{where}" reads token labels, the item "labels" of a batch: integers of shape (N, T), -100 at the'
        f" prompt and at padding; in a batch that is a {type(batch).__name__} it found {got}. Say which tokens count"
        " with NTPSCallback(tokens=...): a key, an index, an attribute, or a function of the batch"
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
