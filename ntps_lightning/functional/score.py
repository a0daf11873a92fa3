"""The Next Token Perception Score and its details, from hidden states or from their moments."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from typing_extensions import Unpack  # torch itself depends on it

from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.bag import bag_subspace
from ntps_lightning.functional.details import NO_ROWS, NTPSDetails, few_samples_warning
from ntps_lightning.functional.estimators import gcv_r2, h_score, log_me, probe_mse_r2, rankme
from ntps_lightning.functional.held_out import GRID, HeldOut, read_held_out
from ntps_lightning.functional.kept_samples import KeptSamples
from ntps_lightning.functional.moments import Covariances, Moments, covariances, target_spread
from ntps_lightning.functional.null import captured_null_curve, null_curve, orthonormal_null_curve, shuffled_labels
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.functional.overlap import captured_curve, excess_loss_bounds, nested_basis, overlap_curve
from ntps_lightning.functional.significance import score_p_value
from ntps_lightning.functional.subspaces import (
    Subspace,
    autoregressive_subspace,
    extreme_eigenvalues,
    perception_subspace,
)
from ntps_lightning.functional.whitening import Whitening, whitening

_EPS = torch.finfo(torch.float64).eps
# The variance of pooled states, as a share of their energy, below which they are the same: some float32 roundings.
_SAME = 1e-12


def next_token_perception_score(
    hidden_states: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    **options: Unpack[ScoreKeywords],
) -> Tensor:
    r"""Next Token Perception Score (`arXiv 2505.17169 <https://arxiv.org/abs/2505.17169>`_).

    With U the subspace of the pooled hidden states that the labels need and V the one that next-token prediction
    favours, both as leading generalized eigenvectors, and P the orthogonal projector on the leading k columns of V:

    .. math:: \text{NTPS} = \|P U\|_F^2 / \|U\|_F^2

    Args:
        hidden_states: ``(N, T, d)`` of one layer, any floating dtype; the solver works in float64.
        labels: ``(N,)`` integer class indices, or ``(N,)`` / ``(N, C)`` floating regression targets.
        attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding. ``None``: all valid.
        num_classes: number of classes; by default the largest label plus one.
        options: ``k``, ``ridge``, ``center``, ``orthonormal``, ``pooling`` and ``precision``, see
            :class:`~ntps_lightning.ScoreOptions`.

    Returns:
        Scalar float64 tensor in [0, 1].

    Raises:
        ValueError: If shapes disagree, a label is out of range, there is a single class, a sample has no valid token,
            a value is not finite, or an option is out of range.

    Example:
        >>> import torch
        >>> from ntps_lightning import next_token_perception_score
        >>> generator = torch.Generator().manual_seed(0)
        >>> hidden_states = torch.randn(400, 12, 16, generator=generator)
        >>> labels = (hidden_states.mean(1)[:, 0] > 0).long()
        >>> print(f"{next_token_perception_score(hidden_states, labels, k=4):.4f}")
        0.3994

    """
    chosen = ScoreOptions(**options)
    moments = batch_moments(
        hidden_states,
        labels,
        attention_mask,
        num_classes=num_classes,
        pooling=chosen.pooling,
        precision=chosen.precision,
    )
    details = score_details(moments, **options)
    warning = few_samples_warning(details)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return torch.tensor(details.score, dtype=torch.float64, device=hidden_states.device)


def score_details(
    moments: Moments,
    kept: KeptSamples | None = None,
    *,
    whole_curve: bool = True,
    estimators: bool = False,
    **options: Unpack[ScoreKeywords],
) -> NTPSDetails:
    """The score and its details from accumulated moments.

    Args:
        moments: sums over samples.
        kept: rows of some of them, for held-out numbers.
        whole_curve: curves over every k; else up to ``k`` alone, which is many times faster where d is large.
        estimators: also the learning curve, RankMe, H-score and LogME: what is asked of a model before finetuning.
        options: see :class:`~ntps_lightning.ScoreOptions`; those of accumulation change nothing here.

    Raises:
        ValueError: If there is no sample, a single class or a constant target, no sample with two tokens, nothing in
            the hidden states that varies with the labels, or an option is out of range.

    """
    d, num_outputs = moments.pooled_target.shape
    chosen = ScoreOptions(**options)
    chosen.check_hidden_size(d)
    _check_moments(moments)
    cov = covariances(moments, center=chosen.center)
    penalty = float(chosen.ridge * cov.perception.trace() / d)
    regularised = cov.perception.clone()
    regularised.diagonal().add_(penalty)
    whitener = whitening(regularised)
    perception = perception_subspace(cov.cross, whitener)
    if len(perception.eigenvalues) == 0:
        raise ValueError("the pooled hidden states do not vary with the labels at all: is the right layer captured?")
    k = chosen.num_directions(d, num_outputs)
    autoregressive = autoregressive_subspace(
        cov.prefix, cov.prefix_next, count=None if whole_curve else k, noise=cov.rounding
    )
    k = _usable_k(k, autoregressive, d)
    if chosen.k is None and k == d:
        warnings.warn(
            f"k = {k}, one for each class or target, is the hidden size: all directions are used, and the score is 1"
            " whatever the labels; pass a smaller k",
            stacklevel=2,
        )
    basis = nested_basis(autoregressive.directions)
    whitened_basis = nested_basis(whitener.coordinates(autoregressive.directions))
    curves = _curves(cov, whitener, penalty, perception, (basis, whitened_basis), chosen.orthonormal)
    score, captured, null, captured_null = (float(curve[min(k, len(curve)) - 1]) for curve in curves.values())
    extremes = extreme_eigenvalues(regularised, whitener, at_least=penalty)
    mse, r2 = probe_mse_r2(cov, whitener, penalty)
    centred = cov if chosen.center else covariances(moments, center=True)
    p_value = None
    if whole_curve and chosen.center:
        shares = None if moments.target_gram.numel() else moments.target_sum / moments.num_samples
        p_value = score_p_value(score, cov, shares, whitener, basis[:, :k], orthonormal=chosen.orthonormal)
    found = _held_out(moments, (cov, centred), kept, basis, k, whole_curve, estimators)
    also = _estimators(moments, centred) if estimators else {}
    return NTPSDetails(
        score=score,
        p_value=p_value,
        captured_in_sample=captured,
        null=null,
        lift=(score - null) / (1 - null) if null < 1 - 1e-9 else 0.0,
        captured_null=captured_null,
        chance=k / d,
        k=k,
        ridge=chosen.ridge,
        rank=len(perception.eigenvalues),
        **{name: curve.cpu() for name, curve in curves.items()},
        in_sample_mse=float(mse),
        in_sample_r2=float(r2),
        excess_loss=float(perception.eigenvalues.sum()) * (1 - captured),
        excess_loss_bounds=excess_loss_bounds(basis[:, :k], perception, extremes),
        num_samples=cov.num_samples,
        samples_per_dim=cov.num_samples / d,
        subspace_error=autoregressive.error,
        held_out=found if isinstance(found, HeldOut) else None,
        not_held_out=found if isinstance(found, str) else "",
        gcv_r2=gcv_r2(centred, GRID) if kept is None and whole_curve else None,
        rankme=also.get("rankme"),
        h_score=also.get("h_score"),
        log_me=also.get("log_me"),
    )


def _estimators(moments: Moments, centred: Covariances) -> dict[str, float | None]:
    classes = not moments.target_gram.numel()
    return {
        "rankme": float(rankme(moments)),
        "h_score": float(h_score(moments, centred, whitening(centred.perception))) if classes else None,
        "log_me": float(log_me(moments)),
    }


def _held_out(
    moments: Moments,
    both: tuple[Covariances, Covariances],
    kept: KeptSamples | None,
    basis: Tensor,
    k: int,
    curves: bool,
    estimators: bool,
) -> HeldOut | str:
    """By covariances as the score has them, and centred; what goes wrong with them costs no other number."""
    if kept is None:
        return NO_ROWS
    cov, centred = both
    try:
        bag = None
        if cov.bag is not None:
            bag = nested_basis(bag_subspace(cov.bag, cov, count=None if curves else k).directions)
        fewer_rows = curves or estimators
        return read_held_out(moments, centred, kept, basis, k, bag=bag, curves=curves, fewer_rows=fewer_rows)
    except RuntimeError as error:
        return f"they could not be computed ({error})"


def _curves(
    cov: Covariances,
    whitener: Whitening,
    penalty: float,
    perception: Subspace,
    bases: tuple[Tensor, Tensor],
    orthonormal: bool,
) -> dict[str, Tensor]:
    """The four curves over k, by the nested bases of the autoregressive directions, plain and whitened."""
    basis, whitened_basis = bases
    columns = nested_basis(perception.directions) if orthonormal else perception.directions
    null = orthonormal_null_curve if orthonormal else null_curve
    shuffled = shuffled_labels(cov, whitener, penalty)
    curves = {
        "curve": overlap_curve(basis, columns),
        "captured_in_sample_curve": captured_curve(whitened_basis, whitener.whiten(cov.cross)),
        "null_curve": null(basis, shuffled, len(perception.eigenvalues)),
        "captured_null_curve": captured_null_curve(whitened_basis, shuffled),
    }
    return {name: curve.clamp(max=1) for name, curve in curves.items()}  # above it is rounding


def _check_moments(moments: Moments) -> None:
    n = int(moments.num_samples)
    if n == 0:
        raise ValueError("no samples: call update (or pass hidden states) before asking for the score")
    if moments.position_sums[0] == 0:
        raise ValueError(f"none of the {n} samples has two valid tokens: there is no next token to predict")
    if not moments.prefix_products.sum().isfinite():
        raise ValueError("the sums over prefixes overflowed: the hidden states are too large for float32 products")
    energy = moments.pooled_gram.trace() / n
    if energy - (moments.pooled_sum / n).square().sum() <= _SAME * energy:
        raise ValueError(
            f"the pooled hidden states of all {n} samples are the same but for rounding, so there is nothing to"
            " perceive; are the texts the same, or is this a layer before they differ?"
        )
    if not target_spread(moments)[1].any():
        raise ValueError(
            f"the labels of all {n} samples are the same (a single class or a constant target), so there is nothing to"
            " perceive; are the batches shuffled, or too few?"
        )


def _usable_k(k: int, autoregressive: Subspace, hidden_size: int) -> int:
    """``k``, or what the tokens can tell apart of it: past that, eigenvectors are an arbitrary basis."""
    eigenvalues = autoregressive.eigenvalues
    usable = int((eigenvalues > len(eigenvalues) * _EPS * eigenvalues[0]).sum())
    if usable == 0:
        raise ValueError("no next token depends linearly on the tokens before it: are the hidden states all zero?")
    if k <= usable or k == hidden_size == len(eigenvalues):
        return k
    warnings.warn(
        f"k = {k} autoregressive directions were asked for, but the tokens tell only {usable} apart; using {usable}",
        stacklevel=3,
    )
    return usable
