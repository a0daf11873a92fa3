"""What is installed, next to what this package's own metadata asks for; nothing of it is imported."""

from __future__ import annotations

import platform
import shlex
from dataclasses import dataclass
from importlib import metadata
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

Status = Literal["ok", "too old", "not supported", "missing"]

_OWN = "ntps-lightning"
# Nobody has to have these: what each is for.
OPTIONAL = {
    "matplotlib": "figures",
    "peft": "LoRA and other adapters",
    "accelerate": "Hugging Face's Trainer",
    "trl": "TRL's trainers",
    "pytorch-lightning": "Lightning under its other name",
    "datasets": "labelled sets as they come from the hub or from files",
    "pandas": "labelled sets in frames",
    "rich": "tables in the terminal",
}


@dataclass(frozen=True)
class Package:
    """A package.

    Args:
        name: as it is installed.
        installed: its version, if it is here.
        wants: the versions that are supported, such as ``">=2.9"``; empty: any.
        purpose: what it is for, where it is optional.
        status: whether what is installed is what is wanted.
        mend: the line that installs it, where it is not.

    """

    name: str
    installed: str | None
    wants: str
    purpose: str
    status: Status
    mend: str


def find_packages() -> list[Package]:
    """Python, this package, what it needs, and what it can use."""
    wanted = _wanted()
    needed = [name for name, (_, always) in wanted.items() if always]
    names = dict.fromkeys([*needed, *OPTIONAL])
    python = _package("python", platform.python_version(), SpecifierSet(_python_wanted()))
    own = _package(_OWN, installed_version(_OWN), SpecifierSet())
    found = [_package(name, installed_version(name), wanted.get(name, (SpecifierSet(), False))[0]) for name in names]
    return [python, own, *found]


def problems_of(packages: list[Package]) -> list[str]:
    """A line for each that is needed and missing, or installed and not what is wanted."""
    return [
        f"{package.name} {package.installed or ''} is {package.status}: {package.mend}".replace("  ", " ")
        for package in packages
        if package.status != "ok" and not (package.status == "missing" and package.purpose)
    ]


def installed_version(name: str) -> str | None:
    """The version of a package, read from its metadata."""
    try:
        # An installation that broke off may have left metadata that names none.
        return metadata.version(name) or None
    except metadata.PackageNotFoundError:
        return None


def _wanted() -> dict[str, tuple[SpecifierSet, bool]]:
    """The versions of each package that the metadata names, with or without an extra, and whether it is needed."""
    try:
        lines = metadata.requires(_OWN) or []
        extras = metadata.metadata(_OWN).get_all("Provides-Extra") or []
    except metadata.PackageNotFoundError:
        return {}
    found: dict[str, tuple[SpecifierSet, bool]] = {}
    for requirement in map(Requirement, lines):
        applies = [extra for extra in ("", *extras) if _applies(requirement, extra)]
        if applies:
            name = canonicalize_name(requirement.name)
            before, always = found.get(name, (SpecifierSet(), False))
            found[name] = (before & requirement.specifier, always or "" in applies)
    return found


def _applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def _python_wanted() -> str:
    try:
        return str(metadata.metadata(_OWN)["Requires-Python"] or "")
    except metadata.PackageNotFoundError:
        return ""


def _package(name: str, installed: str | None, wants: SpecifierSet) -> Package:
    status = _status(installed, wants)
    return Package(
        name, installed, str(wants), OPTIONAL.get(name, ""), status, _mend(name, wants) if status != "ok" else ""
    )


def _status(installed: str | None, wants: SpecifierSet) -> Status:
    if installed is None:
        return "missing"
    try:
        version = Version(installed)
    except InvalidVersion:
        return "not supported"
    if wants.contains(version, prereleases=True):
        return "ok"
    floors = [each for each in wants if each.operator in (">=", ">", "~=", "==")]
    older = any(Version(each.version.removesuffix(".*")) > version for each in floors)
    return "too old" if older else "not supported"


def _mend(name: str, wants: SpecifierSet) -> str:
    if name == "python":
        return f"make an environment of Python {wants}"
    if name == _OWN:
        return "pip install -e . in its checkout (it is imported, but not installed, and does not say what it needs)"
    return f"pip install {shlex.quote(f'{name}{wants}')}".replace("'", '"')
