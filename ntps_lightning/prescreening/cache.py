"""What was measured before, on disk: a file for each model on each data set with the same settings."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from ntps_lightning.errors import first_line
from ntps_lightning.prescreening.measured import Measured
from ntps_lightning.prescreening.state import measured_of, plain
from ntps_lightning.prescreening.whole_file import write_whole


def default_folder() -> Path:
    """In the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "ntps_lightning" / "prescreen"


@dataclass(frozen=True)
class Key:
    """What tells a measurement apart.

    Args:
        model: a hash of the model's content.
        data: a hash of texts, labels and groups.
        tokens: a hash of the tokens of these texts.

    """

    model: str
    data: str
    tokens: str


@dataclass(frozen=True)
class Cache:
    """A folder.

    Args:
        folder: made where it is not there.
        settings: all that numbers depend on beside the model and the data: plain values.

    """

    folder: Path
    settings: Mapping[str, Any]

    def read(self, key: Key) -> tuple[Measured | None, str]:
        """What was measured, if it was; and what is wrong with its file, if something is."""
        path = self._path(key)
        try:
            content = path.read_bytes()
        except FileNotFoundError:
            return None, ""
        except OSError as error:
            return None, f"{path} cannot be read ({first_line(error)}), and is measured again"
        try:
            state = json.loads(content)
            if state["key"] != self._whole(key):
                return None, f"{path} is of another measurement, and is made anew"
            return measured_of(state["measured"]), ""
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"{path} is damaged ({type(error).__name__}: {first_line(error)}), and is made anew"

    def write(self, key: Key, measured: Measured) -> str:
        """Keep what was measured; returns why that could not be, empty where it is kept."""
        path = self._path(key)
        state = {"key": self._whole(key), "measured": measured}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps(plain(state)))
        except OSError as error:
            return f"{path} cannot be written ({first_line(error)}): it will be measured again the next time"
        return ""

    def _whole(self, key: Key) -> dict[str, Any]:
        found: dict[str, Any] = plain({**vars(key), "settings": self.settings})
        return found

    def _path(self, key: Key) -> Path:
        name = sha256(json.dumps(self._whole(key), sort_keys=True).encode()).hexdigest()[:32]
        return self.folder / f"{name}.json"


def renamed(measured: Measured, model: str, data: str, remarks: tuple[str, ...]) -> Measured:
    """The same content under the names that it has now, with what is known of these data put first."""
    return replace(measured, model=model, data=data, remarks=(*remarks, *measured.remarks))
