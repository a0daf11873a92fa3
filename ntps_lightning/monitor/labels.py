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
        at_least: classes to make room for, whether labels show them or not.

    Attributes:
        num_classes: classes that were declared, expected or seen.
        num_outputs: regression targets of a sample; 0 for classes.

    """

    def __init__(self, num_classes: int | None, at_least: int = 0) -> None:
        self._declared = num_classes
        self.num_classes = num_classes or at_least
        self.num_outputs = 0

    def renewed(self) -> LabelKind:
        """For a new measurement: as many classes, and nothing learned of regression targets."""
        return LabelKind(self._declared, self.num_classes)

    @property
    def width(self) -> int:
        """Columns of the targets, C; 0 where nothing is known yet."""
        return self.num_outputs or self.num_classes

    def learn(self, labels: Tensor) -> tuple[Tensor, Tensor | None]:
        """Learn from ``(N,)`` class indices, or ``(N,)`` / ``(N, C)`` floating targets; nothing of what is refused.

        Returns:
            The labels on the CPU, so that a device waits once; and ``(N,)`` bool, false at samples without a class
            (-100), or ``None`` where all have one.

        Raises:
            SetupError: If the labels are no tensor, not one class index per sequence, too many to be classes that
                nobody declared, or floats where classes were declared.

        """
        if not isinstance(labels, Tensor):
            raise SetupError(f"labels must be a tensor, one per sequence, got {type(labels).__name__}")
        labels = labels.cpu()
        if labels.is_floating_point():
            self._learn_targets(labels)
            return labels, None
        try:
            check_class_indices(labels)
        except ValueError as error:
            raise SetupError(str(error)) from error
        labelled = labels != _IGNORED
        low, high = (int(labels[labelled].min()), int(labels.max())) if labelled.any() else (0, 0)
        self._learn_classes(low, high)
        return labels, None if labelled.all() else labelled

    def _learn_targets(self, labels: Tensor) -> None:
        if self._declared is not None:
            raise SetupError(
                f"labels are {labels.dtype}, which means regression targets, but num_classes = {self._declared} was"
                " given; give integer class indices, or no num_classes"
            )
        self.num_outputs = labels.shape[1] if labels.ndim == 2 else 1

    def _learn_classes(self, low: int, high: int) -> None:
        if low < 0 or (self._declared is not None and high >= self._declared):
            limit = "C" if self._declared is None else self._declared
            raise SetupError(
                f"labels must be class indices in [0, {limit}), or -100 for none, got values from {low} to {high}"
            )
        if self._declared is None and high >= _MAX_INFERRED_CLASSES:
            raise SetupError(
                f"the labels go up to {high}, which looks like token ids; if they are classes, pass num_classes"
            )
        if self._declared is None:
            self.num_classes = max(self.num_classes, high + 1, 2)
