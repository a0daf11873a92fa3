"""Every extra that the package or its documents name is there."""

from __future__ import annotations

import re

from tests.support import ROOT


def test_extras_that_are_named_exist():
    pyproject = (ROOT / "pyproject.toml").read_text()
    section = pyproject.partition("[project.optional-dependencies]")[2].partition("\n[")[0]
    extras = set(re.findall(r"^(\w+) = \[", section, re.MULTILINE))
    assert {"plots", "huggingface", "prescreen", "all"} <= extras
    sources = [
        *(ROOT / "ntps_lightning").rglob("*.py"),
        *ROOT.glob("*.md"),
        *ROOT.glob("docs/*.md"),
        ROOT / "pyproject.toml",
    ]
    found = {
        (file.name, extra)
        for file in sources
        for names in re.findall(r"ntps[-_]lightning\[([\w,-]+)\]", file.read_text())
        for extra in names.split(",")
    }
    assert {file for file, _ in found} >= {"adapters.py", "README.md"}
    assert {extra for _, extra in found} <= extras
