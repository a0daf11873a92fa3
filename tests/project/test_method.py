"""docs/METHOD.md, the code that cites it and the tests that it names agree."""

from __future__ import annotations

import ast
import re

import pytest

from tests.support import ROOT

METHOD = (ROOT / "docs" / "METHOD.md").read_text()
FUNCTIONAL = sorted((ROOT / "ntps_lightning" / "functional").glob("*.py"))


def test_equations_are_numbered_through():
    assert re.findall(r"\\tag\{(\d+)\}", METHOD) == [str(number) for number in range(1, 37)]


def test_every_equation_that_is_cited_is_there():
    cited = [
        number
        for file in FUNCTIONAL
        for text in re.findall(r"METHOD ([\d, ]+\d)", file.read_text())
        for number in re.findall(r"\d+", text)
    ]
    assert {int(number) for number in cited} <= set(range(1, 37))
    assert len(cited) > 15


def test_every_test_that_is_named_is_there():
    file, named = "", set()
    for found, name in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", METHOD):
        file = found or file
        named.add((file, name))
    assert len(named) > 20
    for file, name in named:
        functions = ast.parse((ROOT / "tests" / "functional" / file).read_text()).body
        assert name in {node.name for node in functions if isinstance(node, ast.FunctionDef)}, (file, name)


def test_every_function_that_is_named_is_there():
    code = "\n".join(file.read_text() for file in FUNCTIONAL)
    names = set(re.findall(r"`([A-Za-z_]+)`", METHOD)) | set(re.findall(r"`[A-Z][A-Za-z]+\.([a-z_]+)`", METHOD))
    missing = {name for name in names if not re.search(rf"\b{name}\b", code)}
    assert not missing


DOCUMENTS = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "STUDY.md")]


@pytest.mark.parametrize("document", [*DOCUMENTS, *(ROOT / "docs").glob("*.md")], ids=lambda path: path.name)
def test_every_file_that_a_document_names_is_there(document):
    text = document.read_text()
    named = set(re.findall(r"`((?:tests|benchmarks|examples|docs|ntps_lightning)/[\w./]+)`", text))
    named |= {link for link in re.findall(r"\]\(([\w./]+)\)", text) if "//" not in link}
    missing = [name for name in named if not (ROOT / name).exists() and not (document.parent / name).exists()]
    assert not missing
