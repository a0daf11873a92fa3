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
    _check_hidden_states(hidden_states, len(targets), moments.pooled_sum.shape[0])
    # Autocast would otherwise turn a float32 product into a bfloat16 one inside the user's own forward pass.
    with torch.no_grad(), torch.autocast(own.type, enabled=False), _float32_products(precision):
        steps = steps_of(attention_mask, hidden_states.shape[0], hidden_states.shape[1], own)
        sizes = [len(part.samples) for part in steps]
        encoded = targets.to(device, torch.float64)
        parts = list(zip(steps, torch.split(hidden_states, sizes), torch.split(encoded, sizes), strict=True))
        if len(parts) > 1:
            _refuse_not_finite(parts)
        for part, hidden, target in parts:
            prefixes = prefix_sums(hidden, part)
            if not prefixes.residuals.sum().isfinite():
                _refuse(hidden, part)
            prefixes = prefixes.to(device)
            prefixes.add_to_(moments)
            pooled = prefixes.totals() / prefixes.lengths[:, None]
            if pooling == "last":
                pooled = hidden[part.samples, part.last].to(device, torch.float64)
            _accumulate_pooled_(moments, pooled, target[part.samples.to(device)])


def _accumulate_pooled_(moments: Moments, pooled: Tensor, targets: Tensor) -> None:
    moments.num_samples.add_(len(pooled))
    moments.pooled_sum.add_(pooled.sum(0))
    moments.target_sum.add_(targets.sum(0))
    moments.target_gram.addmm_(targets.T, targets)
    moments.pooled_gram.addmm_(pooled.T, pooled)
    moments.pooled_target.addmm_(pooled.T, targets)


@contextmanager
def _float32_products(precision: Precision) -> Iterator[None]:
    """Products of float32 numbers as asked for, whatever the global flags say."""
    gpu: Any = torch.backends.cuda.matmul
    cpu: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = gpu.fp32_precision, cpu.fp32_precision
    gpu.fp32_precision, cpu.fp32_precision = "tf32" if precision == "high" else "ieee", "ieee"
    try:
        yield
    finally:
        gpu.fp32_precision, cpu.fp32_precision = before


def _refuse_not_finite(parts: list[tuple[Steps, Tensor, Tensor]]) -> None:
    """Before the first part is added, all are looked at."""
    for part, hidden, _ in parts:
        if not hidden.sum(dtype=torch.promote_types(hidden.dtype, torch.float32)).isfinite():
            _refuse(hidden, part)


def _refuse(hidden_states: Tensor, steps: Steps) -> None:
    """Say which samples hold values that are not finite, if any does: padding may."""
    size, length, d = hidden_states.shape
    tokens = steps.gather(hidden_states, 0, length).reshape(-1, d)
    index = torch.arange(len(tokens), device=tokens.device) % size if steps.index is None else steps.index // length
    broken = sorted(set(index[~tokens.isfinite().all(1)].tolist()))
    if broken:
        raise ValueError(
            f"hidden_states hold NaN or Inf at valid tokens of samples {broken[:8]} of the batch ({len(broken)} of"
            f" {size}); check the model's precision or learning rate"
        )


def _check_hidden_states(hidden_states: Tensor, num_targets: int, hidden_size: int) -> None:
    shape = tuple(hidden_states.shape)
    if hidden_states.ndim != 3 or not hidden_states.is_floating_point():
        raise ValueError(f"hidden_states must be floating, of shape (N, T, d), got {hidden_states.dtype} {shape}")
    if 0 in shape:
        raise ValueError(f"hidden_states are empty: shape (N, T, d) = {shape}")
    if shape[2] != hidden_size:
        raise ValueError(f"hidden_states have size d = {shape[2]}, expected {hidden_size}")
    if num_targets != shape[0]:
        raise ValueError(f"labels are for {num_targets} samples, hidden_states for {shape[0]}")
