"""What differs between the versions that pyproject.toml admits; beside each, the version from which it can go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

# torch 2.9: products of float32 have settings of their own, for GPUs and for CPUs. Before, one flag stands for both.


def matmul_settings() -> tuple[Any, ...]:
    """What holds ``fp32_precision`` of products on GPUs and on CPUs; empty where PyTorch has no such settings."""
    found = (torch.backends.cuda.matmul, getattr(torch.backends.mkldnn, "matmul", None))
    return found if all(hasattr(setting, "fp32_precision") for setting in found) else ()


@contextmanager
def matmul_flag(precision: str) -> Iterator[None]:
    """``precision`` for :func:`torch.set_float32_matmul_precision`, and afterwards what it was."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


# Lightning 2.6: a Trainer of pytorch_lightning takes callbacks of lightning. Before, each takes its own alone.


def callback_base() -> type:
    """Lightning's ``Callback``, for Trainers of ``lightning`` and, where it is installed, ``pytorch_lightning``."""
    from lightning.pytorch.callbacks import Callback

    if not _takes_its_own_alone("pytorch_lightning"):
        return Callback
    from pytorch_lightning.callbacks import Callback as Other

    return type("Callback", (Callback, Other), {})


def _takes_its_own_alone(package: str) -> bool:
    try:
        major, minor, *_ = version(package).split(".")
    except PackageNotFoundError:
        return False
    return (int(major), int(minor)) < (2, 6)
