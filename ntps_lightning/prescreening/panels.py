"""What a picture of layers shows: a panel a data set."""

from __future__ import annotations

from collections.abc import Sequence

from ntps_lightning.figures.layers import Curve, Panel
from ntps_lightning.prescreening.measured import Measured, Number
from ntps_lightning.prescreening.ranking import layer_to_read


def panels(measured: Sequence[Measured]) -> list[Panel]:
    """One for each data set: of one model what a probe reads of the whole state and of few directions, of several what
    it reads of the whole state of each.
    """
    names = dict.fromkeys(each.data for each in measured)
    by_data = [[each for each in measured if each.data == name] for name in names]
    return [_of_one(each[0]) if len(each) == 1 else _of_several(each) for each in by_data]


def _of_one(measured: Measured) -> Panel:
    k = measured.layers[0].k
    curves = [
        _whole(measured, "whole state"),
        _curve(measured, f"{k} autoregressive directions", [layer.captured_r2 for layer in measured.layers]),
        _curve(measured, f"{k} principal components", [layer.principal_r2 for layer in measured.layers]),
    ]
    return Panel(measured.data, curves, [layer_to_read(measured).layer])


def _of_several(measured: Sequence[Measured]) -> Panel:
    curves = [_whole(each, each.model) for each in measured]
    return Panel(measured[0].data, curves, [layer_to_read(each).layer for each in measured])


def _whole(measured: Measured, label: str) -> Curve:
    numbers = [(layer.probe_r2.value, layer.probe_r2.se) for layer in measured.layers]
    return _curve(measured, label, numbers)


def _curve(measured: Measured, label: str, numbers: list[Number]) -> Curve:
    return Curve(label, dict(zip((layer.layer for layer in measured.layers), numbers, strict=True)))
