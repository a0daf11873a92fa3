"""The machine that a row was made on, and what has to be at hand there."""

import platform
import sys
from pathlib import Path

import torch

from benchmarks.decisions.measures import versions
from benchmarks.gain.settings import Task
from benchmarks.gain.texts import missing
from benchmarks.study.training.backbones import FOLDERS
from benchmarks.study.training.states import DEVICE


def device_name() -> str:
    """As rows name it."""
    return torch.cuda.get_device_name() if DEVICE.type == "cuda" else f"CPU, {platform.machine()}"


def made_on() -> dict:
    """What of a machine belongs into a row."""
    return {"device": device_name(), "versions": versions() | {"python": platform.python_version()}}


def exact_products() -> None:
    """Float32 stays float32: no TF32."""
    torch.set_float32_matmul_precision("highest")


def check_at_hand(tasks: list[Task], model: str, weights: Path | None) -> None:
    """Everything that would be missed in the middle of it.

    Args:
        tasks: what will be run.
        model: by name.
        weights: the model's folder; ``None``: the converted one of the cache.

    Raises:
        SystemExit: With one message that names what is not there.

    """
    absent = []
    if weights is not None:
        absent += [str(weights / name) for name in ("config.json", "tokenizer.json") if not (weights / name).exists()]
        absent += [] if list(weights.glob("*.safetensors")) else [str(weights / "*.safetensors")]
    absent += missing(tasks, model)
    if absent:
        lines = "\n  ".join(absent)
        sys.exit(
            f"not at hand:\n  {lines}\nWhere there is a network, `python -m benchmarks.gain --prepare --model {model}`"
            " makes build/gain/texts, which replaces all archives; carry it here, with the model (see --help)."
        )
    try:
        FOLDERS[model]()
    except ModuleNotFoundError as error:
        sys.exit(
            f"{model} is neither converted nor installed ({error}): `make .venv/study`, or give --weights (see --help)"
        )
