"""What a user's batch says of its samples: where its labels, mask and ids are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ntps_lightning.errors import SetupError

BatchItem = str | int | Callable[[Any], Any]


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


def input_ids(batch: Any) -> list[Tensor]:
    """What the model's call may carry as its ids: the batch's own, or any tensor of a tuple."""
    if isinstance(batch, Mapping):
        found = [batch.get("input_ids")]
    elif isinstance(batch, (list, tuple)):
        found = [t for t in batch if isinstance(t, Tensor) and not t.is_floating_point()]
    else:
        found = [getattr(batch, "input_ids", None)]
    return [t for t in found if isinstance(t, Tensor)]
