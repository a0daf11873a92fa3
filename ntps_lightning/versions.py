"""What differs between the versions that pyproject.toml admits; beside each, the version from which it can go."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
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
