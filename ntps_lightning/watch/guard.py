"""What goes wrong in measuring stays here: the run goes on without the score."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from ntps_lightning.distributed import ELSEWHERE, max_over_ranks, rank_and_world_size
from ntps_lightning.errors import SetupError
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.notices import Notices
from ntps_lightning.watch.names import valid_key

OnError = Literal["warn", "raise"]


class Guard:
    """Lets a run go on where a score fails, and says so once.

    Args:
        on_error: ``"warn"``, or ``"raise"`` to stop the run instead.
        prefix: what the score's keys start with.

    Attributes:
        fault: why the measurement under way has no score; empty while nothing went wrong.
        notices: what was said in this run that is said once.

    Raises:
        ValueError: If ``on_error`` is neither.

    """

    def __init__(self, on_error: OnError, prefix: str) -> None:
        if on_error not in ("warn", "raise"):
            raise ValueError(f'on_error must be "warn" or "raise", got {on_error!r}')
        self.fault = ""
        self.notices = Notices()
        self._step = 0
        self._early = False
        self._stopping: Exception | None = None
        self._on_error = on_error
        self._prefix = prefix
        self._warned = False
        self._beside: Guard | None = None

    def beside(self) -> Guard:
        """For another measurement at the same time: its faults are its own, and not told where this one has failed."""
        other = Guard(self._on_error, self._prefix)
        other.begin(self._step, early=self._early)
        other._beside = self
        return other

    def begin(self, step: int, *, early: bool) -> None:
        """A measurement begins.

        Args:
            step: the optimizer steps that were made before.
            early: whether nothing is lost yet, so that what cannot work at all is raised.

        """
        self.fault = ""
        self._step = step
        self._early = early
        self._stopping = None

    def new_run(self) -> None:
        """What is said once may be said again."""
        self._warned = False
        self.notices = Notices()

    @contextmanager
    def measuring(self, monitor: NTPSMonitor | None = None) -> Iterator[None]:
        """What fails in this block costs the score of the measurement.

        It is raised all the same with ``on_error="raise"``, or if it cannot work at all and nothing is lost yet: at
        once, or where other ranks would wait for this one by :meth:`agree`, on all of them.
        """
        try:
            yield
        except Exception as error:
            if self._on_error == "raise" or (self._early and isinstance(error, SetupError)):
                if rank_and_world_size()[1] == 1:
                    raise
                self._stopping = self._stopping or error
            reason = str(error) or repr(error)
            self.fault = self.fault or reason
            if monitor is not None:
                monitor.fail(reason)
            self._warn_once(reason)

    @contextmanager
    def logging(self, what: str) -> Iterator[None]:
        """What fails in this block costs no more than the picture or the point that it is about.

        It is raised all the same with ``on_error="raise"``, where no other rank would wait for this one.
        """
        try:
            yield
        except Exception as error:
            if self._on_error == "raise" and rank_and_world_size()[1] == 1:
                raise
            self._warn_once(f"{what}: {error!r}")

    def agree(self) -> bool:
        """Whether no rank has a fault; every rank must call it.

        Raises:
            Exception: On every rank, what must stop the run on one.

        """
        failed, stopping = max_over_ranks([bool(self.fault), self._stopping is not None])
        if stopping:
            raise self._stopping or SetupError(ELSEWHERE)
        if failed and not self.fault:
            self.fault = ELSEWHERE
        return not failed

    def _warn_once(self, reason: str) -> None:
        stops = self._stopping is not None
        if not stops and not self._warned and not (self._beside is not None and self._beside.fault):
            self._warned = True
            warnings.warn(
                f"NTPS, step {self._step}: {reason}. The run goes on; `{valid_key(self._prefix)}` = 0"
                ' marks validations without a score. This is said once; on_error="raise" stops the run instead.',
                stacklevel=2,
            )
