"""How far a batch has come, whose forward pass may fail and be made again, over the same samples or parts of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ntps_lightning.capture.forward_inputs import ForwardInputs


class Progress:
    """Which samples of a batch the model has been through, and which of them each layer has been added for.

    Args:
        count: samples of the batch.

    Attributes:
        rows: how many of them, the first, have come through the whole model.
        tried: whether any call was begun.

    """

    def __init__(self, count: int) -> None:
        self.rows = 0
        self.tried = False
        self._count = count
        self._added: dict[int, int] = {}
        self._under_way: slice | None = None
        self._ids: Tensor | None = None  # of the call that was tried first
        self._row_each = False

    @property
    def complete(self) -> bool:
        """Whether all samples have come through."""
        return self.tried and self.rows == self._count

    def rows_of(self, inputs: ForwardInputs) -> slice | None:
        """Which samples a call is over, where it is the next part of a batch whose whole failed; else ``None``."""
        ids = inputs.input_ids
        if self._ids is None or ids is None or not self._row_each or not len(ids) < self._count:
            return None
        rows = slice(self.rows, self.rows + len(ids))
        return rows if self._ids[rows].equal(ids) else None

    def differs(self, inputs: ForwardInputs) -> bool:
        """Whether a call over the whole batch has other tokens than the one that failed."""
        ids = inputs.input_ids
        return self._ids is not None and (ids is None or not self._ids.equal(ids))

    def added_all(self, layers: Sequence[int]) -> bool:
        """Whether each of these layers has all samples: a model may end its forward pass by an exception."""
        return self._count > 0 and all(self._added.get(layer) == self._count for layer in layers)

    def begin(self, rows: slice | None, ids: Tensor | None, *, row_each: bool) -> None:
        """A call over some of the samples, or all, begins; where another did not end, it has failed.

        Args:
            rows: which samples; ``None``: all.
            ids: of its tokens, where it has any.
            row_each: whether each sample has a row.

        """
        if not self.tried:
            self._ids = ids
            self._row_each = row_each
        self.tried = True
        self._under_way = rows or slice(0, self._count)

    def end(self) -> None:
        """The call has come through."""
        if self._under_way is not None:
            self.rows = self._under_way.stop
        self._under_way = None

    def is_new_to(self, layer: int) -> bool:
        """Whether a layer has not been added yet for the samples that are under way; from now on it has.

        Raises:
            ValueError: If it has been for some of them.

        """
        rows, added = self._under_way or slice(0, 0), self._added.get(layer, 0)
        if added >= rows.stop:
            return False
        if added > rows.start:
            raise ValueError("a forward pass failed, and was made again over parts of other sizes: they do not add up")
        self._added[layer] = rows.stop
        return True
