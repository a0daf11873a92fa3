"""The findings, for a reader."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ntps_lightning.command.loggers import FoundLogger
from ntps_lightning.command.packages import Package

if TYPE_CHECKING:
    from ntps_lightning.command.cost import Cost, Room
    from ntps_lightning.command.devices import Device
    from ntps_lightning.command.doctor import Findings
    from ntps_lightning.command.model import ModelReport


def as_text(findings: Findings) -> str:
    """All of it, in lines."""
    lines = ["Packages", *_table([_package(package) for package in findings.packages])]
    lines += ["", "Loggers", *_table([_logger(logger) for logger in findings.loggers])]
    if findings.devices:
        lines += ["", "Devices", *_table([_device(device) for device in findings.devices])]
    if findings.model is not None:
        lines += ["", f"Model {findings.model.given}", *_table(list(_model(findings.model)))]
    problems = findings.problems
    count = f"{len(problems)} thing{'s' if len(problems) > 1 else ''} to mend"
    lines += ["", *([f"{count}:", *(f"  - {problem}" for problem in problems)] if problems else ["All fine."])]
    return "\n".join(lines)


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows in columns, the last of which is as long as it likes."""
    columns = max(map(len, rows))
    padded = [[*row, *[""] * (columns - len(row))] for row in rows]
    widths = [max(len(row[i]) for row in padded) for i in range(columns - 1)]
    return [
        "  " + "  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip()
        for row in padded
    ]


def _package(package: Package) -> Sequence[str]:
    purpose = f"for {package.purpose}" if package.purpose else ""
    last = "; ".join(part for part in (purpose, package.mend) if part)
    return package.name, package.installed or "-", package.wants or "any", package.status, last


def _logger(logger: FoundLogger) -> Sequence[str]:
    takes = ("numbers and figures" if logger.figures else "numbers") if logger.usable else "-"
    return logger.name, takes, "; ".join(part for part in (logger.installed, logger.mend) if part)


def _device(device: Device) -> Sequence[str]:
    free = "" if device.free_bytes is None else f"{_size(device.free_bytes)} free"
    last = "; ".join(part for part in (", ".join(device.dtypes), device.note, device.problem) if part)
    return device.name, device.what, free, last


def _model(model: ModelReport) -> Iterator[Sequence[str]]:
    if model.adapters:
        yield "adapters", model.adapters
    if model.name:
        yield "class", model.name
    yield "supported", {True: "yes", False: "no", None: "not known"}[model.supported]
    if model.seen:
        yield "seen", model.seen
    if model.supported is not False and model.layers is not None:
        yield from _sizes(model)
    if model.cost is not None:
        yield from _cost(model.cost)
    for note in model.notes:
        yield "note", note


def _sizes(model: ModelReport) -> Iterator[Sequence[str]]:
    last = (model.layers or 0) - 1
    named = f'{model.layers}: 0 (the embeddings) to {last} (after the final norm); layers="all" takes them all'
    yield "layers", named if last else "1: the last (layers=-1)"
    yield "hidden size", f"d = {model.hidden_size}"
    yield "k", f"{model.k} by default (1% of d), or the number of classes where that is more"
    ratio = (model.samples or 0) // (model.hidden_size or 1)
    yield "samples", f"{model.samples} labelled ones are n/d = {ratio}; of fewer the score is biased towards its null"


def _cost(cost: Cost) -> Iterator[Sequence[str]]:
    yield (
        "a layer",
        f"{_size(cost.sums_bytes)} of sums (3 d² + d C + ... float64 numbers; C classes are not counted yet)",
    )
    yield "", f"{_size(cost.kept_bytes)} of kept states, for held-out numbers"
    yield (
        "for a while",
        f"{_size(cost.scratch_bytes)}, a layer at a time (13 d² float64 numbers, more of kept states)",
    )
    for room in cost.rooms:
        yield f"room on {room.device}", _room(room)


def _room(room: Room) -> str:
    if room.layers is None:
        return "not known"
    return f"for {room.layers} layers beside the model, {room.with_baseline} while a baseline is measured"


def _size(count: int) -> str:
    from ntps_lightning.memory import size_in_words

    return size_in_words(count)
