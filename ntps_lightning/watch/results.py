"""What whoever watches a run can be asked for."""

from __future__ import annotations

from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.watch.records import Records


class Results:
    """Reads :attr:`records`, of the first set where there are several."""

    @property
    def records(self) -> dict[str, Records]:
        """What was measured, by what keys start with: several where ``data`` is several sets."""
        raise NotImplementedError

    @property
    def class_names(self) -> list[str]:
        """What each class is called, in the order of their indices, where labels are words."""
        return self._first.class_names

    @property
    def history(self) -> list[dict[str, float]]:
        """One dict for each measurement: ``step``, ``epoch`` and the logged values."""
        return self._first.history

    @property
    def details(self) -> dict[int, NTPSDetails]:
        """The latest details of each layer. Curves are whole for the headline where a figure of it is drawn."""
        return self._first.details

    @property
    def baseline_details(self) -> dict[int, NTPSDetails]:
        """The details of each layer from before the first step; empty where none were measured."""
        return self._first.baseline.details

    @property
    def changes(self) -> dict[str, dict[str, Estimate]]:
        """What the latest measurement has changed of the headline's held-out numbers since the ``"baseline"``, the
        ``"previous"`` measurement and the ``"best"`` one before by ``captured_r2``: each change with its own standard
        error, which is smaller than that of a difference between other samples. Nothing where other samples were read.
        """
        return self._first.changes

    @property
    def _first(self) -> Records:
        return next(iter(self.records.values()))
