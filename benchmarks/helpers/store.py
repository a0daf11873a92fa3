"""What was measured is kept, so that a benchmark that was stopped goes on."""

import json
from pathlib import Path

FOLDER = Path(__file__).parents[2] / "build"


class Store:
    """Results by key, a line of JSON each, in ``build/NAME.jsonl``."""

    def __init__(self, name, folder=None):
        self._path = (folder or FOLDER) / f"{name}.jsonl"
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        self._known = {tuple(line["key"]): line["found"] for line in map(json.loads, lines)}

    def get(self, key, measure):
        """What is known under a key; else ``measure()``, which is kept."""
        if key not in self._known:
            self._known[key] = measure()
            self._path.parent.mkdir(exist_ok=True)
            with self._path.open("a") as file:
                print(json.dumps({"key": key, "found": self._known[key]}), file=file)
        return self._known[key]

    def __contains__(self, key):
        return key in self._known

    def __getitem__(self, key):
        return self._known[key]

    def forget(self):
        """Measure all again."""
        self._path.unlink(missing_ok=True)
        self._known.clear()
