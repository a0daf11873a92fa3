"""Second moments of hidden states and labels: everything the score needs, additive over samples."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import one_hot

Pooling = Literal["mean", "last"]

# Float64 copies of the hidden states are made for this many numbers at a time (128 MiB each).
_CHUNK_NUMEL = 2**24


@dataclass(frozen=True)
class Moments:
    r"""Sums over samples, all float64. Two of them over disjoint samples merge by ``+``.

    With valid tokens :math:`x_1..x_T` of a sample, prefix sums :math:`c_t = x_1 + .. + x_t`, the pooled state
    :math:`\bar x` and the target :math:`y` (one-hot class or real vector):

    Args:
        num_samples: ``()`` number of samples n.
        pooled_sum: ``(d,)`` :math:`\sum \bar x`.
        target_sum: ``(C,)`` :math:`\sum y`.
        target_gram: ``(C, C)`` :math:`\sum y y^\top`.
        pooled_gram: ``(d, d)`` :math:`\sum \bar x \bar x^\top`, n times the perception covariance.
        pooled_target: ``(d, C)`` :math:`\sum \bar x y^\top`, n times the perception cross-covariance.
        prefix_gram: ``(d, d)`` :math:`\sum \sum_{t<T} c_t c_t^\top`, n times the prefix covariance.
        prefix_next: ``(d, d)`` :math:`\sum \sum_{t<T} c_t x_{t+1}^\top`, n times prefix to next token.
        prefix_sums: ``(d, 2)`` :math:`\sum \sum_{t<T} c_t (1, t)`, for moving the origin.
        next_sum: ``(d,)`` :math:`\sum \sum_{t<T} t x_{t+1}`, likewise.
        position_sums: ``(2,)`` :math:`\sum \sum_{t<T} (t, t^2)`, likewise.

    """

    num_samples: Tensor
    pooled_sum: Tensor
    target_sum: Tensor
    target_gram: Tensor
    pooled_gram: Tensor
    pooled_target: Tensor
    prefix_gram: Tensor
    prefix_next: Tensor
    prefix_sums: Tensor
    next_sum: Tensor
    position_sums: Tensor

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
        "prefix_gram": (d, d),
        "prefix_next": (d, d),
        "prefix_sums": (d, 2),
        "next_sum": (d,),
        "position_sums": (2,),
    }


def batch_moments(
    hidden_states: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    pooling: Pooling = "mean",
) -> Moments:
    """The moments of one batch.

    Args:
        hidden_states: ``(N, T, d)``, any floating dtype; positions that the mask leaves out are never read.
        labels: ``(N,)`` integer class indices, or ``(N,)`` / ``(N, C)`` floating regression targets.
        attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding, wherever the padding is. ``None``: all valid.
        num_classes: number of classes C; by default the largest label plus one.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.

    Raises:
        ValueError: If shapes disagree, a label is out of range, a sample has no valid token, or a valid hidden state
            or target is not finite.

    """
    targets = encode_targets(labels, num_classes)
    shapes = moment_shapes(hidden_states.shape[-1] if hidden_states.ndim else 0, targets.shape[1])
    zeros = {name: hidden_states.new_zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    moments = Moments(**zeros)
    accumulate_(moments, hidden_states, targets, attention_mask, pooling=pooling)
    return moments


def accumulate_(
    moments: Moments,
    hidden_states: Tensor,
    targets: Tensor,
    attention_mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
) -> None:
    """Add a batch to ``moments`` in place; nothing is added when the batch is refused.

    Args:
        moments: The sums to add to.
        hidden_states: ``(N, T, d)``, see :func:`batch_moments`.
        targets: ``(N, C)`` as :func:`encode_targets` returns them.
        attention_mask: ``(N, T)`` or ``None``.
        pooling: ``"mean"`` or ``"last"``.

    Raises:
        ValueError: See :func:`batch_moments`.

    """
    device = moments.prefix_gram.device
    mask = _valid_tokens(hidden_states, targets, attention_mask, moments.pooled_sum.shape[0])
    # Autocast would otherwise turn a float32 product into a bfloat16 one inside the user's own forward pass.
    with torch.no_grad(), torch.autocast(hidden_states.device.type, enabled=False):
        pooled = _pool(hidden_states, mask, pooling).to(device)
        targets = targets.to(device, torch.float64)
        moments.num_samples.add_(len(pooled))
        moments.pooled_sum.add_(pooled.sum(0))
        moments.target_sum.add_(targets.sum(0))
        moments.target_gram.addmm_(targets.T, targets)
        moments.pooled_gram.addmm_(pooled.T, pooled)
        moments.pooled_target.addmm_(pooled.T, targets)
        rows = max(1, _CHUNK_NUMEL // hidden_states[0].numel())
        for hidden, valid in zip(torch.split(hidden_states, rows), torch.split(mask, rows), strict=True):
            _accumulate_prefixes_(moments, hidden.to(device), valid.to(device))


def _accumulate_prefixes_(moments: Moments, hidden_states: Tensor, mask: Tensor) -> None:
    valid = mask.unsqueeze(-1)
    tokens = torch.where(valid, hidden_states, 0).to(torch.float64)
    # At token t + 1 these are c_t and t, and 0 at the first token and at padding: such rows add nothing.
    prefix = tokens.cumsum(1).sub_(tokens).mul_(valid).flatten(0, 1)
    position = (mask.cumsum(1).sub_(mask.long()) * mask).flatten().double()
    tokens = tokens.flatten(0, 1)
    moments.prefix_gram.addmm_(prefix.T, prefix)
    moments.prefix_next.addmm_(prefix.T, tokens)
    moments.prefix_sums.addmm_(prefix.T, torch.stack([torch.ones_like(position), position], 1))
    moments.next_sum.addmv_(tokens.T, position)
    moments.position_sums.add_(torch.stack([position.sum(), position.square().sum()]))


def _pool(hidden_states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    total = torch.where(mask.unsqueeze(-1), hidden_states, 0).sum(1, dtype=torch.float64)
    broken = ~total.isfinite().all(1)
    if broken.any():
        raise ValueError(
            f"hidden_states hold NaN or Inf at valid tokens of samples {broken.nonzero().flatten().tolist()[:8]} of"
            f" the batch ({int(broken.sum())} of {len(total)}); check the model's precision or learning rate"
        )
    if pooling == "mean":
        return total / mask.sum(1, keepdim=True)
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return hidden_states[torch.arange(len(last), device=last.device), last].double()


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


def _valid_tokens(hidden_states: Tensor, targets: Tensor, attention_mask: Tensor | None, hidden_size: int) -> Tensor:
    shape = tuple(hidden_states.shape)
    if hidden_states.ndim != 3 or not hidden_states.is_floating_point():
        raise ValueError(f"hidden_states must be floating, of shape (N, T, d), got {hidden_states.dtype} {shape}")
    if 0 in shape:
        raise ValueError(f"hidden_states are empty: shape (N, T, d) = {shape}")
    if shape[2] != hidden_size:
        raise ValueError(f"hidden_states have size d = {shape[2]}, expected {hidden_size}")
    if len(targets) != shape[0]:
        raise ValueError(f"labels are for {len(targets)} samples, hidden_states for {shape[0]}")
    if attention_mask is None:
        return torch.ones(shape[:2], dtype=torch.bool, device=hidden_states.device)
    if tuple(attention_mask.shape) != shape[:2]:
        raise ValueError(
            f"attention_mask must have shape (N, T) = {shape[:2]}, got {tuple(attention_mask.shape)}; of a 4D mask"
            " give the (N, T) padding mask that it was made from"
        )
    mask = attention_mask.to(hidden_states.device)
    valid = mask == 1
    if not (valid | (mask == 0)).all():
        raise ValueError("attention_mask must hold 1 (valid) and 0 (padding) alone, got other values")
    empty = ~valid.any(1)
    if empty.any():
        raise ValueError(f"samples {empty.nonzero().flatten().tolist()[:8]} of the batch have no valid token")
    return valid


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

    """

    num_samples: int
    mean: Tensor
    target_mean: Tensor
    target_gram: Tensor
    perception: Tensor
    cross: Tensor
    prefix: Tensor
    prefix_next: Tensor


def covariances(moments: Moments, *, center: bool) -> Covariances:
    """Normalise the moments by n; with ``center``, as if the mean pooled state had been subtracted from every token
    and the mean target from every target (the probe then has an intercept, and no origin is special).
    """
    m, n = moments, int(moments.num_samples)
    mean, target_mean = m.pooled_sum / n, m.target_sum / n
    origin, target_origin = mean * center, target_mean * center
    prefix_sum, prefix_position = m.prefix_sums.unbind(1)
    t, tt = m.position_sums
    shift = torch.outer(prefix_position, origin)
    next_shift = torch.outer(prefix_sum, origin) + torch.outer(origin, m.next_sum - t * origin)
    target_gram = m.target_gram / n - torch.outer(target_origin, target_origin)
    cross = m.pooled_target / n - torch.outer(origin, target_origin)
    return Covariances(
        num_samples=n,
        mean=mean - origin,
        target_mean=target_mean - target_origin,
        target_gram=target_gram,
        perception=m.pooled_gram / n - torch.outer(origin, origin),
        cross=cross @ _range_projector(target_gram),
        prefix=(m.prefix_gram - shift - shift.T + tt * torch.outer(origin, origin)) / n,
        prefix_next=(m.prefix_next - next_shift) / n,
    )


def _range_projector(gram: Tensor) -> Tensor:
    """Orthogonal projector on the range of a small Gram matrix.

    Outside it S is zero but for rounding, which whitening would blow up: centred one-hot targets sum to zero.

    """
    eigenvalues, vectors = torch.linalg.eigh(gram)
    basis: Tensor = vectors[:, eigenvalues > 1e-12 * eigenvalues[-1]]
    return basis @ basis.T
