"""COMPATIBILITY.md says what the tests say."""

from __future__ import annotations

from tests.support import compatibility


def test_the_table_has_every_row_and_no_failure(pytestconfig):
    text = compatibility.FILE.read_text()
    missing = {row for _, row, *_ in pytestconfig.compatibility_cases if f"| {row} |" not in text}
    assert not missing, "run `make compatibility`"
    assert "✗" not in text


def test_what_did_not_run_is_told_from_what_passed():
    table = compatibility.Table(write=False)
    table.outcomes = {
        ("Models", "Llama", "LoRA"): "✓",
        ("Models", "Llama", "DoRA"): "✗",
        ("Models", "GPT", "LoRA"): "✓",
        ("Faults", "NaN", "warned of"): "not run: no GPU",
    }
    text = table.render()
    assert "2 of 4 passed" in text
    assert "| Llama | ✓ | ✗ |\n| GPT | ✓ |  |" in text
    assert "| NaN | not run: no GPU | warned of |" in text
