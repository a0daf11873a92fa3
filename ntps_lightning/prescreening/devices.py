"""Where models are measured, and in which numbers."""

from __future__ import annotations

import torch

from ntps_lightning.errors import SetupError

_DTYPES = ("auto", "float32", "bfloat16", "float16", "float64")


def read_device(device: str | torch.device | None) -> torch.device:
    """The device that is named; else a GPU of CUDA's, of several the one that this process has set, or the CPU.

    Raises:
        SetupError: If there is no such device, or it has no float64, which the sums take.

    """
    if device is None:
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise SetupError(f'device must be such as "cpu" or "cuda:0", got {device!r}') from error
    if found.type == "mps":
        raise SetupError("mps has no float64, which the sums take: measure on the CPU (device='cpu')")
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise SetupError(f"there is no device {found}: PyTorch sees {torch.cuda.device_count()} GPUs")
    return found


def check_dtype(dtype: str) -> None:
    """Refuse what is no dtype that models are loaded in.

    Raises:
        SetupError: If it is none.

    """
    if dtype not in _DTYPES:
        raise SetupError(f"dtype must be one of {', '.join(_DTYPES)} (auto: as the weights were saved), got {dtype!r}")
