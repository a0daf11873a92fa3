"""What a monitor takes beside the options of the score, refused at once where it is out of range."""

from __future__ import annotations

import torch


def check_counts(num_classes: int | None, kept: int) -> None:
    """Refuse numbers of classes and of kept rows that cannot be.

    Raises:
        ValueError: If ``num_classes`` is below 1 or ``kept`` below 0.

    """
    if num_classes is not None and num_classes < 1:
        raise ValueError(f"num_classes must be at least 1, or None to infer it from the labels, got {num_classes}")
    if kept < 0:
        raise ValueError(f"kept must be a number of rows, or 0 for none, got {kept}")


def read_device(accumulate_device: str | torch.device | None) -> torch.device | None:
    """The device of this name.

    Raises:
        ValueError: If there is no such kind of device.

    """
    if accumulate_device is None:
        return None
    try:
        return torch.device(accumulate_device)
    except RuntimeError as error:
        raise ValueError(
            f'accumulate_device must be a device, such as "cpu" or "cuda:0", got {accumulate_device!r}'
        ) from error
