"""Float32 products as they were asked for, whatever the process's flags say."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch

from ntps_lightning.functional.options import Precision
from ntps_lightning.versions import matmul_flag, matmul_settings


@contextmanager
def float32_products(device: torch.device, precision: Precision) -> Iterator[None]:
    """Products of float32 numbers are float32, or with ``"high"`` TensorFloat32 on GPUs that have it.

    Inside, autocast is off, and PyTorch's flags of both kinds, :func:`torch.set_float32_matmul_precision` and
    ``fp32_precision``, can be read wherever they could be before; afterwards they are as they were.

    """
    # Autocast would turn a float32 product into a bfloat16 one inside the user's own forward pass.
    with torch.no_grad(), torch.autocast(device.type, enabled=False), _flags(device, precision):
        yield


def _flags(device: torch.device, precision: Precision) -> AbstractContextManager[None]:
    settings = matmul_settings()
    if settings:
        gpu, cpu = settings
        return _both_kinds(gpu, cpu, precision)
    return matmul_flag(precision if device.type == "cuda" else "highest")


@contextmanager
def _both_kinds(gpu: Any, cpu: Any, precision: Precision) -> Iterator[None]:
    wanted = {gpu: "tf32" if precision == "high" else "ieee", cpu: "ieee"}
    before = {setting: setting.fp32_precision for setting in wanted}
    if all(value in (wanted[setting], "none") for setting, value in before.items()) and precision == "highest":
        yield  # "none" is float32, and what is not touched need not be put back
        return
    legacy, allow_tf32 = _readable(torch.get_float32_matmul_precision), _readable(lambda: gpu.allow_tf32)
    try:
        if legacy is not None:
            torch.set_float32_matmul_precision(precision)
        elif allow_tf32 is not None:
            gpu.allow_tf32 = precision == "high"
        for setting, value in wanted.items():
            setting.fp32_precision = value
        yield
    finally:
        if legacy is not None:
            torch.set_float32_matmul_precision(legacy)
        elif allow_tf32 is not None:
            gpu.allow_tf32 = allow_tf32
        for setting, value in before.items():
            setting.fp32_precision = "none"  # as it was where the value comes from a flag above it
            if setting.fp32_precision != value:
                setting.fp32_precision = value


def _readable(flag: Callable[[], Any]) -> Any:
    """The older flags raise where ``fp32_precision`` was set to what they cannot tell."""
    try:
        return flag()
    except RuntimeError:
        return None
