"""Adding a batch to the moments."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from ntps_lightning.functional.bag import bag_products
from ntps_lightning.functional.finite import refuse_unsummable_parts
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.options import Pooling, Precision
from ntps_lightning.functional.packed_batch import PackedBatch, pack_batch
from ntps_lightning.functional.prefix_sums import prefix_sums
from ntps_lightning.functional.products import float32_products
from ntps_lightning.functional.targets import check_classes, read_labels


def batch_moments(
    hidden_states: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    pooling: Pooling = "mean",
    precision: Precision = "highest",
    controls: bool = False,
) -> Moments:
    """The moments of one batch.

    Args:
        hidden_states: ``(N, T, d)``, any floating dtype; positions that the mask leaves out are never read.
        labels: ``(N,)`` integer class indices, or ``(N,)`` / ``(N, C)`` floating regression targets.
        attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding, wherever the padding is. ``None``: all valid.
        num_classes: number of classes C; by default the largest label plus one.
        pooling: see :class:`~ntps_lightning.ScoreOptions`.
        precision: see :class:`~ntps_lightning.ScoreOptions`.
        controls: take what the directions without order need, too.

    Raises:
        ValueError: If shapes disagree, a label is out of range, a sample has no valid token, or a valid hidden state
            or target is not finite.

    """
    targets = read_labels(labels, num_classes)
    classes = targets.ndim == 1
    if classes:
        num_outputs = num_classes or (int(targets.max()) + 1 if len(targets) else 1)
        check_classes(targets, num_outputs)
    else:
        num_outputs = targets.shape[1]
    hidden_states = to_tensor(hidden_states, "hidden_states", "floating (N, T, d)")
    hidden_size = hidden_states.shape[-1] if hidden_states.ndim else 0
    device = hidden_states.device
    moments = Moments.zeros(hidden_size, num_outputs, device, classes=classes, controls=controls)
    accumulate_(moments, hidden_states, targets, attention_mask, pooling=pooling, precision=precision)
    return moments


def accumulate_(
    moments: Moments,
    hidden_states: Tensor,
    targets: Tensor,
    attention_mask: Tensor | PackedBatch | None = None,
    *,
    pooling: Pooling = "mean",
    precision: Precision = "highest",
) -> Tensor:
    """Add a batch to ``moments`` in place; nothing is added when the batch is refused.

    Args:
        moments: The sums to add to. Products are taken on the device of the hidden states, wherever the sums are.
        hidden_states: ``(N, T, d)``, see :func:`batch_moments`.
        targets: as :func:`~ntps_lightning.functional.targets.read_labels` returns them, and as ``moments`` were made
            for: ``(N,)`` class indices in range, or ``(N, C)`` float64.
        attention_mask: ``(N, T)``, or what :func:`~ntps_lightning.functional.packed_batch.pack_batch` made of it,
            which serves all layers, or ``None``.
        pooling: see :class:`~ntps_lightning.ScoreOptions`.
        precision: see there.

    Returns:
        ``(N, d)`` float64 pooled states, where the sums are.

    Raises:
        ValueError: See :func:`batch_moments`.

    """
    device = moments.pooled_gram.device
    _check_hidden_states(hidden_states, len(targets), moments.pooled_sum.shape[0])
    if targets.ndim == 2 and not targets.isfinite().all():
        raise ValueError("regression targets hold NaN or Inf; drop those samples")
    with float32_products(hidden_states.device, precision):
        batch = _packed(attention_mask, hidden_states)
        sizes = [len(part.samples) for part in batch.parts]
        parts = list(zip(batch.parts, torch.split(hidden_states, sizes), torch.split(targets, sizes), strict=True))
        if len(parts) > 1:
            refuse_unsummable_parts([(part, hidden) for part, hidden, _ in parts])
        found = torch.empty(len(targets), moments.pooled_sum.shape[0], dtype=torch.float64, device=device)
        for part, hidden, target, rows in zip(*zip(*parts, strict=True), torch.split(found, sizes), strict=True):
            prefixes = prefix_sums(hidden, part).to(device)
            prefixes.add_to_(moments)
            totals = prefixes.totals()
            if moments.bag_products.numel():
                moments.bag_products.add_(bag_products(hidden, part, totals))
            pooled = totals / prefixes.lengths[:, None]
            if pooling == "last":
                pooled = hidden[part.samples, part.last].to(device, torch.float64)
            _accumulate_pooled_(moments, pooled, target[part.samples.to(target.device)])
            rows[part.samples.to(device)] = pooled
    return found


def _packed(attention_mask: Tensor | PackedBatch | None, hidden_states: Tensor) -> PackedBatch:
    shape = (hidden_states.shape[0], hidden_states.shape[1])
    if not isinstance(attention_mask, PackedBatch):
        mask = None if attention_mask is None else to_tensor(attention_mask, "attention_mask", "(N, T)")
        return pack_batch(mask, shape, hidden_states.device)
    if attention_mask.shape != shape:
        raise ValueError(f"the packed batch is of shape (N, T) = {attention_mask.shape}, hidden_states of {shape}")
    return attention_mask.to(hidden_states.device)


def _accumulate_pooled_(moments: Moments, pooled: Tensor, targets: Tensor) -> None:
    moments.num_samples.add_(len(pooled))
    moments.pooled_sum.add_(pooled.sum(0))
    moments.pooled_gram.addmm_(pooled.T, pooled)
    if targets.ndim == 2:
        targets = targets.to(pooled.device)
        moments.target_sum.add_(targets.sum(0))
        moments.target_gram.addmm_(targets.T, targets)
        moments.pooled_target.addmm_(pooled.T, targets)
        return
    # Of many classes a batch has few: those alone are worked on.
    present, position = targets.unique(return_inverse=True)  # type: ignore[no-untyped-call]
    present, one_hot_rows = present.to(pooled.device), one_hot(position).to(pooled)
    moments.target_sum.index_add_(0, present, one_hot_rows.sum(0))
    moments.pooled_target.index_add_(1, present, pooled.T @ one_hot_rows)


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
