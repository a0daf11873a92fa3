"""What labels mean: classes, or the targets of a linear readout."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ntps_lightning.functional.inputs import to_tensor

_WANTED = "(N,) class indices, (N, C) zeros and ones as integers, or (N,) / (N, C) floating regression targets"


def read_labels(labels: Any, num_classes: int | None = None) -> Tensor:
    """Labels as what they mean: ``(N,)`` int64 class indices, or ``(N, C)`` float64 targets.

    Args:
        labels: a tensor, a numpy array or lists of numbers. ``(N,)`` or ``(N, 1)`` integers or bools are classes;
            ``(N, C)`` integers or bools, all zeros and ones, are multi-hot; ``(N,)`` or ``(N, C)`` floats are
            regression targets.
        num_classes: number of classes, which multi-hot labels have columns for and regression targets have not. Whether
            indices lie below it is for :func:`check_classes`.

    Raises:
        ValueError: If shape or dtype are none of the above, or ``num_classes`` does not fit.

    """
    labels = to_tensor(labels, "labels", _WANTED)
    if labels.is_complex() or labels.ndim not in (1, 2) or (labels.ndim == 2 and not labels.shape[1]):
        raise ValueError(f"labels must be {_WANTED}, got {_what(labels)}")
    if labels.is_floating_point():
        return _regression_targets(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] > 1:
        return _multi_hot_targets(labels, num_classes)
    classes: Tensor = labels.reshape(-1).long()
    return classes


def check_classes(labels: Tensor, num_classes: int) -> None:
    """Refuse ``(N,)`` class indices outside ``[0, num_classes)``.

    Raises:
        ValueError: If there is one.

    """
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must be class indices in [0, {num_classes}), got values from {low} to {high}; drop samples that"
            " have no class (such as -100) or pass the right num_classes"
        )


def _regression_targets(labels: Tensor, num_classes: int | None) -> Tensor:
    if num_classes is not None:
        raise ValueError(
            f"labels are {_what(labels)}, which means regression targets, but num_classes={num_classes} was given; pass"
            " integers (class indices, or (N, C) zeros and ones), or no num_classes"
        )
    return labels.double().reshape(len(labels), -1)


def _multi_hot_targets(labels: Tensor, num_classes: int | None) -> Tensor:
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(
            f"labels must be {_WANTED}, got {_what(labels)} with other values than 0 and 1; token-level labels are"
            " next-token targets, not the class of a sequence: watch a labelled side set instead (data=...)"
        )
    if num_classes not in (None, labels.shape[1]):
        raise ValueError(f"labels are multi-hot with {labels.shape[1]} columns, but num_classes={num_classes} is given")
    return labels.double()


def _what(labels: Tensor) -> str:
    return f"{str(labels.dtype).removeprefix('torch.')} {tuple(labels.shape)}"
