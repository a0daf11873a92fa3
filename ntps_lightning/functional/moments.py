"""Second moments of hidden states and labels: everything the score needs, additive over samples."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    r"""Sums over samples, all float64 (METHOD 2). Two of them over disjoint samples merge by ``+``.

    With valid tokens :math:`x_1..x_T` of a sample, prefix sums :math:`c_t = x_1 + .. + x_t`, the pooled state
    :math:`\bar x` and the target :math:`y` (one-hot class or real vector):

    Args:
        num_samples: ``()`` number of samples n.
        pooled_sum: ``(d,)`` :math:`\sum \bar x`.
        target_sum: ``(C,)`` :math:`\sum y`.
        target_gram: ``(C, C)`` :math:`\sum y y^\top`.
        pooled_gram: ``(d, d)`` :math:`\sum \bar x \bar x^\top`, n times the perception covariance.
        pooled_target: ``(d, C)`` :math:`\sum \bar x y^\top`, n times the perception cross-covariance.
        prefix_products: ``(2 d + 2, d)`` :math:`\sum \sum_{t<T} [c_t, x_{t+1}, 1, t] c_t^\top`. The first d rows are
            symmetric: they hold the triangle from the diagonal down, and not all of the other.
        next_sum: ``(d,)`` :math:`\sum \sum_{t<T} t x_{t+1}`, for moving the origin.
        position_sums: ``(3,)`` :math:`\sum \sum_{t<T} (1, t, t^2)`, likewise.
        rounding: ``(d,)`` the diagonals of the products over prefixes of residuals, each times the machine epsilon that
            it was taken with.

    """

    num_samples: Tensor
    pooled_sum: Tensor
    target_sum: Tensor
    target_gram: Tensor
    pooled_gram: Tensor
    pooled_target: Tensor
    prefix_products: Tensor
    next_sum: Tensor
    position_sums: Tensor
    rounding: Tensor

    @classmethod
    def zeros(cls, hidden_size: int, num_outputs: int, device: torch.device | str | None = None) -> Moments:
        """The sums over no sample, for d = ``hidden_size`` and C = ``num_outputs``."""
        shapes = moment_shapes(hidden_size, num_outputs)
        return cls(**{name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()})

    def to(self, device: torch.device | str) -> Moments:
        """The same on another device."""
        return Moments(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __add__(self, other: Moments) -> Moments:
        return Moments(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def moment_shapes(hidden_size: int, num_outputs: int) -> dict[str, tuple[int, ...]]:
    """The shape of every field of :class:`Moments` for ``d = hidden_size`` and ``C = num_outputs``."""
    d, c = hidden_size, num_outputs
    return {
        "num_samples": (),
        "pooled_sum": (d,),
        "target_sum": (c,),
        "target_gram": (c, c),
        "pooled_gram": (d, d),
        "pooled_target": (d, c),
        "prefix_products": (2 * d + 2, d),
        "next_sum": (d,),
        "position_sums": (3,),
        "rounding": (d,),
    }


@dataclass(frozen=True)
class Covariances:
    r"""The moments per sample, with hidden states and targets measured from an origin. All float64.

    Args:
        num_samples: number of samples n.
        mean: ``(d,)`` mean of the pooled states as measured from the origin (zero when centred).
        target_mean: ``(C,)`` likewise of the targets.
        target_gram: ``(C, C)`` :math:`\frac1n \sum y y^\top`.
        perception: ``(d, d)`` B.
        cross: ``(d, C)`` S.
        prefix: ``(d, d)`` C0.
        prefix_next: ``(d, d)`` C1.
        rounding: what the rounding of products may have added to C0 with unit diagonal, on average.

    """

    num_samples: int
    mean: Tensor
    target_mean: Tensor
    target_gram: Tensor
    perception: Tensor
    cross: Tensor
    prefix: Tensor
    prefix_next: Tensor
    rounding: float


def covariances(moments: Moments, *, center: bool) -> Covariances:
    """Normalise the moments by n; with ``center``, as if the mean pooled state had been subtracted from every token
    and the mean target from every target (METHOD 3: the probe then has an intercept, and no origin is special).
    """
    m, n = moments, int(moments.num_samples)
    mean, target_mean = m.pooled_sum / n, m.target_sum / n
    origin, target_origin = mean * center, target_mean * center
    d = len(origin)
    gram, next_prefix, (prefix_sum, prefix_position) = torch.split(m.prefix_products, [d, d, 2])
    _, t, tt = m.position_sums
    half = prefix_position - tt / 2 * origin
    prefix = _minus(gram, n, [half, origin], [origin, half]).tril_()
    target_gram = m.target_gram / n - torch.outer(target_origin, target_origin)
    cross = m.pooled_target / n - torch.outer(origin, target_origin)
    return Covariances(
        num_samples=n,
        mean=mean - origin,
        target_mean=target_mean - target_origin,
        target_gram=target_gram,
        perception=_minus(m.pooled_gram, n, [n * origin], [origin]),
        cross=cross @ _range_projector(target_gram),
        prefix=prefix.add_(prefix.tril(-1).T),
        prefix_next=_minus(next_prefix.T, n, [prefix_sum, origin], [origin, m.next_sum - t * origin]),
        rounding=float((m.rounding / n / prefix.diagonal().clamp(min=torch.finfo(prefix.dtype).tiny)).mean()),
    )


def _minus(moment: Tensor, n: int, left: list[Tensor], right: list[Tensor]) -> Tensor:
    """``(moment - sum of the outer products of left and right) / n``, in one pass over a large moment."""
    return torch.addmm(moment, torch.stack(left, 1), torch.stack(right), beta=1 / n, alpha=-1 / n)


def _range_projector(gram: Tensor) -> Tensor:
    """Orthogonal projector on the range of a small Gram matrix.

    Outside it S is zero but for rounding, which whitening would blow up: centred one-hot targets sum to zero.

    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    basis: Tensor = vectors[:, eigenvalues > 1e-12 * eigenvalues[-1]]
    return basis @ basis.T
