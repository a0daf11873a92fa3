"""What the same moments say without the autoregressive subspace: a linear probe, and two known estimators."""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Covariances, Moments
from ntps_lightning.functional.whitening import Whitening


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
