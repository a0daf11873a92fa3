"""What a picture of layers shows: a panel a data set."""

from __future__ import annotations

from collections.abc import Sequence

from ntps_lightning.figures.layers import Curve, Panel
from ntps_lightning.prescreening.measured import Measured
from ntps_lightning.prescreening.ranking import layer_to_read


def panels(measured: Sequence[Measured]) -> list[Panel]:
    """One for each data set: of one model what a probe reads of the whole state and of few directions, of several what
    it reads of the whole state of each.
    """
    names = dict.fromkeys(each.data for each in measured)
    by_data = [[each for each in measured if each.data == name] for name in names]
    models = list(dict.fromkeys(each.model for each in measured))
    return [_of_several(each, models) if len(models) > 1 else _of_one(each[0]) for each in by_data]


def _of_one(measured: Measured) -> Panel:
    k = measured.layers[0].k
    curves = [
        _whole(measured, "whole state", 0),
        Curve(f"{k} autoregressive directions", {each.layer: each.captured_r2 for each in measured.layers}, 1),
        Curve(f"{k} principal components", {each.layer: each.principal_r2 for each in measured.layers}, 2),
    ]
    return Panel(measured.data, curves)


def _of_several(measured: Sequence[Measured], models: list[str]) -> Panel:
    return Panel(measured[0].data, [_whole(each, each.model, models.index(each.model)) for each in measured])


def _whole(measured: Measured, label: str, color: int) -> Curve:
    points = {layer.layer: (layer.probe_r2.value, layer.probe_r2.se) for layer in measured.layers}
    return Curve(label, points, color, marked=layer_to_read(measured).layer)
