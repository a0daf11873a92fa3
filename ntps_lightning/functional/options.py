"""The options of the score: validated, documented and given their defaults here, for every way to compute it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypedDict

Pooling = Literal["mean", "last"]
Precision = Literal["highest", "high"]


class ScoreKeywords(TypedDict, total=False):
    """The fields of :class:`ScoreOptions` as keywords, for signatures that take them."""

    k: int | float | None
    ridge: float
    center: bool
    orthonormal: bool
    pooling: Pooling
    precision: Precision


@dataclass(frozen=True, kw_only=True)
class ScoreOptions:
    """What may be chosen about a score.

    Args:
        k: number of autoregressive directions: a count in [1, d], or a fraction of d in (0, 1]. By default the number
            of classes or 1% of d, whichever is more.
        ridge: added to the perception covariance B, relative to tr(B)/d.
        center: measure hidden states and targets from their means.
        orthonormal: compare the subspaces alone, replacing U by an orthonormal basis of its span: the mean squared
            cosine of the principal angles. The paper's U weighs directions of low variance more.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.
        precision: of float32 products, whatever :func:`torch.set_float32_matmul_precision` says: ``"highest"`` is
            float32, ``"high"`` is TensorFloat32 on GPUs that have it.

    Raises:
        ValueError: If ``k`` is neither ``None`` nor a count of at least 1 nor a fraction in (0, 1], ``ridge`` is
            negative or not finite, or ``pooling`` or ``precision`` is unknown.

    """

    k: int | float | None = None
    ridge: float = 0.1
    center: bool = True
    orthonormal: bool = False
    pooling: Pooling = "mean"
    precision: Precision = "highest"

    def __post_init__(self) -> None:
        self._check_k("the hidden size d", math.inf)
        if not 0 <= self.ridge < math.inf:
            raise ValueError(f"ridge must be a finite number >= 0, relative to tr(B)/d, got {self.ridge!r}")
        if self.pooling not in ("mean", "last"):
            raise ValueError(f'pooling must be "mean" or "last", got {self.pooling!r}')
        if self.precision not in ("highest", "high"):
            raise ValueError(f'precision must be "highest" (float32) or "high" (TensorFloat32), got {self.precision!r}')

    def check_hidden_size(self, hidden_size: int) -> None:
        """Refuse a count of directions that the hidden size does not have.

        Raises:
            ValueError: If ``k`` is a count above ``hidden_size``.

        """
        self._check_k(f"d = {hidden_size}", hidden_size)

    def num_directions(self, hidden_size: int, num_outputs: int) -> int:
        """The count that ``k`` stands for: by default max(C, 1% of d)."""
        if self.k is None:
            return min(hidden_size, max(num_outputs, round(0.01 * hidden_size), 1))
        return max(1, round(self.k * hidden_size)) if isinstance(self.k, float) else self.k

    def _check_k(self, limit: str, most: float) -> None:
        count = isinstance(self.k, int) and not isinstance(self.k, bool) and 1 <= self.k <= most
        fraction = isinstance(self.k, float) and 0 < self.k <= 1
        if not (self.k is None or count or fraction):
            raise ValueError(
                f"k must be a count in [1, {limit}] (int) or a fraction of d in (0, 1] (float), got {self.k!r}"
            )


# Where help is made of signatures, as by jsonargparse, it finds there what each means.
ScoreKeywords.__doc__ = ScoreOptions.__doc__
