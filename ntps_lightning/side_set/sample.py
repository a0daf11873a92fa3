"""One labelled text of a side set."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

# The label that PyTorch's losses ignore.
IGNORED = -100


@dataclass(frozen=True)
class Sample:
    """A text as the model sees it.

    Args:
        ids: its tokens.
        label: its class, a word, an integer or a bool; or its target, a number or a list of them.
        group: an integer or a word that samples share which are not independent; ``None`` where none was asked for.
        chosen: of each token, 1 if it counts and 0 if not; ``None`` where none were asked for.

    """

    ids: list[int]
    label: Any
    group: Any = None
    chosen: list[int] | None = None


def plain(value: Any) -> Any:
    """A scalar, array or tensor as Python has it."""
    return value.tolist() if hasattr(value, "tolist") else value


def is_missing(value: Any) -> bool:
    """Whether a plain label is none: ``None``, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and math.isnan(value))


def digest(samples: Iterable[Sample]) -> str:
    """Of the samples in whatever order, the same in every process."""
    digests = sorted(_digest(sample) for sample in samples)
    return blake2b(b"".join(digests), digest_size=16).hexdigest()


def _digest(sample: Sample) -> bytes:
    chosen = sample.chosen or []
    found = blake2b(repr((len(sample.ids), len(chosen), sample.label, sample.group)).encode(), digest_size=16)
    found.update(array("q", sample.ids).tobytes())
    found.update(array("b", chosen).tobytes())
    return found.digest()


def count_conflicts(samples: Iterable[Sample]) -> int:
    """How many texts stand under several labels, in one group where there are groups; -100 is none."""
    labels: dict[Any, set[str]] = {}
    for sample in samples:
        if sample.label == IGNORED:
            continue
        key = (tuple(sample.ids), tuple(sample.chosen or ()), sample.group)
        labels.setdefault(key, set()).add(repr(sample.label))
    return sum(len(found) > 1 for found in labels.values())
