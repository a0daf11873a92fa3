r"""What meaningless labels would score, in closed form.

Shuffling the labels leaves every moment as it is but the cross-covariance S, of which only noise remains:

.. math:: E[S S^\top] = \frac{\operatorname{tr} \Sigma_y}{n-1} B_c + \|\bar y\|^2 \mu \mu^\top

with :math:`B_c` the centred perception covariance, :math:`\Sigma_y` that of the targets, and :math:`\mu, \bar y` the
means as measured from the origin: with centred moments the second term vanishes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from ntps_lightning.functional.moments import Covariances
from ntps_lightning.functional.subspaces import Whitening


@dataclass(frozen=True)
class ShuffledLabels:
    """Expected second moments of the perception directions of shuffled labels; see :func:`shuffled_labels`.

    Args:
        along_mean: ``(d, d)`` of the direction that shuffling keeps, the mean's; zero when centred.
        weight: the share of one column that points there, in [0, 1]; 0 when centred.
        noise: ``(d, d)`` of every other column.
        whitened: ``(m, m)`` of all columns, weighted by what they explain, in whitened coordinates.

    """

    along_mean: Tensor
    weight: float
    noise: Tensor
    whitened: Tensor


def shuffled_labels(
    cov: Covariances, whitener: Whitening, ridge: float, rank: int, *, orthonormal: bool
) -> ShuffledLabels:
    """Expected directions of a perception subspace whose labels were shuffled.

    Args:
        cov: the covariances that the score is computed from.
        whitener: factor of B + ridge.
        ridge: the absolute ridge, as added to the diagonal of B.
        rank: number of perception directions r.
        orthonormal: whether the directions are made orthonormal before they are compared.

    """
    identity = torch.eye(whitener.rank, dtype=torch.float64, device=cov.mean.device)
    unwhitener = whitener.unwhiten(identity)
    mean = whitener.whiten(cov.mean[:, None])
    noise = identity - ridge * unwhitener.T @ unwhitener - mean @ mean.T
    target_noise = cov.target_gram - torch.outer(cov.target_mean, cov.target_mean)
    whitened = noise * target_noise.trace() / max(cov.num_samples - 1, 1)
    whitened = whitened + mean @ mean.T * cov.target_mean.square().sum()
    weight = _mean_weight(cov, mean, noise, target_noise)
    if orthonormal:
        along, noise = _deflate(unwhitener @ mean, unwhitener @ noise @ unwhitener.T)
        others = max(rank - round(weight), 1)
        noise = _expected_projector(noise, others) / others
    else:
        along, noise = _deflate(mean, noise)
        along, noise = unwhitener @ along, unwhitener @ noise @ unwhitener.T / noise.trace()
    return ShuffledLabels(along @ along.T, weight, noise, whitened)


def _deflate(mean: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """The mean at unit length (zero stays zero) and the noise that is orthogonal to it."""
    mean = normalize(mean, dim=0)
    noise = noise - mean @ (mean.T @ noise)
    return mean, noise - (noise @ mean) @ mean.T


def _mean_weight(cov: Covariances, mean: Tensor, noise: Tensor, target_noise: Tensor) -> float:
    """Signal to signal plus noise of the kept direction, in the label direction where it stands out most.

    One-hot labels always sum to one, a direction without noise: there the weight is 1.

    """
    if not cov.target_mean.any():
        return 0.0
    eigenvalues, vectors = torch.linalg.eigh(target_noise)
    loadings = (vectors.T @ cov.target_mean).square()
    quiet = eigenvalues <= 1e-12 * eigenvalues[-1]
    if loadings[quiet].sum() > 1e-12 * loadings.sum():
        return 1.0
    signal = (cov.num_samples - 1) * mean.square().sum() * (loadings / eigenvalues)[~quiet].sum() / noise.trace()
    return float(signal / (1 + signal))


def _expected_projector(covariance: Tensor, rank: int) -> Tensor:
    r"""Expected projector on the span of ``rank`` Gaussian columns with the given covariance M.

    The deterministic equivalent :math:`M (M + \delta I)^{-1}` with :math:`\delta` such that its trace is ``rank``
    (Silverstein & Bai, J. Multivariate Anal. 54, 1995).

    """
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    eigenvalues = eigenvalues.clamp(min=0)
    low, high = 0.0, float(eigenvalues.sum()) / max(rank, 1)
    for _ in range(200):
        delta = (low + high) / 2
        trace = float((eigenvalues / (eigenvalues + delta)).sum())
        low, high = (delta, high) if trace > rank else (low, delta)
    projector: Tensor = (vectors * (eigenvalues / (eigenvalues + high))) @ vectors.T
    return projector
