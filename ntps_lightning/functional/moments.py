"""Second moments of hidden states and labels: everything the score needs, additive over samples."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

# The variance of a target, as a share of its mean square, below which it is constant: some float32 roundings squared.
_CONSTANT = 1e-12


@dataclass(frozen=True)
class Moments:
    r"""Sums over samples, all float64 (METHOD 2). Two of them over disjoint samples merge by ``+``.

    With valid tokens :math:`x_1..x_T` of a sample, prefix sums :math:`c_t = x_1 + .. + x_t`, the pooled state
    :math:`\bar x` and the target :math:`y` (one-hot class or real vector):

    Args:
        num_samples: ``()`` number of samples n.
        pooled_sum: ``(d,)`` :math:`\sum \bar x`.
        target_sum: ``(C,)`` :math:`\sum y`.
        target_gram: ``(C, C)`` :math:`\sum y y^\top`; ``(0, 0)`` where targets are one-hot classes, of which it is the
            diagonal matrix of ``target_sum``.
        pooled_gram: ``(d, d)`` :math:`\sum \bar x \bar x^\top`, n times the perception covariance.
        pooled_target: ``(d, C)`` :math:`\sum \bar x y^\top`, n times the perception cross-covariance.
        prefix_products: ``(2 d + 2, d)`` :math:`\sum \sum_{t<T} [c_t, x_{t+1}, 1, t] c_t^\top`. The first d rows are
            symmetric: they hold the triangle from the diagonal down, and not all of the other.
        next_sum: ``(d,)`` :math:`\sum \sum_{t<T} t x_{t+1}`, for moving the origin.
        position_sums: ``(3,)`` :math:`\sum \sum_{t<T} (1, t, t^2)`, likewise.
        rounding: ``(d,)`` the diagonals of the products over prefixes of residuals, each times the machine epsilon that
            it was taken with.
        bag_products: ``(d + 1, d)`` with :math:`Q = \sum x x^\top` and :math:`s = \sum x` of a sample,
            :math:`\sum \frac{T + 1}{6} Q + \frac{T - 2}{3} s s^\top` for C0 averaged over orders, and
            :math:`\sum \frac{(T - 1)(2 T - 1)}{6} s^\top` for moving its origin; ``(0, 0)`` without controls.

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
    bag_products: Tensor

    @classmethod
    def zeros(
        cls,
        hidden_size: int,
        num_outputs: int,
        device: torch.device | str | None = None,
        *,
        classes: bool = True,
        controls: bool = False,
    ) -> Moments:
        """The sums over no sample; for the arguments see :func:`moment_shapes`."""
        shapes = moment_shapes(hidden_size, num_outputs, classes=classes, controls=controls)
        return cls(**{name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes.items()})

    def to(self, device: torch.device | str) -> Moments:
        """The same on another device."""
        return Moments(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})

    def __add__(self, other: Moments) -> Moments:
        return Moments(**{f.name: getattr(self, f.name) + getattr(other, f.name) for f in fields(self)})


def moment_shapes(
    hidden_size: int, num_outputs: int, *, classes: bool = True, controls: bool = False
) -> dict[str, tuple[int, ...]]:
    """The shape of every field of :class:`Moments` for ``d = hidden_size`` and ``C = num_outputs``: classes, of which
    each sample has one, or targets; with ``controls``, also of what the directions without order need.
    """
    d, c = hidden_size, num_outputs
    return {
        "num_samples": (),
        "pooled_sum": (d,),
        "target_sum": (c,),
        "target_gram": (0, 0) if classes else (c, c),
        "pooled_gram": (d, d),
        "pooled_target": (d, c),
        "prefix_products": (2 * d + 2, d),
        "next_sum": (d,),
        "position_sums": (3,),
        "rounding": (d,),
        "bag_products": (d + 1, d) if controls else (0, 0),
    }


@dataclass(frozen=True)
class Covariances:
    r"""The moments per sample, with hidden states and targets measured from an origin. All float64.

    Targets that are no classes are divided by their standard deviations, so that none counts more for its unit.

    Args:
        num_samples: number of samples n.
        mean: ``(d,)`` mean of the pooled states as measured from the origin (zero when centred).
        target_mean: ``(C,)`` likewise of the targets.
        target_squares: ``(C,)`` mean squares of the targets as measured from the origin.
        target_gram: ``(C, C)`` :math:`\frac1n \sum y y^\top`; ``None`` for classes.
        target_scale: ``(C,)`` what targets were divided by; ones for classes.
        perception: ``(d, d)`` B.
        cross: ``(d, C)`` S.
        prefix: ``(d, d)`` C0.
        prefix_next: ``(d, d)`` C1.
        rounding: what the rounding of products may have added to C0 with unit diagonal, on average.
        bag: ``(d, d)`` C0 averaged over all orders of the tokens of each sample; ``None`` without controls.

    """

    num_samples: int
    mean: Tensor
    target_mean: Tensor
    target_squares: Tensor
    target_gram: Tensor | None
    target_scale: Tensor
    perception: Tensor
    cross: Tensor
    prefix: Tensor
    prefix_next: Tensor
    rounding: float
    bag: Tensor | None = None

    @property
    def target_variance(self) -> Tensor:
        """``(C,)`` variance of each target, as divided."""
        return self.target_squares - self.target_mean.square()


def target_spread(moments: Moments) -> tuple[Tensor, Tensor]:
    """Mean squares of the targets, ``(C,)``, and their variances: zero where a target is constant but for rounding."""
    n, one_hot = moments.num_samples, not moments.target_gram.numel()
    squares = (moments.target_sum if one_hot else moments.target_gram.diagonal()) / n
    variance = squares - (moments.target_sum / n).square()
    return squares, torch.where(variance > _CONSTANT * squares, variance, 0)


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
    scale, squares, target_gram = _scaled_targets(m, target_origin)
    cross = (m.pooled_target / n - torch.outer(origin, target_origin)) / scale
    return Covariances(
        num_samples=n,
        mean=mean - origin,
        target_mean=(target_mean - target_origin) / scale,
        target_squares=squares,
        target_gram=target_gram,
        target_scale=scale,
        perception=_minus(m.pooled_gram, n, [n * origin], [origin]),
        cross=_in_range(cross, target_gram, m.target_sum, center),
        prefix=prefix.add_(prefix.tril(-1).T),
        prefix_next=_minus(next_prefix.T, n, [prefix_sum, origin], [origin, m.next_sum - t * origin]),
        rounding=float((m.rounding / n / prefix.diagonal().clamp(min=torch.finfo(prefix.dtype).tiny)).mean()),
        bag=_bag(m, origin) if m.bag_products.numel() else None,
    )


def _bag(moments: Moments, origin: Tensor) -> Tensor:
    """C0 averaged over orders, whose mean prefix sums are t/T of the whole: as such they move with the origin."""
    gram, linear = moments.bag_products[:-1], moments.bag_products[-1]
    half = linear - moments.position_sums[2] / 2 * origin
    return _minus(gram, int(moments.num_samples), [half, origin], [origin, half])


def _scaled_targets(moments: Moments, origin: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scale, mean squares and Gram matrix of the targets, as measured from ``origin`` and divided by their scale."""
    squares, variance = target_spread(moments)
    if not moments.target_gram.numel():
        return torch.ones_like(origin), squares - origin.square(), None
    spread = torch.where(variance > 0, variance, squares)  # a constant target has no other unit
    scale = torch.where(spread > 0, spread, 1).sqrt()
    gram = (moments.target_gram / moments.num_samples - torch.outer(origin, origin)) / torch.outer(scale, scale)
    return scale, gram.diagonal(), gram


def _minus(moment: Tensor, n: int, left: list[Tensor], right: list[Tensor]) -> Tensor:
    """``(moment - sum of the outer products of left and right) / n``, in one pass over a large moment."""
    return torch.addmm(moment, torch.stack(left, 1), torch.stack(right), beta=1 / n, alpha=-1 / n)


def _in_range(cross: Tensor, target_gram: Tensor | None, counts: Tensor, center: bool) -> Tensor:
    """S without what rounding leaves outside the range of the targets, where it is zero, and which whitening would blow
    up: centred one-hot targets sum to zero.
    """
    if target_gram is None:
        seen = counts > 0
        return torch.where(seen, cross - cross.sum(1, keepdim=True) / seen.sum(), 0) if center else cross
    eigenvalues, vectors = torch.linalg.eigh(target_gram)
    basis: Tensor = vectors[:, eigenvalues > _CONSTANT * eigenvalues[-1]]
    return cross @ basis @ basis.T
