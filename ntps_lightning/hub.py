"""Whether the hub of Hugging Face can be asked at all, and what its ids look like."""

from __future__ import annotations

import re
import socket
from urllib.parse import urlsplit
from urllib.request import getproxies

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
