"""Rows of whatever a user has: a path, an id on the hub, or an object in memory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.hub import HUB_ID, why_unreachable
from ntps_lightning.prescreening.columns import Columns, Row, import_late
from ntps_lightning.prescreening.files import is_file_name, read_file, read_folder
from ntps_lightning.side_set.taking import take


def read_source(source: Any, columns: Columns, what: str) -> list[Row]:
    """The rows of a source, in order.

    Args:
        source: a path of a file or of a folder by class, an id on the hub, a DataFrame, a ``datasets.Dataset``, or
            whatever can be gone through of mappings or of pairs ``(text, label)``.
        columns: where rows hold what; pairs need none.
        what: the name of the set, for messages.

    Raises:
        SetupError: If it is none of that, cannot be read, or lacks a column.

    """
    if isinstance(source, (str, Path)):
        return _of_name(str(source), columns)
    if isinstance(source, Mapping):
        raise SetupError(f"{what} has the keys {sorted(map(str, source))}: give one split of it, as data['train']")
    if not any(hasattr(type(source), name) for name in ("__iter__", "__getitem__")):
        raise SetupError(
            f"{what} must be a path, a data set's id on the hub, a DataFrame, a Dataset, or rows: mappings with"
            f" columns, or pairs (text, label); got a {type(source).__name__}"
        )
    if hasattr(source, "features") and hasattr(source, "column_names"):
        return _of_dataset(source, columns, what)
    if hasattr(source, "iloc") and hasattr(source, "columns"):
        columns.check(list(source.columns), what)
    return [_of_item(item, columns, f"row {number} of {what}") for number, item in enumerate(take(source, what))]


def _of_name(name: str, columns: Columns) -> list[Row]:
    path = Path(name).expanduser()
    if path.is_dir():
        if columns.group is not None:
            raise SetupError(f"{name} is a folder by class, which has no column {columns.group!r} of groups")
        return read_folder(path)
    if path.exists():
        return read_file(path, columns)
    if is_file_name(name) or not HUB_ID.fullmatch(name):
        raise SetupError(f"there is no file or folder {name}")
    return _of_dataset(_on_hub(name), columns, name)


def _on_hub(name: str) -> Any:
    datasets = import_late("datasets", f"{name}, if that is a data set on the hub,")
    unreachable = why_unreachable()
    absent = f"there is no file or folder {name}, and {unreachable}, if that is a data set on the hub"
    if unreachable and not getattr(datasets.config, "HF_HUB_OFFLINE", False):
        raise SetupError(absent)
    try:
        return datasets.load_dataset(name, split="train")  # where it is told to stay offline, from its cache
    except Exception as error:  # no such data set, a gated one, no such split, no network, ...
        if unreachable:
            raise SetupError(absent) from error
        raise SetupError(
            f"there is no file or folder {name}, and the hub gave no split 'train' of it ({type(error).__name__}:"
            f" {first_line(error)}); another split is read with datasets.load_dataset({name!r}, split=...)"
        ) from error


def _of_dataset(dataset: Any, columns: Columns, what: str) -> list[Row]:
    if dataset.column_names is not None:
        columns.check(dataset.column_names, what)
    names = getattr((dataset.features or {}).get(columns.label), "names", None)
    rows = [_of_item(item, columns, f"row {number} of {what}") for number, item in enumerate(dataset)]
    if not names:
        return rows
    # A class is -1 where it is not known.
    return [Row(row.text, _named(row.label, names), row.group, row.place) for row in rows]


def _named(label: Any, names: list[str]) -> Any:
    return names[label] if isinstance(label, int) and 0 <= label < len(names) else None


def _of_item(item: Any, columns: Columns, place: str) -> Row:
    if isinstance(item, Mapping):
        columns.check(list(item), place)
        return columns.row(item, place)
    if isinstance(item, (list, tuple)) and len(item) == 2 + (columns.group is not None):
        return Row(item[0], item[1], item[2] if columns.group is not None else None, place)
    got = f"{type(item).__name__} of {len(item)}" if isinstance(item, (list, tuple)) else type(item).__name__
    raise SetupError(f"{place} must be a mapping with columns, or (text, label{_also(columns)}); got a {got}")


def _also(columns: Columns) -> str:
    return ", group" if columns.group is not None else ""
