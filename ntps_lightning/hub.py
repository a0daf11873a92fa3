"""Whether the hub of Hugging Face can be asked at all, and what its ids look like."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

_LONGEST = 200

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def why_unreachable() -> str:
    """Why not, in a few words; empty where it can.

    Asked first: the hub's own client tries again for half a minute.
    """
    from huggingface_hub import constants

    host = urlsplit(constants.ENDPOINT).hostname or ""
    return f"{host} cannot be reached from here" if constants.HF_HUB_OFFLINE or not _is_known(host) else ""


def _is_known(host: str) -> bool:
    if getproxies():
        return True
    try:
        return bool(socket.getaddrinfo(host, None))
    except OSError:
        return False


def first_line(error: Exception) -> str:
    """What it says, for a message that is one line; one that is long ends at a word."""
    line = (str(error).strip() or type(error).__name__).splitlines()[0]
    if len(line) <= _LONGEST:
        return line
    cut = line[:_LONGEST]
    return f"{cut.rpartition(' ')[0] or cut} …"
