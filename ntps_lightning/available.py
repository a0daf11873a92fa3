"""How much memory this process may still take, on a host or a GPU."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import torch

_MEMINFO = Path("/proc/meminfo")
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUPS = Path("/proc/self/cgroup")
# Of each version of cgroups: where memory is counted, its limit, what is used, and what of that is only cached files.
_FILES = {
    2: ("", "memory.max", "memory.current", "inactive_file"),
    1: ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
}


def available_bytes(device: torch.device) -> int | None:
    """Bytes of which no more can be allocated on ``device``: of a host what is free (where only that is known, as on
    macOS, all that it has), and within the limits of the control groups of this process (containers, batch systems);
    of a GPU what is free. ``None`` where nothing is known.
    """
    if device.type == "cpu":
        return min((room for room in (_host(), *_cgroup_rooms()) if room is not None), default=None)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return None


def processes_on_this_host() -> int:
    """How many processes of this run share the host's memory, as launchers say it; 1 where none does."""
    said = (os.environ.get(name, "") for name in ("LOCAL_WORLD_SIZE", "SLURM_NTASKS_PER_NODE"))
    return next((int(count) for count in said if count.isdigit() and int(count)), 1)


def _host() -> int | None:
    """What Linux says is free; elsewhere in POSIX all that there is; ``None`` on Windows, which says neither so."""
    try:
        lines = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(lines["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError, ValueError):
        return _all_of_the_host()


def _all_of_the_host() -> int | None:
    try:
        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None
    return pages * size if pages > 0 else None  # -1: not told


def _cgroup_rooms() -> Iterator[int]:
    """What each limit on this process leaves: groups are nested, and each may have one."""
    for version, path in _own_cgroups():
        where, limit, used, cached = _FILES[version]
        root = _CGROUPS / where
        for folder in (root / path, *(root / path).parents):
            room = _room(folder, limit, used, cached)
            if room is not None:
                yield room
            if folder == root:
                break


def _own_cgroups() -> list[tuple[int, str]]:
    """Version and path of the groups that count this process's memory."""
    try:
        lines = [line.split(":", 2) for line in _OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        return []
    found = [(2 if not controllers else 1, path) for _, controllers, path in lines if controllers in ("", "memory")]
    return [(version, path.lstrip("/")) for version, path in found]


def _room(folder: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        most, now = int((folder / limit).read_text()), int((folder / used).read_text())
        stat = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
    except (OSError, ValueError):  # no such group here, or no limit ("max")
        return None
    return max(0, most - now + int(stat.get(cached, 0)))
