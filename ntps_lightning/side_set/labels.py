"""Labels of all samples of a set, as one kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.errors import SetupError
from ntps_lightning.side_set.sample import IGNORED, is_missing, plain

_WANTED = "one a text: a word, an integer, a bool or a float, or a list of zeros and ones or of floats"


def read_labels(values: Sequence[Any], lengths: Sequence[int], what: str) -> list[Any]:
    """The labels of N samples: all words, all integers or bools, all floats, or all lists of C integers or floats.

    Args:
        values: as Python, NumPy or PyTorch have them.
        lengths: of the sequences, which tell token labels.
        what: the argument that they came with, for errors.

    Returns:
        N labels. A missing class (``None``, NaN, or pandas' NA) is ``None`` among words and -100 among integers.

    Raises:
        SetupError: If they are of several kinds, or of another; if they are token labels; if a target is missing; or if
            there are none but missing ones and one other.

    """
    labels = [_scalar(value) for value in values]
    there = [label for label in labels if not is_missing(label)]
    if all(isinstance(label, str) for label in there):
        labels = [None if is_missing(label) else label for label in labels]
    elif all(isinstance(label, int) for label in there):
        labels = _integers(labels)
    elif all(isinstance(label, (int, float)) for label in there):
        _refuse_missing(labels, what)
        labels = [float(label) for label in labels]
    elif all(isinstance(label, list) for label in there):
        _refuse_missing(labels, what)
        _refuse_token_labels(labels, lengths, what)
        labels = _lists(labels, what)
    else:
        kinds = sorted({type(label).__name__ for label in there})
        raise SetupError(f"labels of {what} must be {_WANTED}, all of one kind; got {', '.join(kinds)}")
    _refuse_one_class(labels, what)
    return labels


def collate_labels(labels: Sequence[Any]) -> Tensor | list[str]:
    """Of a batch: N words as a list; else ``(N,)`` or ``(N, C)``, int64, bool or float64."""
    first = labels[0]
    if isinstance(first, str):
        return list(labels)
    number = first[0] if isinstance(first, list) else first
    return torch.tensor(labels, dtype=torch.float64 if isinstance(number, float) else None)


def _scalar(value: Any) -> Any:
    value = plain(value)
    if isinstance(value, (list, tuple)):
        numbers = [plain(each) for each in value]
        return numbers[0] if len(numbers) == 1 else numbers
    return value


def _integers(labels: list[Any]) -> list[int]:
    """Bools as they are where all are."""
    if all(isinstance(label, bool) for label in labels):
        return labels
    return [IGNORED if is_missing(label) else int(label) for label in labels]


def _lists(labels: list[list[Any]], what: str) -> list[list[Any]]:
    """Of one length: of floats if any number is, else zeros and ones."""
    numbers = [number for label in labels for number in label]
    same = all(len(label) == len(labels[0]) for label in labels)
    if not same or not all(isinstance(number, (int, float)) for number in numbers):
        raise SetupError(
            f"labels of {what} are lists, but not of numbers, or not of one length: they must be {_WANTED}"
        )
    if all(isinstance(number, int) for number in numbers):
        return labels
    return [[float(number) for number in label] for label in labels]


def _refuse_missing(labels: list[Any], what: str) -> None:
    missing = sum(map(is_missing, labels))
    if missing:
        raise SetupError(
            f"{missing} of {len(labels)} labels of {what} are missing among targets (floats, or lists); leave those"
            " rows out. If they are classes, give integers: pandas makes floats of integers next to missing ones"
        )


def _refuse_token_labels(labels: list[list[Any]], lengths: Sequence[int], what: str) -> None:
    integers = all(isinstance(number, int) for label in labels for number in label)
    multi_hot = all(number in (0, 1) for label in labels for number in label)
    aligned = all(len(label) == length for label, length in zip(labels, lengths, strict=True))
    if integers and (aligned or not multi_hot):
        raise SetupError(
            f"labels of {what} are lists of integers, as many as tokens or not zeros and ones: token labels, it seems,"
            " which are next-token targets; name the classes of the sequences with labels=..."
        )


def _refuse_one_class(labels: list[Any], what: str) -> None:
    found = [label for label in labels if label is not None and label != IGNORED]
    if not found:
        raise SetupError(f"none of the {len(labels)} samples of {what} has a label")
    if all(label == found[0] for label in found):
        raise SetupError(
            f"all {len(found)} labelled samples of {what} have the label {found[0]!r}, so that there is nothing to tell"
            " apart; give at least two classes, or targets that differ"
        )
