"""A bar with the time that is left, where somebody sees it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from ntps_lightning.distributed import rank_and_world_size


@contextmanager
def shown(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """Show how far a pass has come, where rich is installed and stderr is a terminal.

    Args:
        what: is passed over.
        total: of its tokens.

    Yields:
        What is told how many of them have been passed.

    """
    if not sys.stderr.isatty() or rank_and_world_size()[0] > 0 or find_spec("rich") is None:
        yield lambda tokens: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda tokens: progress.advance(task, tokens)
