"""Adding a batch to the moments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Moments, moment_shapes
from ntps_lightning.functional.prefixes import prefix_sums
from ntps_lightning.functional.steps import Steps, steps_of
from ntps_lightning.functional.targets import encode_targets

Pooling = Literal["mean", "last"]
Precision = Literal["highest", "high"]

# How many samples may share a step, which is the least that scratch memory holds.
_MAX_SAMPLES = 1024


def batch_moments(
    hidden_states: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    pooling: Pooling = "mean",
    precision: Precision = "highest",
) -> Moments:
    """The moments of one batch.

    Args:
        hidden_states: ``(N, T, d)``, any floating dtype; positions that the mask leaves out are never read.
        labels: ``(N,)`` integer class indices, or ``(N,)`` / ``(N, C)`` floating regression targets.
        attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding, wherever the padding is. ``None``: all valid.
        num_classes: number of classes C; by default the largest label plus one.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.
        precision: of float32 products, see :func:`accumulate_`.

    Raises:
        ValueError: If shapes disagree, a label is out of range, a sample has no valid token, or a valid hidden state
            or target is not finite.

    """
    targets = encode_targets(labels, num_classes)
    shapes = moment_shapes(hidden_states.shape[-1] if hidden_states.ndim else 0, targets.shape[1])
    zeros = {name: hidden_states.new_zeros(shape, dtype=torch.float64) for name, shape in shapes.items()}
    moments = Moments(**zeros)
    accumulate_(moments, hidden_states, targets, attention_mask, pooling=pooling, precision=precision)
    return moments


def accumulate_(
    moments: Moments,
    hidden_states: Tensor,
    targets: Tensor,
    attention_mask: Tensor | None = None,
    *,
    pooling: Pooling = "mean",
    precision: Precision = "highest",
) -> None:
    """Add a batch to ``moments`` in place; nothing is added when the batch is refused.

    Args:
        moments: The sums to add to. Products are taken on the device of the hidden states, wherever the sums are.
        hidden_states: ``(N, T, d)``, see :func:`batch_moments`.
        targets: ``(N, C)`` as :func:`~ntps_lightning.functional.targets.encode_targets` returns them.
        attention_mask: ``(N, T)`` or ``None``.
        pooling: ``"mean"`` or ``"last"``.
        precision: of float32 products, whatever :func:`torch.set_float32_matmul_precision` says: ``"highest"`` is
            float32, ``"high"`` is TensorFloat32 on GPUs that have it and float32 elsewhere.

    Raises:
        ValueError: See :func:`batch_moments`.

    """
    device, own = moments.pooled_gram.device, hidden_states.device
    mask = _valid_tokens(hidden_states, targets, attention_mask, moments.pooled_sum.shape[0])
    # Autocast would otherwise turn a float32 product into a bfloat16 one inside the user's own forward pass.
    with torch.no_grad(), torch.autocast(own.type, enabled=False), _float32_products(precision):
        parts = zip(*(torch.split(tensor, _MAX_SAMPLES) for tensor in (hidden_states, mask, targets)), strict=True)
        if len(hidden_states) > _MAX_SAMPLES:
            _refuse_not_finite(hidden_states, mask)
        for hidden, valid, target in parts:
            steps = steps_of(valid)
            prefixes = prefix_sums(hidden, steps)
            if not prefixes.residuals.sum().isfinite():
                _refuse_not_finite(hidden, valid)
            prefixes = prefixes.to(device)
            prefixes.add_to_(moments)
            pooled = prefixes.totals() / prefixes.lengths[:, None]
            if pooling == "last":
                pooled = _last_tokens(hidden, valid, steps).to(device)
            _accumulate_pooled_(moments, pooled, target.to(device, torch.float64)[steps.samples.to(device)])


def _accumulate_pooled_(moments: Moments, pooled: Tensor, targets: Tensor) -> None:
    moments.num_samples.add_(len(pooled))
    moments.pooled_sum.add_(pooled.sum(0))
    moments.target_sum.add_(targets.sum(0))
    moments.target_gram.addmm_(targets.T, targets)
    moments.pooled_gram.addmm_(pooled.T, pooled)
    moments.pooled_target.addmm_(pooled.T, targets)


def _last_tokens(hidden_states: Tensor, mask: Tensor, steps: Steps) -> Tensor:
    last = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
    return hidden_states[steps.samples, last[steps.samples]].double()


@contextmanager
def _float32_products(precision: Precision) -> Iterator[None]:
    """Products of float32 numbers as asked for, whatever the global flags say."""
    mkldnn: Any = torch.backends.mkldnn
    backends = (torch.backends.cuda.matmul, mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "tf32" if precision == "high" else "ieee"
    try:
        yield
    finally:
        for backend, value in zip(backends, before, strict=True):
            backend.fp32_precision = value


def _refuse_not_finite(hidden_states: Tensor, mask: Tensor) -> None:
    total = torch.where(mask.unsqueeze(-1), hidden_states, 0).sum(1, dtype=torch.float64)
    broken = ~total.isfinite().all(1)
    if broken.any():
        raise ValueError(
            f"hidden_states hold NaN or Inf at valid tokens of samples {broken.nonzero().flatten().tolist()[:8]} of"
            f" the batch ({int(broken.sum())} of {len(total)}); check the model's precision or learning rate"
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
