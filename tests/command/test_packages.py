"""Versions against those that the metadata asks for."""

from __future__ import annotations

import re
from importlib import metadata

import pytest

from ntps_lightning.command.packages import OPTIONAL, find_packages, problems_of
from tests.support import ROOT

REQUIRES = [
    "torch>=2.9",
    "lightning>=2.6,<9",
    'typing-extensions>=4.6; python_version >= "3"',
    'nothing-of-old>=1; python_version < "3"',
    'matplotlib>=3.8; extra == "plots"',
    'peft>=0.21; extra == "huggingface"',
    'peft!=0.22; extra == "demo"',
]
HERE = {
    "ntps-lightning": "0.1.0",
    "torch": "2.13.0+cpu",
    "lightning": "2.6.0rc1",
    "typing-extensions": "4.16.0",
    "peft": "0.21.2",
}


@pytest.fixture
def installed(monkeypatch):
    """What is installed, to be changed."""
    here = dict(HERE)

    def version(name):
        if name not in here:
            raise metadata.PackageNotFoundError(name)
        return here[name]

    class Metadata(dict):
        def get_all(self, name):
            return ["plots", "huggingface", "demo"]

    monkeypatch.setattr(metadata, "version", version)
    monkeypatch.setattr(metadata, "requires", lambda name: REQUIRES)
    monkeypatch.setattr(metadata, "metadata", lambda name: Metadata({"Requires-Python": ">=3.10"}))
    return here


def found():
    return {package.name: package for package in find_packages()}


def test_what_is_wanted_is_what_the_metadata_says(installed):
    installed["lightning"] = "2.6.1"
    assert found()["torch"].wants == ">=2.9"
    assert found()["python"].wants == ">=3.10"
    assert found()["peft"].wants == "!=0.22,>=0.21", "of every extra"
    assert "nothing-of-old" not in found(), "its marker does not hold here"
    assert {name: package.status for name, package in found().items() if not package.purpose} == {
        "python": "ok",
        "ntps-lightning": "ok",
        "torch": "ok",
        "lightning": "ok",
        "typing-extensions": "ok",
    }
    assert problems_of(find_packages()) == []


@pytest.mark.parametrize(
    ("name", "version", "status", "mend"),
    [
        ("torch", "2.8.1", "too old", 'pip install "torch>=2.9"'),
        ("torch", None, "missing", 'pip install "torch>=2.9"'),
        ("lightning", "2.5.9", "too old", 'pip install "lightning<9,>=2.6"'),
        ("lightning", "9.0.0", "not supported", 'pip install "lightning<9,>=2.6"'),
        ("peft", "0.20", "too old", 'pip install "peft!=0.22,>=0.21"'),
        ("peft", "0.22", "not supported", 'pip install "peft!=0.22,>=0.21"'),
        ("peft", "of my own", "not supported", 'pip install "peft!=0.22,>=0.21"'),
    ],
)
def test_what_is_wrong_is_a_line_with_the_way_out(installed, name, version, status, mend):
    installed["lightning"] = "2.6.1"
    installed.pop(name) if version is None else installed.update({name: version})
    assert (found()[name].status, found()[name].mend) == (status, mend)
    (line,) = problems_of(find_packages())
    assert line.startswith(f"{name} ")
    assert line.endswith(f"is {status}: {mend}")


def test_a_release_candidate_is_older_than_the_release(installed):
    assert found()["lightning"].status == "too old"


def test_what_is_optional_may_be_missing(installed):
    installed["lightning"] = "2.6.1"
    assert found()["matplotlib"].status == "missing"
    assert found()["matplotlib"].mend == 'pip install "matplotlib>=3.8"'
    assert problems_of(find_packages()) == []


def test_a_checkout_that_is_not_installed_says_so(monkeypatch):
    def nowhere(name):
        raise metadata.PackageNotFoundError(name)

    for name in ("version", "requires", "metadata"):
        monkeypatch.setattr(metadata, name, nowhere)
    (line,) = problems_of(find_packages())
    assert line.startswith("ntps-lightning is missing: pip install -e .")


def test_every_package_of_an_extra_for_users_is_listed():
    extras = re.search(r"optional-dependencies]\n(.*?)\ndemo", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    names = {re.split(r"[<>=!~\[]", each)[0] for each in re.findall(r'"(.+?)"', extras[1])}
    assert names - {"ntps-lightning"} <= set(OPTIONAL)
