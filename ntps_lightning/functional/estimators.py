"""What the same moments say of a linear probe."""

from __future__ import annotations

from torch import Tensor

from ntps_lightning.functional.moments import Covariances
from ntps_lightning.functional.subspaces import Whitening


def probe_mse_r2(cov: Covariances, whitener: Whitening, ridge: float) -> tuple[Tensor, Tensor]:
    r"""In-sample error of the ridge probe :math:`\hat y = S^\top R^{-1} \bar x` with :math:`R = B + \rho I`.

    Args:
        cov: the covariances; centred ones give the probe an intercept.
        whitener: factor of R.
        ridge: the absolute ridge :math:`\rho`.

    Returns:
        Mean squared error, averaged over samples and outputs as :class:`torchmetrics.MeanSquaredError` does, and
        :math:`R^2`, one minus the ratio of the summed squared errors to the targets' total variance.

    """
    whitened = whitener.whiten(cov.cross)
    weights = whitener.unwhiten(whitened)
    error = cov.target_gram.trace() - whitened.square().sum() - ridge * weights.square().sum()
    variance = cov.target_gram.trace() - cov.target_mean.square().sum()
    return error / len(cov.target_mean), 1 - error / variance
