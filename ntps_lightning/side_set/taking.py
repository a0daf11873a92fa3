"""What users hand over, taken once, with nothing left of the taking."""

from __future__ import annotations

import random
from abc import ABC
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.utils.data import DataLoader

from ntps_lightning.errors import SetupError

WANTED = (
    "rows, mappings with a text (or messages, or input_ids) and a label or pairs of these: a list, a Dataset or a"
    " DataFrame; or batches, mappings with (N, T) input_ids and N labels: a DataLoader or a list"
)
if TYPE_CHECKING:
    Rows = Any
else:

    class Rows(ABC):  # noqa: B024
        """Whatever can be gone through: a type by which a configuration file may name a class or function of rows."""

        @classmethod
        def __subclasshook__(cls, other):
            """Not lists and mappings, which a file holds itself."""
            if issubclass(other, (str, bytes, list, dict)):
                return False
            return hasattr(other, "__iter__") or _is_map_style(other)


# By name, since some are other packages': each gives a rank its share of the samples.
_SHARING = {"DistributedSampler", "BatchSamplerShard", "IterableDatasetShard", "DataLoaderDispatcher"}


def take(data: Any, what: str) -> list[Any]:
    """All rows or batches of ``data``; an endless iterable is never done with.

    The random numbers of PyTorch, NumPy and Python are as before, and so are the generators of a DataLoader; its
    workers are others than those of the loop that it may also serve.

    Raises:
        SetupError: If it cannot be iterated over, holds nothing, or gives each rank a share of its own.

    """
    if isinstance(data, Mapping):
        raise SetupError(
            f"{what} is a {type(data).__name__} with keys {sorted(map(str, data))}; give one split of it, a list with"
            f" that one batch, or {WANTED}"
        )
    if isinstance(data, (str, bytes)) or not (hasattr(type(data), "__iter__") or _is_map_style(type(data))):
        raise SetupError(f"{what} must be {WANTED}; got a {type(data).__name__}")
    if isinstance(data, DataLoader):
        data = copy(data)
        data._iterator = None  # workers that stay
        _refuse_shares(data, what)
    with _same_random_numbers(_generators(data)):
        items = list(_iterate(data))
    if not items:
        raise SetupError(f"{what} is empty; give {WANTED}")
    return items


def _iterate(data: Any) -> Iterator[Any]:
    if hasattr(data, "iloc") and hasattr(data, "to_dict"):  # pandas
        yield from data.to_dict("records")
    elif hasattr(type(data), "__iter__"):
        yield from data
    else:
        yield from (data[index] for index in range(len(data)))


def _is_map_style(kind: type) -> bool:
    return hasattr(kind, "__getitem__") and hasattr(kind, "__len__")


def _samplers(loader: DataLoader[Any]) -> list[Any]:
    batch_sampler = getattr(loader, "batch_sampler", None)
    found = (loader.sampler, batch_sampler, getattr(batch_sampler, "sampler", None))
    return [each for each in found if each is not None]


def _refuse_shares(loader: DataLoader[Any], what: str) -> None:
    for part in (loader, loader.dataset, *_samplers(loader)):
        if _SHARING & {base.__name__ for base in type(part).__mro__}:
            raise SetupError(
                f"{what} is a DataLoader with a {type(part).__name__}, which gives each rank a share; give every rank"
                " all of the set (a DataLoader without it): it is shared out here"
            )


def _generators(data: Any) -> list[torch.Generator]:
    """Those of its own that iterating draws from."""
    owners = [data, *_samplers(data)] if isinstance(data, DataLoader) else [data]
    found = (getattr(owner, "generator", None) for owner in owners)
    return [each for each in found if isinstance(each, torch.Generator)]


@contextmanager
def _same_random_numbers(generators: list[torch.Generator]) -> Iterator[None]:
    """Afterwards those are drawn that would have been drawn before."""
    states = [(each, each.get_state()) for each in generators]
    numpy_state = np.random.get_state()
    python_state = random.getstate()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        for generator, state in states:
            generator.set_state(state)
        np.random.set_state(numpy_state)
        random.setstate(python_state)
