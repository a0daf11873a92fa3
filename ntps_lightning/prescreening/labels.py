"""Labels of rows as classes or as targets."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.columns import Row
from ntps_lightning.side_set.sample import IGNORED, is_missing, plain


def is_empty(value: Any) -> bool:
    """Whether nothing stands there: ``None``, NaN, pandas' NA or white space."""
    value = plain(value)
    return is_missing(value) or (isinstance(value, str) and not value.strip())


def is_no_class(value: Any) -> bool:
    """Whether it is missing, or the class that losses ignore."""
    value = plain(value)
    return is_empty(value) or (type(value) is int and value == IGNORED)


def read_classes(rows: Sequence[Row]) -> list[str]:
    """The class of each row, none of which is missing, as a word.

    Raises:
        SetupError: If labels are numbers with a fraction, or no scalars.

    """
    words = [_word(row) for row in rows]
    numbers = [_number(word) for word in words]
    if all(number is not None for number in numbers):
        for row, number in zip(rows, numbers, strict=True):
            if number is not None and not number.is_integer():
                raise SetupError(
                    f"the label of {row.place} is {row.label!r}, a number with a fraction: say that labels are targets"
                    " with regression=True, or name the classes by words"
                )
        if any(isinstance(plain(row.label), float) or "." in word for row, word in zip(rows, words, strict=True)):
            return [str(int(number or 0)) for number in numbers]  # pandas makes floats of integers next to missing ones
    return words


def read_targets(rows: Sequence[Row]) -> list[float]:
    """The target of each row, none of which is missing.

    Raises:
        SetupError: If one is no finite number, or all are the same.

    """
    found = []
    for row in rows:
        value = plain(row.label)
        number = _number(value) if isinstance(value, str) else value
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not math.isfinite(number):
            raise SetupError(
                f"the label of {row.place} is {row.label!r}: with regression=True it must be a finite number"
            )
        found.append(float(number))
    if found and max(found) == min(found):
        raise SetupError(f"all {len(found)} labels are {found[0]:g}: there is nothing to predict")
    return found


def in_order(classes: set[str]) -> list[str]:
    """Numbers by size, words by the alphabet."""
    return sorted(classes, key=lambda word: (_number(word) is None, _number(word) or 0.0, word))


def _word(row: Row) -> str:
    value = plain(row.label)
    if isinstance(value, (str, bool, int, float)):
        return str(value).strip()
    raise SetupError(
        f"the label of {row.place} is a {type(value).__name__}: it must be a word or an integer, or with"
        " regression=True a number"
    )


def _number(word: str) -> float | None:
    try:
        found = float(word)
    except ValueError:
        return None
    return found if math.isfinite(found) else None
