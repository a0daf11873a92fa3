"""What a folder, or a repository of the hub, says of the model in it. No weights are read, and no code of it is run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ntps_lightning.errors import first_line
from ntps_lightning.hub import HUB_ID, why_unreachable

# Files of a folder that an error names.
_SHOWN = 5


class NoModelError(Exception):
    """Why there is no model to look at, and the way out."""


def find_file(where: str, name: str) -> Path | None:
    """A file of a folder, or of a repository of the hub; ``None`` where it holds no such file.

    Raises:
        NoModelError: If there is no such folder or repository.

    """
    return _in_folder(Path(where), name) if Path(where).exists() else _on_hub(where, name)


def read_json(path: Path) -> dict[str, Any]:
    """What it holds.

    Raises:
        NoModelError: If that is no JSON object.

    """
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise NoModelError(f"{path.name} cannot be read ({first_line(error)}): save the model again") from error
    if not isinstance(content, dict):
        raise NoModelError(f"{path.name} holds no JSON object: save the model again")
    return content


def what_is_there(where: str) -> str:
    """The files of a folder, for an error."""
    if not Path(where).is_dir():
        return "the repository has neither"
    names = sorted(path.name for path in Path(where).iterdir())
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"it holds {', '.join(names[:_SHOWN])}{more}" if names else "it is empty"


def _in_folder(folder: Path, name: str) -> Path | None:
    if not folder.is_dir():
        raise NoModelError(f"{folder} is a file: name the folder that holds the model's config.json")
    return folder / name if (folder / name).exists() else None


def _on_hub(where: str, name: str) -> Path | None:
    from huggingface_hub import hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if not HUB_ID.fullmatch(where):
        raise NoModelError(f"there is no folder {where}: name one that save_pretrained wrote, or a hub id")
    cached = try_to_load_from_cache(where, name)
    if isinstance(cached, str):
        return Path(cached)
    unreachable = why_unreachable()
    if unreachable:
        raise NoModelError(
            f"there is no folder {where}, and {unreachable}, if that is a hub id: name a folder,"
            f" or fetch it where it can (hf download {where})"
        )
    try:
        return Path(hf_hub_download(where, name))
    except EntryNotFoundError as error:
        if not isinstance(error, LocalEntryNotFoundError):
            return None
        reason: Exception = error
    except Exception as error:  # no such repository, a gated one, no network, ...
        reason = error
    raise NoModelError(
        f"there is no folder {where}, and the hub did not hand out its {name} ({type(reason).__name__}:"
        f" {first_line(reason)}): check the name, or log in (hf auth login)"
    ) from reason
