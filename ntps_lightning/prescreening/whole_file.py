"""Files that are there in whole or not at all, whatever happens meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from uuid import uuid4


def write_whole(path: Path, text: str) -> None:
    """Write a file in UTF-8, in place of one that is there.

    Raises:
        OSError: If it cannot be written; what was there before is there still.

    """
    part = path.with_name(f"{path.name}.{uuid4().hex}.part")
    try:
        part.write_text(text, "utf-8", newline="")
        os.replace(part, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with suppress(OSError):
            part.unlink()
