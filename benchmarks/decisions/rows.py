"""Rows on disk: a line of JSON each, added as they come."""

import json
from pathlib import Path

FOLDER = Path(__file__).parent / "results"
KINDS = ("bases", "runs", "many")


class Rows:
    """The rows of a kind, by the name of what was run."""

    def __init__(self, kind: str, folder: Path = FOLDER):
        self._file = folder / f"{kind}.jsonl"
        lines = self._file.read_text().splitlines() if self._file.exists() else []
        self.all = {row["name"]: row for row in map(json.loads, lines)}

    def __contains__(self, name: str) -> bool:
        return name in self.all

    def add(self, name: str, row: dict) -> None:
        """Keep a row."""
        line = json.dumps({"name": name, **rounded(row)}, separators=(",", ":"))
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("ab", buffering=0) as file:  # at once: another process may add rows
            file.write(f"{line}\n".encode())
        self.all[name] = json.loads(line)


def rounded(value):
    """Five digits, so that rows are short."""
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [rounded(each) for each in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value
