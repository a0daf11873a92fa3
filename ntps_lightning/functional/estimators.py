"""What the same moments say without the autoregressive subspace: a linear probe, and three known estimators."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Covariances, Moments
from ntps_lightning.functional.whitening import Whitening

# Of the fixed point of LogME, as its authors have them: they keep its two precisions finite, and end it.
_LEAST_LOSS = 1e-5
_MOST_STEPS = 11
_SETTLED = 1e-3


def probe_mse_r2(cov: Covariances, whitener: Whitening, ridge: float) -> tuple[Tensor, Tensor]:
    r"""In-sample error (METHOD 13) of the ridge probe :math:`\hat y = S^\top R^{-1} \bar x`, :math:`R = B + \rho I`.

    Args:
        cov: the covariances; centred ones give the probe an intercept.
        whitener: factor of R.
        ridge: the absolute ridge :math:`\rho`.

    Returns:
        Mean squared error in the targets' own units, averaged over samples and outputs as
        :class:`torchmetrics.MeanSquaredError` does; and :math:`R^2`: of classes one minus the ratio of the summed
        squared errors to their total variance, of targets, which count alike, the mean over those that vary.

    """
    whitened = whitener.whiten(cov.cross)
    weights = whitener.unwhiten(whitened)
    errors = cov.target_squares - whitened.square().sum(0) - ridge * weights.square().sum(0)
    return (errors * cov.target_scale.square()).mean(), 1 - errors.sum() / cov.target_variance.sum()


def gcv_r2(cov: Covariances, grid: Sequence[float]) -> float:
    """R² of the ridge probe by generalized cross-validation (METHOD 33; Golub, Heath and Wahba, Technometrics 1979):
    what it would be on other samples, without rows to read.

    Args:
        cov: centred covariances.
        grid: ridges, relative to tr(B)/d, of which the one of least error is taken.

    """
    n = cov.num_samples
    eigenvalues, vectors = torch.linalg.eigh(cov.perception)
    eigenvalues = eigenvalues.clamp(min=0)
    explained = (vectors.T @ cov.cross).square().sum(1)
    variance = cov.target_variance.sum()
    ridges = torch.tensor(list(grid), dtype=eigenvalues.dtype, device=eigenvalues.device)[:, None] * eigenvalues.mean()
    damped = eigenvalues + ridges
    errors = variance - ((eigenvalues + 2 * ridges) / damped.square()) @ explained
    free = 1 - (1 + (eigenvalues / damped).sum(1)) / n
    error = torch.where(free > 0, errors / free.square(), torch.inf).min()
    return float(1 - error / (variance / (1 - 1 / n) ** 2))


def h_score(moments: Moments, cov: Covariances, whitener: Whitening) -> Tensor:
    r"""H-score of classes (METHOD 25; Bao et al., ICIP 2019),
    :math:`\operatorname{tr}(R^{-1} \operatorname{cov}(E[\bar x | y]))`.

    Args:
        moments: sums with one-hot targets.
        cov: their centred covariances.
        whitener: factor of R, the perception covariance with a ridge or without.

    """
    share = moments.target_sum / moments.num_samples
    whitened = whitener.whiten(cov.cross)[:, share > 0]
    return (whitened.square().sum(0) / share[share > 0]).sum()


def rankme(moments: Moments) -> Tensor:
    r"""RankMe (METHOD 25; Garrido et al., ICML 2023) of the pooled states: :math:`\exp(-\sum p_i \log p_i)` with
    :math:`p_i` the singular values of the :math:`(n, d)` matrix over their sum.
    """
    singular = torch.linalg.eigvalsh(moments.pooled_gram).clamp(min=0).sqrt()
    share = singular / singular.sum() + 1e-7
    return torch.exp(-(share * share.log()).sum())


def log_me(moments: Moments) -> Tensor:
    r"""LogME (METHOD 36; You et al., ICML 2021) of the pooled states: the log evidence per sample of a Bayesian linear
    model without intercept, :math:`y \sim N(X w, \beta^{-1} I), w \sim N(0, \alpha^{-1} I)`, where both precisions
    maximise it, by the authors' fixed point; a mean over classes, one-hot, or targets in their own units.
    """
    n = float(moments.num_samples)
    eigenvalues, vectors = torch.linalg.eigh(moments.pooled_gram)
    real = eigenvalues > len(eigenvalues) * torch.finfo(eigenvalues.dtype).eps * eigenvalues[-1]
    eigenvalues = eigenvalues[real]
    explained = (vectors[:, real].T @ moments.pooled_target).square() / eigenvalues[:, None]
    squares = moments.target_gram.diagonal() if moments.target_gram.numel() else moments.target_sum
    outputs = (squares > 0).nonzero()[:, 0].tolist()
    unexplained = (squares - explained.sum(0)).clamp(min=0)
    return torch.stack([_log_evidence(eigenvalues, explained[:, i], unexplained[i], n) for i in outputs]).mean() / n


def _log_evidence(eigenvalues: Tensor, explained: Tensor, unexplained: Tensor, n: float) -> Tensor:
    """Of one output: its squares along the directions of X'X, and what lies along none."""
    alpha, beta = torch.ones_like(unexplained), torch.ones_like(unexplained)
    for _ in range(_MOST_STEPS):
        ratio = alpha / beta
        free = (eigenvalues / (eigenvalues + ratio)).sum()
        weights = (eigenvalues * explained / (eigenvalues + ratio).square()).sum()
        loss = (explained / (1 + eigenvalues / ratio).square()).sum() + unexplained
        alpha = free / (weights + _LEAST_LOSS)
        beta = (n - free) / (loss + _LEAST_LOSS)
        if (alpha / beta - ratio).abs() <= _SETTLED * ratio:
            break
    spread = torch.log1p(beta / alpha * eigenvalues).sum()
    return (n * (beta / (2 * math.pi)).log() - spread - beta * loss - alpha * weights) / 2
