"""COMPATIBILITY.md says what the tests say."""

from __future__ import annotations

import re

from packaging.version import Version

from tests.support import ROOT, compatibility


def test_the_table_has_every_row_and_no_failure(pytestconfig):
    text = compatibility.FILE.read_text()
    missing = {row for _, row, *_ in pytestconfig.compatibility_cases if f"| {row} |" not in text}
    assert not missing, "run `make compatibility`"
    assert "✗" not in text


def test_what_did_not_run_is_told_from_what_passed():
    table = compatibility.Table()
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


def test_the_lowest_versions_are_those_of_pyproject_wherever_they_are_stated():
    floors = compatibility.floors()
    assert floors["torch"] == "torch>=2.6"
    section = compatibility.floor_section(compatibility.FILE.read_text())
    assert section.splitlines()[2].startswith(f"{', '.join(f'`{floor}`' for floor in floors.values())}. Written by")
    said = re.findall(r"`([a-z]+[>!]=[\d.,>!=]+)`", (ROOT / "README.md").read_text())
    assert sorted(said) == sorted(floors.values())
    pinned = (ROOT / "constraints-floor.txt").read_text()
    for name in ("lightning", "pytorch-lightning", "transformers", "peft", "torchmetrics"):
        lowest = Version(re.search(rf'"{name}>=([\d.]+)', (ROOT / "pyproject.toml").read_text())[1])
        assert Version(re.search(rf"^{name}==(.*)$", pinned, re.MULTILINE)[1]).release[:2] == lowest.release[:2]


def test_the_section_of_the_lowest_versions_says_what_did_not_run():
    table = compatibility.Table("floor")
    table.outcomes = {
        ("Models", "Llama", "LoRA"): "✓",
        ("Models", "Llama", "classifier"): "not run: no such class",
        ("Models", "Gemma 4", "LoRA"): "not run: no such model",
        ("Models", "Gemma 4", "DoRA"): "not run: no such model",
        ("Faults", "NaN", "warned of"): "✗",
    }
    section = table.render_floor()
    assert "1 of 5 passed, with torch" in section
    assert "| Models | Llama: classifier | no such class |\n| Models | Gemma 4 | no such model |" in section
    assert "| Faults | NaN | ✗ |" in section
    whole = table.render(section)
    assert compatibility.floor_section(whole) == section
    assert compatibility.floor_section(table.render()) == ""
