"""A bar with the time that is left, where somebody sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ntps_lightning.distributed import rank_and_world_size


@contextmanager
def told(what: str) -> Iterator[None]:
    """Show what takes its time and has no measure, where :func:`shown` would show a bar."""
    if not _is_seen():
        yield
        return
    from rich.console import Console
    from rich.markup import escape

    with Console(stderr=True).status(escape(what)):
        yield


@contextmanager
def shown(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a pass has come, where rich is installed and stderr is a terminal.

    Args:
        what: is passed over.
        total: of its tokens.

    Yields:
        What is told how many of them have been passed.

    """
    if not _is_seen():
        yield lambda tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda tokens: progress.advance(task, tokens)


def _is_seen() -> bool:
    return sys.stderr.isatty() and rank_and_world_size()[0] == 0 and find_spec("rich") is not None
