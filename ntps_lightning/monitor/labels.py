"""What labels are, as far as batches have shown: one of C classes each, or real targets."""

from __future__ import annotations

from torch import Tensor

from ntps_lightning.errors import SetupError
from ntps_lightning.functional.targets import check_class_indices

# Above this many classes, labels whose number nobody declared are more likely token ids than classes.
_MAX_INFERRED_CLASSES = 1000

# The label that PyTorch's losses ignore.
_IGNORED = -100


class LabelKind:
    """Learns from labels what they are.

    Args:
        num_classes: number of classes; ``None`` infers it from the labels.

    Attributes:
        num_classes: classes that were declared or seen.
        num_outputs: regression targets of a sample; 0 for classes.

    """

    def __init__(self, num_classes: int | None) -> None:
        self._declared = num_classes is not None
        self.num_classes = num_classes or 0
        self.num_outputs = 0

    @property
    def width(self) -> int:
        """Columns of the targets, C; 0 where nothing is known yet."""
        return self.num_outputs or self.num_classes

    def learn(self, labels: Tensor) -> Tensor | None:
        """Learn from ``(N,)`` class indices, or ``(N,)`` / ``(N, C)`` floating targets.

        Returns:
            ``(N,)`` bool on the CPU, false at samples without a class (-100); ``None`` where all have one.

        Raises:
            SetupError: If the labels are not one class index per sequence, too many to be classes that nobody
                declared, or floats where classes were declared.

        """
        if labels.is_floating_point():
            self._learn_targets(labels)
            return None
        try:
            check_class_indices(labels)
        except ValueError as error:
            raise SetupError(str(error)) from error
        labels = labels.cpu()
        labelled = labels != _IGNORED
        low, high = (int(labels[labelled].min()), int(labels.max())) if labelled.any() else (0, 0)
        self._learn_classes(low, high)
        return None if labelled.all() else labelled

    def _learn_targets(self, labels: Tensor) -> None:
        if self._declared:
            raise SetupError(
                f"labels are {labels.dtype}, which means regression targets, but num_classes = {self.num_classes} was"
                " given; give integer class indices, or no num_classes"
            )
        self.num_outputs = labels.shape[1] if labels.ndim == 2 else 1

    def _learn_classes(self, low: int, high: int) -> None:
        if low < 0 or (self._declared and high >= self.num_classes):
            limit = self.num_classes if self._declared else "C"
            raise SetupError(
                f"labels must be class indices in [0, {limit}), or -100 for none, got values from {low} to {high}"
            )
        if self._declared:
            return
        self.num_classes = max(self.num_classes, high + 1, 2)
        if self.num_classes > _MAX_INFERRED_CLASSES:
            raise SetupError(
                f"the labels go up to {self.num_classes - 1}, which looks like token ids; if they are classes, pass"
                " num_classes"
            )
