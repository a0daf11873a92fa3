"""What a measurement is called in the logs, and how it is said in a line."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from typing import Any

from ntps_lightning.functional import NTPSDetails

_LOGGED = ("captured", "null", "lift", "chance", "probe_mse", "samples_per_dim")


def keys(prefix: str, layers: Collection[int], *, gain: bool) -> set[str]:
    """Every key that is logged for these layers."""
    names = ["valid", *_LOGGED, *(["gain"] if gain else []), *_layer_names(layers)]
    return {prefix, *(f"{prefix}/{name}" for name in names)}


def values(prefix: str, details: Mapping[int, NTPSDetails], baseline_score: float | None) -> dict[str, float]:
    """What is logged of a measurement; without details, of one that failed."""
    if not details:
        return {f"{prefix}/valid": 0.0}
    headline = details[max(details)]
    logged = {prefix: headline.score, f"{prefix}/valid": 1.0}
    logged |= {f"{prefix}/{name}": getattr(headline, name) for name in _LOGGED}
    if baseline_score is not None:
        logged[f"{prefix}/gain"] = headline.score - baseline_score
    return logged | {
        f"{prefix}/{name}": details[layer].score for name, layer in zip(_layer_names(details), details, strict=False)
    }


def sentence(prefix: str, details: Mapping[int, NTPSDetails], baseline_score: float | None, step: int) -> str:
    """A measurement in one line."""
    d = details[max(details)]
    gain = "" if baseline_score is None else f", gain {d.score - baseline_score:+.4f}"
    return (
        f"{prefix} {d.score:.4f} (null {d.null:.4f}, lift {d.lift:+.4f}{gain}) | captured {d.captured:.4f} |"
        f" k {d.k} | layer {max(details)} | n/d {d.samples_per_dim:.2g} | step {step}"
    )


def log(pl_module: Any, prefix: str, logged: Mapping[str, float]) -> None:
    """Log floats that every rank has."""
    for key, value in logged.items():
        # The maximum over ranks that agree is the value, to the bit, which a mean need not be.
        pl_module.log(key, value, prog_bar=key == prefix, on_epoch=True, sync_dist=True, reduce_fx="max")


def say(trainer: Any, line: str) -> None:
    """Print a line once, above the progress bar if there is one."""
    if not trainer.is_global_zero:
        return
    bar = trainer.progress_bar_callback
    if bar is not None and getattr(bar, "is_enabled", True):
        bar.print(line)
    else:
        logging.getLogger(type(trainer).__module__.partition(".trainer")[0]).info(line)


def _layer_names(layers: Collection[int]) -> list[str]:
    return [f"layer_{layer:02d}" for layer in layers] if len(layers) > 1 else []
