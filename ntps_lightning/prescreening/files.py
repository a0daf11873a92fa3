"""Rows of files: each line or record with the place where it stands."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.prescreening.columns import Columns, Row, import_late


def read_file(path: Path, columns: Columns) -> list[Row]:
    """The rows of a file, by the kind that its name says.

    Raises:
        SetupError: If it is of another kind, cannot be read or lacks a column.

    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        raise SetupError(
            f"{path} is of no kind that is read: give one of {', '.join(_READERS)}, or a folder with a folder of .txt"
            " files for each class"
        )
    return reader(path, columns)


def is_file_name(name: str) -> bool:
    """Whether this ends as files do that can be read."""
    return Path(name).suffix.lower() in _READERS


def read_folder(folder: Path) -> list[Row]:
    """A row of each text file, whose class is the folder that it is in.

    Raises:
        SetupError: If there are none.

    """
    files = sorted(folder.glob("*/*.txt"))
    if not files:
        held = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise SetupError(
            f"{folder} must hold a folder for each class with its texts, such as {folder.name}/sports/1.txt; it holds"
            f" {held}. Of a data set that was saved with save_to_disk give datasets.load_from_disk(...)"
        )
    return [Row(_decoded(path), path.parent.name, None, str(path.relative_to(folder))) for path in files]


def _decoded(path: Path) -> str:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise SetupError(f"{path} cannot be read ({first_line(error)})") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise SetupError(
            f"line {line} of {path} is no UTF-8 ({error.reason} at byte {error.start}): save the file in UTF-8"
        ) from error


def _read_csv(path: Path, columns: Columns) -> list[Row]:
    return _read_separated(path, columns, ",")


def _read_tsv(path: Path, columns: Columns) -> list[Row]:
    return _read_separated(path, columns, "\t")


def _read_separated(path: Path, columns: Columns, separator: str) -> list[Row]:
    content = _decoded(path)
    header = content.split("\n", 1)[0]
    if separator not in header and ";" in header:  # as spreadsheets save it where the comma is for decimals
        separator = ";"
    longest = csv.field_size_limit(sys.maxsize if sys.maxsize < 2**32 else 2**31 - 1)
    try:
        return list(
            _records(path, columns, csv.reader(StringIO(content, newline=""), delimiter=separator, strict=True))
        )
    finally:
        csv.field_size_limit(longest)


def _records(path: Path, columns: Columns, reader: Any) -> Iterator[Row]:
    begin = 1
    names: list[str] = []
    try:
        for fields in reader:
            place = f"line {begin} of {path}"
            begin = reader.line_num + 1
            if not names:
                names = [name.strip() for name in fields]
                columns.check(names, str(path))
                columns.check_once(names, str(path))
            elif fields and len(fields) != len(names):
                raise SetupError(
                    f"{place} has {len(fields)} fields, but the header names {len(names)}: is a text with a separator"
                    " not in quotes?"
                )
            elif fields:
                yield columns.row(dict(zip(names, fields, strict=True)), place)
    except csv.Error as error:
        raise SetupError(
            f"line {begin} of {path} cannot be read ({error}): quotes inside of a quoted text are doubled"
        ) from error
    if not names:
        raise SetupError(f"{path} is empty: its first line names the columns")


def _read_lines(path: Path, columns: Columns) -> list[Row]:
    found = []
    # Not splitlines(), which also ends lines where a text may hold such a character.
    for number, line in enumerate(_decoded(path).split("\n"), 1):
        if not line.strip():
            continue
        place = f"line {number} of {path}"
        try:
            record = json.loads(line)
        except ValueError as error:
            raise SetupError(f"{place} is no JSON ({error})") from error
        found.append(_object(record, columns, place))
    return found


def _read_json(path: Path, columns: Columns) -> list[Row]:
    content = _decoded(path)
    try:
        records = json.loads(content)
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":  # an object on each line
            return _read_lines(path, columns)
        raise SetupError(f"line {error.lineno} of {path} is no JSON ({error.msg})") from error
    if not isinstance(records, list):
        raise SetupError(
            f"{path} must hold a list of objects, or one on each line; it holds a {type(records).__name__}"
        )
    return [_object(record, columns, f"object {number} of {path}") for number, record in enumerate(records)]


def _object(record: Any, columns: Columns, place: str) -> Row:
    if not isinstance(record, dict):
        raise SetupError(f"{place} must be an object with columns, got a {type(record).__name__}")
    columns.check(list(record), place)
    return columns.row(record, place)


def _read_parquet(path: Path, columns: Columns) -> list[Row]:
    import_late("pyarrow", str(path))
    parquet = import_late("pyarrow.parquet", str(path))
    try:
        columns.check(parquet.read_schema(path).names, str(path))
        wanted = {columns.text, columns.label} | ({columns.group} if columns.group else set())
        records = parquet.read_table(path, columns=sorted(wanted)).to_pylist()
    except SetupError:
        raise
    except Exception as error:  # whatever pyarrow raises of a file that is none
        raise SetupError(f"{path} cannot be read ({first_line(error)})") from error
    return [columns.row(record, f"row {number} of {path}") for number, record in enumerate(records)]


_READERS: dict[str, Callable[[Path, Columns], list[Row]]] = {
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".jsonl": _read_lines,
    ".ndjson": _read_lines,
    ".json": _read_json,
    ".parquet": _read_parquet,
}
