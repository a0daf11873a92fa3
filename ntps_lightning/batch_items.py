"""Where a user's batch or row holds something: a key, an index, an attribute, or a function."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from ntps_lightning.errors import SetupError

# An int before a str: the 1 of a command line is an index.
BatchItem = int | str | Callable[[Any], Any]


def read_item(batch: Any, where: BatchItem, what: str, of: str = "batch") -> Any:
    """The item that ``where`` names.

    Args:
        batch: what holds it.
        where: a key of a mapping, an index, the attribute of anything else, or a function.
        what: the argument that says where, for the error.
        of: what the holder is, for the error.

    Raises:
        SetupError: If there is no such item.

    """
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
            f"found no {what} at {where!r} in a {of} that is a {type(batch).__name__}{keys}{size}; say where they are"
            f" with {what}=...: a key, an index, an attribute, or a function of the {of}"
        ) from error


def count_samples(labels: Any) -> int:
    """Over how many samples these labels are."""
    try:
        return len(labels)
    except TypeError as error:
        raise SetupError(f"labels must be one per sequence, got a {type(labels).__name__} without length") from error


def describe(where: BatchItem | None) -> str:
    """A text that stays the same from process to process: a key, an index, or a function's qualified name."""
    if where is None or isinstance(where, (str, int)):
        return str(where)
    if isinstance(where, partial):
        return describe(where.func)
    return getattr(where, "__qualname__", type(where).__qualname__)
