"""What prescreening has found: everything that was measured, and the questions that can be asked of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ntps_lightning.errors import first_line
from ntps_lightning.prescreening.measured import Measured
from ntps_lightning.prescreening.ranking import Ranking, layer_to_read, rank_data, rank_layers, rank_models
from ntps_lightning.prescreening.state import measured_of, plain
from ntps_lightning.prescreening.table import layer_rows
from ntps_lightning.prescreening.whole_file import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

_FORMAT = 1


@dataclass(frozen=True, eq=False)
class Prescreen:
    """Models on data sets, before any finetuning. Answers are made from what was measured, and are the same each time.

    Args:
        measured: each model on each data set, once.
        settings: with which it was measured, plain values.
        versions: of the packages that measured.
        remarks: what went wrong on the way without ending it, such as a model that could not be measured.

    Raises:
        ValueError: If a model was measured twice on a data set, or nothing was measured.

    """

    measured: tuple[Measured, ...]
    settings: Mapping[str, Any]
    versions: Mapping[str, str]
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        pairs = [(each.model, each.data) for each in self.measured]
        if not pairs:
            raise ValueError("nothing was measured: a result needs at least one model on one data set")
        for pair in pairs:
            if pairs.count(pair) > 1:
                raise ValueError(f"model {pair[0]!r} on data {pair[1]!r} is there twice: give one of them another name")

    @property
    def models(self) -> tuple[str, ...]:
        """Names, in the order of measurements."""
        return tuple(dict.fromkeys(each.model for each in self.measured))

    @property
    def data(self) -> tuple[str, ...]:
        """Names of data sets, in the order of measurements."""
        return tuple(dict.fromkeys(each.data for each in self.measured))

    def of(self, model: str | None = None, data: str | None = None) -> Measured:
        """A model on a data set.

        Args:
            model: its name; may be left out where there is one.
            data: its name; may be left out where there is one.

        Raises:
            ValueError: If there is none such, or a name is left out where there are several.

        """
        model, data = _one("model", model, self.models), _one("data set", data, self.data)
        for each in self.measured:
            if (each.model, each.data) == (model, data):
                return each
        raise ValueError(f"model {model!r} was not measured on data {data!r}")

    def best_layer(self, model: str | None = None, data: str | None = None) -> int:
        """The layer to read: the one with the highest held-out R². See :meth:`of` for arguments and errors."""
        return layer_to_read(self.of(model, data)).layer

    def rank_layers(self, model: str | None = None, data: str | None = None) -> Ranking:
        """Layers by held-out R². See :meth:`of` for arguments and errors."""
        measured = self.of(model, data)
        return self._once(("layers", measured.model, measured.data), lambda: rank_layers(measured))

    def rank_models(self, data: str | None = None) -> Ranking:
        """Models on a data set, each at its best layer, by held-out R².

        Args:
            data: see :meth:`of`.

        Raises:
            ValueError: See :meth:`of`.

        """
        data = _one("data set", data, self.data)
        measured = [each for each in self.measured if each.data == data]
        return self._once(("models", data), lambda: rank_models(measured))

    def rank_data(self, model: str | None = None) -> Ranking:
        """Data sets for a model, each at its best layer, by held-out R²: by which the model reads best as it is.

        Args:
            model: see :meth:`of`.

        Raises:
            ValueError: See :meth:`of`.

        """
        model = _one("model", model, self.models)
        measured = [each for each in self.measured if each.model == model]
        return self._once(("data", model), lambda: rank_data(measured))

    @cached_property
    def _rankings(self) -> dict[tuple[str, ...], Ranking]:
        """Those that were asked for: of many layers each takes half a second."""
        return {}

    def _once(self, key: tuple[str, ...], make: Callable[[], Ranking]) -> Ranking:
        if key not in self._rankings:
            self._rankings[key] = make()
        return self._rankings[key]

    def to_pandas(self) -> DataFrame:
        """A row a layer.

        Raises:
            ModuleNotFoundError: If pandas is not installed.

        """
        from pandas import DataFrame

        return DataFrame(layer_rows(self.measured))

    def plot(self) -> Figure:
        """Held-out numbers by layer with two standard errors either way, a panel a data set.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.

        """
        from ntps_lightning.figures.layers import layer_figure
        from ntps_lightning.prescreening.panels import panels

        return layer_figure(panels(self.measured))

    def to_json(self) -> str:
        """All of it, from which :meth:`load` makes it again: influences of rows on errors too."""
        state = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(plain({"format": _FORMAT, **state}), allow_nan=False)

    def save(self, path: str | Path) -> None:
        """Write :meth:`to_json` to a file."""
        write_whole(Path(path), self.to_json())

    @classmethod
    def load(cls, path: str | Path) -> Prescreen:
        """What :meth:`save` has written.

        Raises:
            ValueError: If the file is none, is of another format, or was written by another version.

        """
        try:
            state = json.loads(Path(path).read_text("utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} is no result of prescreening: {first_line(error)}") from None
        found = state.get("format") if isinstance(state, dict) else None
        if found != _FORMAT:
            raise ValueError(
                f"{path} has format {found}, this version reads {_FORMAT}: write it again with this version"
            )
        try:
            measured = tuple(map(measured_of, state["measured"]))
            return cls(measured, state["settings"], state["versions"], tuple(state["remarks"]))
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{path} was written by another version of this package, or changed since ({first_line(error)}):"
                " prescreen again, what was measured is still kept"
            ) from None


def _one(what: str, name: str | None, names: Sequence[str]) -> str:
    listed = ", ".join(map(repr, names))
    if name is None and len(names) > 1:
        raise ValueError(f"there are several {what}s ({listed}): say which")
    if name is not None and name not in names:
        raise ValueError(f"there is no {what} {name!r}, but {listed}")
    return name or names[0]
