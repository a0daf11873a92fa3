"""Which columns hold what, and a row of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import import_module
from typing import Any

from ntps_lightning.errors import SetupError


@dataclass(frozen=True)
class Row:
    """What a source holds of one text, not yet understood.

    Args:
        text: whatever stands there.
        label: likewise.
        group: likewise; ``None`` where no column of groups was named.
        place: where it stands, for messages.

    """

    text: Any
    label: Any
    group: Any
    place: str


@dataclass(frozen=True)
class Columns:
    """Their names.

    Args:
        text: of the texts.
        label: of the classes or targets.
        group: of what texts share that are not independent; ``None``: each is for itself.

    """

    text: str = "text"
    label: str = "label"
    group: str | None = None

    def check(self, there: Sequence[Any], what: str) -> None:
        """Refuse a source that lacks one.

        Raises:
            SetupError: If it does; it lists those that are there.

        """
        for field in fields(self):
            name = getattr(self, field.name)
            if name is not None and name not in there:
                names = ", ".join(repr(each) for each in there) or "none"
                raise SetupError(
                    f"{what} has no column {name!r}; it has {names}: say which holds the {field.name} with"
                    f" {field.name}=..."
                )

    def check_once(self, there: Sequence[Any], what: str) -> None:
        """Refuse a source that has one twice.

        Raises:
            SetupError: If it does.

        """
        for name in (self.text, self.label, self.group):
            if name is not None and there.count(name) > 1:
                raise SetupError(f"{what} has {there.count(name)} columns {name!r}: give each a name of its own")

    def row(self, record: Mapping[Any, Any], place: str) -> Row:
        """The row of a record whose columns were checked."""
        group = None if self.group is None else record[self.group]
        return Row(record[self.text], record[self.label], group, place)


def import_late(module: str, what: str) -> Any:
    """A package that only some sources need.

    Raises:
        SetupError: If it is not installed.

    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SetupError(
            f'{what} is read with {module}, which is not installed: pip install "ntps-lightning[prescreen]"'
        ) from error
