"""The Next Token Perception Score, its curve over k, and what is needed to read it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.accumulate import Pooling, batch_moments
from ntps_lightning.functional.estimators import probe_mse_r2
from ntps_lightning.functional.moments import Moments, covariances
from ntps_lightning.functional.null import (
    captured_null_curve,
    null_curve,
    orthonormal_null_curve,
    shuffled_labels,
)
from ntps_lightning.functional.overlap import (
    captured_curve,
    excess_loss_bounds,
    nested_basis,
    overlap_curve,
)
from ntps_lightning.functional.subspaces import (
    Subspace,
    autoregressive_subspace,
    extreme_eigenvalues,
    perception_subspace,
    whitening,
)

_EPS = torch.finfo(torch.float64).eps
_FEW_SAMPLES_PER_DIM = 20


@dataclass(frozen=True)
class NTPSDetails:
    r"""The score and everything that the same moments say about it. Curves are ``(m,)`` float64, at k = 1..m: m is the
    rank of the prefix covariance, d with enough samples, or ``k`` where the whole curve was not asked for.

    Args:
        score: NTPS at ``k``, in [0, 1], higher is better.
        captured: share of what a linear probe reads that lies in the leading ``k`` autoregressive directions:
            the same overlap in the inner product of the perception covariance, in [0, 1].
        null: what shuffled labels would score at ``k``, expected; the level to compare ``score`` with.
        lift: ``(score - null) / (1 - null)``, 0 where the null is 1.
        captured_null: what shuffled labels would capture at ``k``, expected.
        chance: ``k / d``, what a random autoregressive subspace would score.
        k: number of autoregressive directions that were used.
        rank: number r of perception directions that the labels have; ``min(k, r)`` were used.
        curve: the score at every k.
        captured_curve: ``captured`` at every k.
        null_curve: ``null`` at every k.
        captured_null_curve: ``captured_null`` at every k.
        probe_mse: in-sample mean squared error of the ridge probe on the pooled states, averaged over outputs.
        probe_r2: its coefficient of determination, in-sample: too high where ``samples_per_dim`` is small.
        excess_loss: squared error, summed over outputs and with the ridge penalty, that the best probe confined to
            the autoregressive subspace has over the best one: ``(1 - captured)`` times what the probe explains.
        excess_loss_bounds: the bounds that NTPS puts on it (arXiv 2505.17169), lower and upper; with a ridge a
            little wider, from bounds on the extreme eigenvalues of B + ridge.
        num_samples: number of samples n.
        samples_per_dim: n / d. Below about 20 the score is biased towards ``null``.
        subspace_error: estimated sine of the largest angle between the autoregressive subspace that was used and the
            exact one, in whitened coordinates: 0 where the solver was exact, at most 1e-8 where it was iterative.

    """

    score: float
    captured: float
    null: float
    lift: float
    captured_null: float
    chance: float
    k: int
    rank: int
    curve: Tensor
    captured_curve: Tensor
    null_curve: Tensor
    captured_null_curve: Tensor
    probe_mse: float
    probe_r2: float
    excess_loss: float
    excess_loss_bounds: tuple[float, float]
    num_samples: int
    samples_per_dim: float
    subspace_error: float = 0.0


def next_token_perception_score(
    hidden_states: Tensor,
    labels: Tensor,
    attention_mask: Tensor | None = None,
    *,
    num_classes: int | None = None,
    k: int | float | None = None,
    ridge: float = 0.1,
    center: bool = True,
    orthonormal: bool = False,
    pooling: Pooling = "mean",
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
        k: number of autoregressive directions: a count in [1, d], or a fraction of d in (0, 1]. By default the number
            of classes or 1% of d, whichever is more.
        ridge: added to the perception covariance B, relative to tr(B)/d.
        center: measure hidden states and targets from their means.
        orthonormal: compare the subspaces alone, replacing U by an orthonormal basis of its span: the mean squared
            cosine of the principal angles. The paper's U weighs directions of low variance more.
        pooling: ``"mean"`` of the valid tokens, or the ``"last"`` one.

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
    check_options(k=k, ridge=ridge, pooling=pooling)
    moments = batch_moments(hidden_states, labels, attention_mask, num_classes=num_classes, pooling=pooling)
    details = score_details(moments, k=k, ridge=ridge, center=center, orthonormal=orthonormal)
    warning = few_samples_warning(details)
    if warning:
        warnings.warn(warning, stacklevel=2)
    return torch.tensor(details.score, dtype=torch.float64, device=hidden_states.device)


def score_details(
    moments: Moments,
    *,
    k: int | float | None = None,
    ridge: float = 0.1,
    center: bool = True,
    orthonormal: bool = False,
    whole_curve: bool = True,
) -> NTPSDetails:
    """The score and its details from accumulated moments; for the options see :func:`next_token_perception_score`.

    Args:
        moments: sums over samples.
        k: see there, as the next three.
        ridge: see there.
        center: see there.
        orthonormal: see there.
        whole_curve: curves over every k; else up to ``k`` alone, which is many times faster where d is large.

    Raises:
        ValueError: If there is no sample, a single class or a constant target, no sample with two tokens, nothing in
            the hidden states that varies with the labels, or an option is out of range.

    """
    d, num_outputs = moments.pooled_target.shape
    check_options(k=k, ridge=ridge, hidden_size=d)
    _check_moments(moments)
    cov = covariances(moments, center=center)
    penalty = float(ridge * cov.perception.trace() / d)
    matrix = cov.perception.clone()
    matrix.diagonal().add_(penalty)
    whitener = whitening(matrix)
    perception = perception_subspace(cov.cross, whitener)
    if len(perception.eigenvalues) == 0:
        raise ValueError("the pooled hidden states do not vary with the labels at all: is the right layer captured?")
    k = resolve_k(k, d, num_outputs)
    autoregressive = autoregressive_subspace(
        cov.prefix, cov.prefix_next, count=None if whole_curve else k, noise=cov.rounding
    )
    rank = len(perception.eigenvalues)
    k = _usable_k(k, autoregressive, d)
    basis = nested_basis(autoregressive.directions)
    whitened_basis = nested_basis(whitener.coordinates(autoregressive.directions))
    columns = nested_basis(perception.directions) if orthonormal else perception.directions
    shuffled = shuffled_labels(cov, whitener, penalty)
    curves = {
        "curve": overlap_curve(basis, columns),
        "captured_curve": captured_curve(whitened_basis, whitener.whiten(cov.cross)),
        "null_curve": (orthonormal_null_curve if orthonormal else null_curve)(basis, shuffled, rank),
        "captured_null_curve": captured_null_curve(whitened_basis, shuffled),
    }
    curves = {name: curve.clamp(max=1) for name, curve in curves.items()}  # above it is rounding
    score, captured, null, captured_null = (float(curve[min(k, len(curve)) - 1]) for curve in curves.values())
    extremes = extreme_eigenvalues(matrix, whitener, at_least=penalty)
    probe_mse, probe_r2 = probe_mse_r2(cov, whitener, penalty)
    return NTPSDetails(
        score=score,
        captured=captured,
        null=null,
        lift=(score - null) / (1 - null) if null < 1 - 1e-9 else 0.0,
        captured_null=captured_null,
        chance=k / d,
        k=k,
        rank=rank,
        **{name: curve.cpu() for name, curve in curves.items()},
        probe_mse=float(probe_mse),
        probe_r2=float(probe_r2),
        excess_loss=float(perception.eigenvalues.sum()) * (1 - captured),
        excess_loss_bounds=excess_loss_bounds(basis[:, :k], perception, extremes),
        num_samples=cov.num_samples,
        samples_per_dim=cov.num_samples / d,
        subspace_error=autoregressive.error,
    )


def check_options(
    *,
    k: int | float | None,
    ridge: float,
    pooling: str = "mean",
    precision: str = "highest",
    hidden_size: int | None = None,
) -> None:
    """Refuse options that no data could make right.

    Raises:
        ValueError: If ``k`` is neither ``None`` nor a count in [1, d] nor a fraction in (0, 1], ``ridge`` is negative
            or not finite, or ``pooling`` or ``precision`` is unknown.

    """
    count = isinstance(k, int) and not isinstance(k, bool) and k >= 1 and (hidden_size is None or k <= hidden_size)
    fraction = isinstance(k, float) and 0 < k <= 1
    if not (k is None or count or fraction):
        d = "the hidden size d" if hidden_size is None else f"d = {hidden_size}"
        raise ValueError(f"k must be a count in [1, {d}] (int) or a fraction of d in (0, 1] (float), got {k!r}")
    if not 0 <= ridge < math.inf:
        raise ValueError(f"ridge must be a finite number >= 0, relative to tr(B)/d, got {ridge!r}")
    if pooling not in ("mean", "last"):
        raise ValueError(f'pooling must be "mean" or "last", got {pooling!r}')
    if precision not in ("highest", "high"):
        raise ValueError(f'precision must be "highest" (float32) or "high" (TensorFloat32), got {precision!r}')


def resolve_k(k: int | float | None, hidden_size: int, num_outputs: int) -> int:
    """The count that ``k`` stands for: by default max(C, 1% of d)."""
    if k is None:
        return min(hidden_size, max(num_outputs, round(0.01 * hidden_size), 1))
    return max(1, round(k * hidden_size)) if isinstance(k, float) else k


def few_samples_warning(details: NTPSDetails) -> str | None:
    """What to tell a user whose n/d is too low for the score to stand alone."""
    if details.samples_per_dim >= _FEW_SAMPLES_PER_DIM:
        return None
    return (
        f"NTPS from {details.num_samples} samples is {details.samples_per_dim:.2g} per hidden dimension; below about"
        f" {_FEW_SAMPLES_PER_DIM} it is biased towards its null. Read it beside `null` and `lift`, and compare only"
        " scores from the same number of samples."
    )


def _check_moments(moments: Moments) -> None:
    n = int(moments.num_samples)
    if n == 0:
        raise ValueError("no samples: call update (or pass hidden states) before asking for the score")
    if moments.position_sums[0] == 0:
        raise ValueError(f"none of the {n} samples has two valid tokens: there is no next token to predict")
    if not moments.prefix_products.sum().isfinite():
        raise ValueError("the sums over prefixes overflowed: the hidden states are too large for float32 products")
    mean = moments.target_sum / n
    total = moments.target_gram.trace() / n
    if total - mean.square().sum() <= 1e-12 * total:
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
