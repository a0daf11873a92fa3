"""A row a layer, of plain numbers."""

from __future__ import annotations

from collections.abc import Sequence

from ntps_lightning.prescreening.measured import LayerNumbers, Measured, Number
from ntps_lightning.prescreening.ranking import layer_to_read

Cell = str | int | float | bool | None


def layer_rows(measured: Sequence[Measured]) -> list[dict[str, Cell]]:
    """Every layer of every model on every data set; all rows have the same columns in the same order."""
    return [_row(each, layer) for each in measured for layer in each.layers]


def _row(measured: Measured, layer: LayerNumbers) -> dict[str, Cell]:
    return {
        "model": measured.model,
        "data": measured.data,
        "layer": layer.layer,
        "to_read": layer is layer_to_read(measured),
        **_with_error("probe_r2", (layer.probe_r2.value, layer.probe_r2.se)),
        **_with_error("probe_accuracy", layer.accuracy),
        **_with_error("captured_r2", layer.captured_r2),
        **_with_error("principal_r2", layer.principal_r2),
        "score": layer.score,
        "null": layer.null,
        "lift": layer.lift,
        "k": layer.k,
        "rankme": layer.rankme,
        "h_score": layer.h_score,
        "log_me": layer.log_me,
        **_with_error("with_twice_the_texts", layer.expected.get(2 * measured.num_samples)),
        **_with_error("with_four_times_the_texts", layer.expected.get(4 * measured.num_samples)),
        "samples": measured.num_samples,
        "kept": measured.num_kept,
        "remarks": "; ".join(layer.remarks),
    }


def _with_error(name: str, number: Number | None) -> dict[str, Cell]:
    value, se = number or (None, None)
    return {name: value, f"{name}_se": se}
