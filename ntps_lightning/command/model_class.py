"""The model of a configuration: found, tried and measured as the callback does it, but on the meta device."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
import transformers

from ntps_lightning.capture.backbone import Backbone, find_backbone
from ntps_lightning.command.cost import cost_of
from ntps_lightning.command.model import ModelReport
from ntps_lightning.command.small_model import CannotTryError, Tried, try_small_model
from ntps_lightning.functional.details import FEW_SAMPLES_PER_DIM
from ntps_lightning.functional.options import ScoreOptions
from ntps_lightning.model_files import NoModelError, read_json


def look_at_class(report: ModelReport, file: Path, devices: list[str]) -> None:
    """Complete a report.

    Args:
        report: what is known so far; changed in place.
        file: its ``config.json``.
        devices: where sums could be kept, by name.

    Raises:
        ValueError: If the model cannot be scored.
        NoModelError: If that cannot be told.

    """
    with warnings.catch_warnings():  # what transformers has to say of configurations is not what was asked
        warnings.simplefilter("ignore")
        transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
        content = read_json(file)
        model = _on_meta(file, str(content.get("model_type")), own_code="auto_map" in content)
        report.name = type(model).__name__
        if "auto_map" in content:
            report.notes.append(
                "the folder brings code of its own (trust_remote_code), which was not run; this is of transformers'"
            )
        backbone = find_backbone(model, model)
        size = backbone.hidden_size or 0
        report.hidden_size = size
        report.layers = len(backbone.resolve("all"))
        report.k = ScoreOptions().num_directions(size, 0)
        report.samples = FEW_SAMPLES_PER_DIM * size
        _try(report, backbone)
    report.cost = cost_of(size, devices)
    report.problems += report.cost.problems


def _on_meta(file: Path, kind: str, *, own_code: bool) -> Any:
    """The whole model of a configuration, without weights."""
    version = transformers.__version__
    if kind not in transformers.CONFIG_MAPPING:
        raise NoModelError(
            f"its class (model_type {kind!r}) is in code that the folder brings (trust_remote_code), which is not run:"
            " whether it can be scored is not known here. The callback, or NTPSMonitor(model), tells at its start"
            if own_code
            else f"transformers {version} knows no model_type {kind!r}: pip install -U transformers, or is this no"
            " language model?"
        )
    try:
        config = transformers.CONFIG_MAPPING[kind].from_json_file(file)
        with torch.device("meta"):
            return _class_of(config)(config)
    except Exception as error:  # whatever a configuration does not allow
        raise NoModelError(
            f"transformers {version} makes no model of config.json ({error!r:.200}): save the model again, or"
            " pip install -U transformers"
        ) from error


def _class_of(config: Any) -> Any:
    """The class that was saved, or the one without a head."""
    for name in config.architectures or ():
        if hasattr(transformers, name):
            return getattr(transformers, name)
    return transformers.MODEL_MAPPING[type(config)]


def _try(report: ModelReport, backbone: Backbone) -> None:
    try:
        tried = try_small_model(backbone)
    except CannotTryError as error:
        report.seen = "its structure on the meta device, not what it does"
        report.problems.append(
            f"whether {type(backbone.decoder).__name__} looks ahead could not be tried without its weights ({error}):"
            " the callback tries it at its start"
        )
        return
    report.supported = True
    report.seen = _said(tried, len(backbone.layers))
    if tried.unnamed:
        report.layers = 1
        report.notes.append(f"only the last layer can be named: {tried.unnamed}")


def _said(tried: Tried, depth: int) -> str:
    rest = "" if tried.all_kinds else "; other kinds of block are too large to try, or cannot be made alone"
    which = f"block{'s' if len(tried.blocks) > 1 else ''} {', '.join(map(str, tried.blocks))} of {depth}"
    return f"states of {which}, with random weights in float32, do not depend on later tokens{rest}"
