"""Labels as the targets of a linear readout."""

from __future__ import annotations

from torch import Tensor
from torch.nn.functional import one_hot


def encode_targets(labels: Tensor, num_classes: int | None = None) -> Tensor:
    """Targets as a ``(N, C)`` float64 matrix: one-hot rows of class indices, or the regression targets themselves.

    Args:
        labels: ``(N,)`` integer (or bool) class indices, or ``(N,)`` / ``(N, C)`` floating targets.
        num_classes: number of classes; by default the largest label plus one. Not for floating targets.

    Raises:
        ValueError: If a label is outside ``[0, num_classes)``, a target is not finite, or the shape or dtype is none
            of the above.

    """
    shape, dtype = tuple(labels.shape), labels.dtype
    if labels.is_floating_point():
        if num_classes is not None:
            raise ValueError(
                f"labels are {dtype}, which means regression targets, but num_classes={num_classes} was given; pass"
                " integer class indices, or no num_classes"
            )
        if labels.ndim not in (1, 2):
            raise ValueError(f"regression targets must have shape (N,) or (N, C), got {shape}")
        if not labels.isfinite().all():
            raise ValueError("regression targets hold NaN or Inf; drop those samples")
        return labels.double().reshape(len(labels), -1)
    check_class_indices(labels)
    labels = labels.long()
    low, high = (int(labels.min()), int(labels.max())) if len(labels) else (0, 0)
    num_classes = high + 1 if num_classes is None else num_classes
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"labels must be class indices in [0, {num_classes}), got values from {low} to {high}; drop samples that"
            " have no class (such as -100) or pass the right num_classes"
        )
    return one_hot(labels, num_classes).double()


def check_class_indices(labels: Tensor) -> None:
    """Refuse labels that are no ``(N,)`` class indices, whatever their values.

    Raises:
        ValueError: If the shape or dtype is another.

    """
    if labels.is_complex() or labels.is_floating_point() or labels.ndim != 1:
        hint = "; token-level labels are next-token targets, not the class of a sequence" if labels.ndim == 2 else ""
        raise ValueError(
            f"labels must be class indices of shape (N,), one per sequence, got {labels.dtype}"
            f" {tuple(labels.shape)}{hint}"
        )
