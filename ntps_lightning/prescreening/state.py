"""What was measured as plain values, such as JSON has, and back: every number the same."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.prescreening.measured import LayerNumbers, Measured, Number


def plain(value: Any) -> Any:
    """Dataclasses and mappings as dicts with keys of text, tensors and tuples as lists; what JSON has no number for
    (NaN, infinity) as text.
    """
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if is_dataclass(value):
        return {field.name: plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return value


def measured_of(state: Mapping[str, Any]) -> Measured:
    """What :func:`plain` has made plain."""
    lists = {name: tuple(state[name]) for name in ("class_names", "remarks")}
    layers = tuple(_layer(layer) for layer in state["layers"])
    return Measured(**{**state, **lists, "seconds": float(state["seconds"]), "layers": layers})


def _layer(state: Mapping[str, Any]) -> LayerNumbers:
    found: dict[str, Any] = {
        **state,
        **{name: _float(state[name]) for name in ("score", "null", "lift", "rankme", "h_score", "log_me")},
        **{name: _number(state[name]) for name in ("captured_r2", "principal_r2")},
        **{name: {int(key): _number(each) for key, each in state[name].items()} for name in ("curve", "expected")},
        "probe_r2": _estimate(state["probe_r2"]),
        "probe_accuracy": None if state["probe_accuracy"] is None else _estimate(state["probe_accuracy"]),
        "remarks": tuple(state["remarks"]),
    }
    return LayerNumbers(**found)


def _float(state: Any) -> float | None:
    return None if state is None else float(state)


def _number(state: Any) -> Number:
    value, se = map(float, state)
    return value, se


def _estimate(state: Mapping[str, Any]) -> Estimate:
    own, fit = (torch.tensor([float(each) for each in state[name]], dtype=torch.float64) for name in ("own", "fit"))
    return Estimate(float(state["value"]), own, fit, state["num_groups"], float(state["unseen"]))
