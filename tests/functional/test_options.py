from __future__ import annotations

from dataclasses import fields

import pytest

from ntps_lightning import ScoreOptions
from ntps_lightning.functional.options import ScoreKeywords


@pytest.mark.parametrize(
    ("k", "hidden_size", "num_outputs", "count"),
    [
        (None, 576, 5, 6),
        (None, 576, 77, 77),
        (None, 3, 5, 3),
        (7, 576, 5, 7),
        (0.05, 576, 5, 29),
        (1.0, 9, 5, 9),
        (1, 9, 5, 1),
    ],
)
def test_k_is_a_count_or_a_fraction(k, hidden_size, num_outputs, count):
    assert ScoreOptions(k=k).num_directions(hidden_size, num_outputs) == count


def test_the_keywords_are_the_fields():
    types = {field.name: field.type for field in fields(ScoreOptions)}
    assert {name: hint.__forward_arg__ for name, hint in ScoreKeywords.__annotations__.items()} == types


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, r"k must be a count in \[1, the hidden size d\]"),
        ({"k": True}, "got True"),
        ({"k": 1.5}, "got 1.5"),
        ({"ridge": float("inf")}, "ridge must be a finite number >= 0"),
        ({"pooling": "max"}, "pooling must be"),
        ({"precision": "tf32"}, "precision must be"),
    ],
)
def test_what_no_data_could_make_right_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        ScoreOptions(**options)


def test_a_count_is_held_against_the_hidden_size():
    ScoreOptions(k=6).check_hidden_size(6)
    with pytest.raises(ValueError, match=r"\[1, d = 6\] .* got 7"):
        ScoreOptions(k=7).check_hidden_size(6)
