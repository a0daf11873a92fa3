"""What labels are, as far as batches have shown: one of C classes each, or targets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_info

from ntps_lightning.errors import SetupError
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.functional.targets import read_labels

# Above this many classes, labels whose number nobody declared are more likely token ids than classes.
_MAX_INFERRED_CLASSES = 1000

# The label that PyTorch's losses ignore.
_IGNORED = -100

_MULTI_HOT = "multi-hot labels"


class LabelKind:
    """Learns from labels what they are.

    Args:
        num_classes: number of classes; ``None`` infers it from the labels.

    Attributes:
        num_classes: classes that were declared, expected or seen.
        num_outputs: targets of a sample, real ones or those of multi-hot labels; 0 for classes.
        names: of the classes where labels are words; the index of each is its class.
        agreed: how many of ``names`` every rank has in this order.

    """

    def __init__(self, num_classes: int | None) -> None:
        self._declared = num_classes
        self.num_classes = num_classes or 0
        self.num_outputs = 0
        self.names: list[str] = []
        self.agreed = 0
        self._said: set[str] = set()
        self._what = ""

    def expect(self, num_classes: int, names: Sequence[str]) -> None:
        """Make room for classes that labels need not show."""
        self.num_classes = max(self.num_classes, num_classes)
        if not self.names:
            self.names = list(names)
            self.agreed = len(names)

    def renew(self) -> None:
        """For a new measurement: classes and their names stay known, of targets nothing is."""
        self.num_outputs = 0
        self._what = ""

    @property
    def width(self) -> int:
        """Columns of the targets, C; 0 where nothing is known yet."""
        return self.num_outputs or self.num_classes

    @property
    def multi_hot(self) -> bool:
        """Whether these are integers, of which a sample has several."""
        return self._what.startswith(_MULTI_HOT)

    def learn(self, labels: Any) -> tuple[Tensor, Tensor | None]:
        """Learn from the labels of a batch; nothing of what is refused.

        Args:
            labels: what :func:`~ntps_lightning.functional.targets.read_labels` takes, or N words.

        Returns:
            What they mean, as it returns that, on the CPU, so that a device waits once; and ``(N,)`` bool, false at
            samples without a class (-100), or ``None`` where all have one.

        Raises:
            SetupError: If they are nothing of that, too many to be classes that nobody declared, or of another kind
                than those before, or than was declared.

        """
        names = self.names
        if are_words(labels):
            names = [*names, *sorted(set(labels) - set(names))]
            labels = [names.index(word) for word in labels]
        elif names:
            raise SetupError(f"labels were the words {names[:8]} before, and are no words now")
        try:
            given = to_tensor(labels, "labels", "one per sequence").cpu()
            meaning = read_labels(given)
        except ValueError as error:
            raise SetupError(str(error)) from error
        labelled = None
        if meaning.ndim == 2:
            self._learn_targets(meaning, given)
        else:
            labelled = meaning != _IGNORED
            low, high = (int(meaning[labelled].min()), int(meaning.max())) if labelled.any() else (0, 0)
            self._learn_classes(low, high, names)
        self._say(given)
        return meaning, None if labelled is None or labelled.all() else labelled

    def agree_on_names(self, names_of_ranks: Sequence[Sequence[str]]) -> None:
        """Take the names of all ranks, in the same order on each.

        Raises:
            SetupError: On every rank, if they are more than the classes that were declared.

        """
        found = {name for names in (self.names, *names_of_ranks) for name in names}
        known = self.names[: self.agreed]
        self.names = [*known, *sorted(found.difference(known))]
        self.agreed = len(self.names)
        if self._declared is not None and len(self.names) > self._declared:
            raise SetupError(f"labels are {len(self.names)} words, {self.names}, but num_classes = {self._declared}")

    def _learn_targets(self, meaning: Tensor, given: Tensor) -> None:
        outputs = meaning.shape[1]
        what = f"{'real targets' if given.is_floating_point() else _MULTI_HOT}, {outputs} of them a sample"
        self._refuse_another(what)
        if self._declared is not None and given.is_floating_point():
            raise SetupError(
                f"labels are {given.dtype}, which means regression targets, but num_classes = {self._declared} was"
                " given; give integers (class indices, or (N, C) zeros and ones), or no num_classes"
            )
        if self._declared not in (None, outputs):
            raise SetupError(f"labels are multi-hot with {outputs} columns, but num_classes = {self._declared}")
        self.num_outputs = outputs
        self._what = what

    def _learn_classes(self, low: int, high: int, names: list[str]) -> None:
        self._refuse_another("classes")
        if low < 0 or (self._declared is not None and high >= self._declared):
            limit = "C" if self._declared is None else self._declared
            raise SetupError(
                f"labels must be class indices in [0, {limit}), or -100 for none, got values from {low} to {high}"
                + (f": {names}" if names else "")
            )
        if self._declared is None and high >= _MAX_INFERRED_CLASSES:
            raise SetupError(
                f"the labels go up to {high}, which looks like token ids; if they are classes, pass num_classes"
            )
        if self._declared is None:
            self.num_classes = max(self.num_classes, high + 1, 2)
        self.names = names
        self._what = "classes"

    def _refuse_another(self, what: str) -> None:
        if self._what not in ("", what):
            raise SetupError(f"labels were {self._what} in the batches before, and are {what} now")

    def _say(self, given: Tensor) -> None:
        """How labels that could mean something else were understood, once."""
        shape = tuple(given.shape)
        if self.multi_hot:
            said = f"(N, C) zeros and ones are understood as {shape[1]} labels of which a sample has any number"
        elif self.names:
            said = "words are understood as the classes " + ", ".join(map(repr, self.names[:8]))
        elif given.ndim == 2 and not given.is_floating_point():
            said = "(N, 1) integers are understood as one class index a sample"
        elif given.dtype == torch.bool:
            said = "true and false are understood as the classes 1 and 0"
        else:
            return
        if said.partition(" ")[0] not in self._said:
            self._said.add(said.partition(" ")[0])
            rank_zero_info(f"NTPS: labels that are {said}.")


def are_words(labels: Any) -> bool:
    """Whether these are strings, as lists, tuples and numpy arrays hold them."""
    if isinstance(labels, (Tensor, str)) or not hasattr(labels, "__iter__"):
        return False
    items = list(labels)
    return bool(items) and all(isinstance(item, str) for item in items)
