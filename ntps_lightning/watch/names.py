"""What a measurement is called in the logs, and how it reads in a line."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ntps_lightning.functional.details import NO_ROWS, NTPSDetails
from ntps_lightning.functional.jackknife import Estimate

# Fields of the details.
_NUMBERS = ("score", "null", "lift", "captured_in_sample")
_OF_A_LAYER = ("score", "null", "captured_in_sample")
# Of what a probe reads held out, each with a standard error.
_HELD_OUT = ("probe_accuracy", "probe_r2", "captured_r2", "principal_r2", "captured")
_HELD_OUT_OF_A_LAYER = ("probe_r2", "captured_r2")
_INFO = {
    "chance": "chance",
    "k": "k",
    "ridge": "ridge",
    "samples": "num_samples",
    "samples_per_dim": "samples_per_dim",
}

_LOWER_IS_BETTER = ("/null", "/chance")
# Worse than any value, but finite.
WORST = 1e9
# Names before 0.1, under the prefix; they had one folder.
_RENAMED = {
    "": "/score",
    "/chance": "_info/chance",
    "/samples_per_dim": "_info/samples_per_dim",
    "/valid": "_info/valid",
}


def logged_keys(prefix: str, layers: Collection[int], *, gain: bool, held_out: bool) -> set[str]:
    """Every key that is logged for these layers."""
    numbers = [*_NUMBERS, *(["gain"] if gain else [])]
    keys = {f"{prefix}/{name}" for name in numbers} | {f"{prefix}_info/{name}" for name in (*_INFO, "valid")}
    of_a_layer = (*_OF_A_LAYER, *(_HELD_OUT_OF_A_LAYER if held_out else ()))
    if held_out:
        keys |= {f"{prefix}{family}/{name}" for name in _HELD_OUT for family in ("", "_se")}
        keys |= set(_kept_keys(prefix))
    several = layers if len(layers) > 1 else ()
    return keys | {layer_key(prefix, layer, name) for layer in several for name in of_a_layer}


def valid_key(prefix: str) -> str:
    """The key that is 1, or 0 where no score could be computed."""
    return f"{prefix}_info/valid"


def layer_key(prefix: str, layer: int, name: str) -> str:
    """The key of a number of one of several layers."""
    return f"{prefix}_layers/{layer:02d}/{name}"


def is_ours(prefix: str, key: str) -> bool:
    """Whether a key lies under the prefix, whether it is logged or not."""
    return key == prefix or key.startswith(tuple(f"{prefix}{family}/" for family in ("", "_se", "_info", "_layers")))


def renamed_key(prefix: str, key: str) -> str | None:
    """What a key of before 0.1 is called now, if it was one that is still logged."""
    name = key.removeprefix(prefix)
    if name.startswith("/layer_"):
        return f"{prefix}_layers/{name.removeprefix('/layer_')}/score"
    return f"{prefix}{_RENAMED[name]}" if name in _RENAMED else None


def logged_values(prefix: str, details: Mapping[int, NTPSDetails], baseline_score: float | None) -> dict[str, float]:
    """What is logged of a measurement; without details, of one that failed."""
    if not details:
        return {valid_key(prefix): 0.0}
    headline = details[max(details)]
    values = {f"{prefix}/{name}": getattr(headline, name) for name in _NUMBERS}
    if baseline_score is not None:
        values[f"{prefix}/gain"] = headline.score - baseline_score
    values |= {f"{prefix}_info/{name}": float(getattr(headline, field)) for name, field in _INFO.items()}
    values[valid_key(prefix)] = 1.0
    values |= _held_out_values(prefix, headline)
    if len(details) > 1:
        for layer, each in details.items():
            values |= {layer_key(prefix, layer, name): getattr(each, name) for name in _OF_A_LAYER}
            if each.held_out is not None:
                for name in _HELD_OUT_OF_A_LAYER:
                    values[layer_key(prefix, layer, name)] = getattr(each.held_out, name).value
    return values


def _kept_keys(prefix: str) -> tuple[str, str]:
    return f"{prefix}_info/kept", f"{prefix}_info/captured_valid"


def _held_out_values(prefix: str, details: NTPSDetails) -> dict[str, float]:
    """With standard errors; nothing where there are none."""
    found = details.held_out
    if found is None:
        return {} if details.not_held_out == NO_ROWS else dict.fromkeys(_kept_keys(prefix), 0.0)
    values = {f"{prefix}_info/kept": float(found.num_kept)}
    values[f"{prefix}_info/captured_valid"] = float(found.captured is not None)
    for name in _HELD_OUT:
        estimate = getattr(found, name)
        if estimate is not None:
            values |= {f"{prefix}/{name}": estimate.value, f"{prefix}_se/{name}": estimate.se}
    return values


def summary_line(
    prefix: str, details: Mapping[int, NTPSDetails], since: Mapping[str, Estimate] | None, step: int
) -> str:
    """A measurement in one line, with what has changed ``since`` the baseline."""
    d = details[max(details)]
    score = f"score {d.score:.4f} (null {d.null:.4f}, lift {d.lift:+.4f})"
    where = f"k {d.k} | layer {max(details)} | n/d {d.samples_per_dim:.2g} | step {step}"
    return f"{prefix} {_held_out_line(d, since or {})}{score} | {where}"


def _held_out_line(details: NTPSDetails, since: Mapping[str, Estimate]) -> str:
    found = details.held_out
    if found is None:
        return "" if details.not_held_out == NO_ROWS else f"nothing held out: {details.not_held_out} | "
    probe = "" if found.probe_accuracy is None else f"probe {_with_error(found.probe_accuracy)} | "
    change = since.get("captured_r2")
    changed = "" if change is None else f" ({change.value:+.3f} ± {change.se:.3f})"
    return f"{probe}captured R² {_with_error(found.captured_r2)}{changed} of {_with_error(found.probe_r2)} | "


def _with_error(estimate: Estimate) -> str:
    return f"{estimate.value:.3f} ± {estimate.se:.3f}"


def headlines(prefix: str, values: Mapping[str, float]) -> set[str]:
    """What the progress bar has room for: what a probe reads, held out, or else the score."""
    probe = next((name for name in ("probe_accuracy", "probe_r2") if f"{prefix}/{name}" in values), None)
    return {f"{prefix}/{name}" for name in ((probe, "captured_r2") if probe else ("score",))}


def higher_is_better(key: str) -> bool:
    """Whether more of it is good."""
    return not key.endswith(_LOWER_IS_BETTER) and "_se/" not in key


def worst(key: str) -> float:
    """Worse than any value of a key, but finite: what stops a run on what is not finite does not stop on this."""
    return -WORST if higher_is_better(key) else WORST
