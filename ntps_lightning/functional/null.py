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
from ntps_lightning.functional.overlap import columns_used
from ntps_lightning.functional.subspaces import Whitening


@dataclass(frozen=True)
class ShuffledLabels:
    """What is known of a perception subspace whose labels were shuffled, in whitened coordinates.

    Args:
        mean: ``(m, 1)`` the mean, the one direction that shuffling keeps; zero when centred.
        weight: the share of one perception direction that points there, in [0, 1]; zero when centred.
        noise: ``(m, m)`` covariance of every other direction, up to a factor.
        explained: ``(m, m)`` expected second moment of the whitened cross-covariance.
        unwhitener: ``(d, m)`` from whitened coordinates to directions.

    """

    mean: Tensor
    weight: float
    noise: Tensor
    explained: Tensor
    unwhitener: Tensor


def shuffled_labels(cov: Covariances, whitener: Whitening, ridge: float) -> ShuffledLabels:
    """Expected perception directions under shuffled labels.

    Args:
        cov: the covariances that the score is computed from.
        whitener: factor of B + ridge.
        ridge: the absolute ridge, as added to the diagonal of B.

    """
    identity = torch.eye(whitener.rank, dtype=torch.float64, device=cov.mean.device)
    unwhitener = whitener.unwhiten(identity)
    mean = whitener.whiten(cov.mean[:, None])
    noise = identity - ridge * unwhitener.T @ unwhitener - mean @ mean.T
    target_noise = cov.target_gram - torch.outer(cov.target_mean, cov.target_mean)
    explained = noise * target_noise.trace() / max(cov.num_samples - 1, 1)
    explained = explained + mean @ mean.T * cov.target_mean.square().sum()
    return ShuffledLabels(mean, _mean_weight(cov, mean, noise, target_noise), noise, explained, unwhitener)


def null_curve(basis: Tensor, shuffled: ShuffledLabels, rank: int) -> Tensor:
    r"""Expected overlap of the paper's U: :math:`\operatorname{tr}(P_k M) / \operatorname{tr} M` with
    :math:`M = R^{-1} B_c R^{-1}` when centred, a ratio of expectations.

    Args:
        basis: ``(d, m)`` nested basis of the autoregressive directions.
        shuffled: see :func:`shuffled_labels`.
        rank: number of perception directions r.

    """
    along, noise = _deflate(shuffled.mean, shuffled.noise)
    along = shuffled.unwhitener @ along
    noise = shuffled.unwhitener @ noise @ shuffled.unwhitener.T / noise.trace()
    kept, others = shuffled.weight, columns_used(basis, rank).double() - shuffled.weight
    overlap = kept * _energy(basis, along @ along.T) + others * _energy(basis, noise)
    return overlap / (kept * along.square().sum() + others * noise.trace())


def orthonormal_null_curve(basis: Tensor, shuffled: ShuffledLabels, rank: int) -> Tensor:
    """Expected overlap of an orthonormal basis of U; for the arguments see :func:`null_curve`.

    The span of r Gaussian directions has the expected projector of :func:`_expected_loadings`, an equivalent for many
    dimensions: where few eigenvalues dominate it is rougher (the tests hold it to .07 at d = 24 without a ridge).

    """
    along, noise = _deflate(
        shuffled.unwhitener @ shuffled.mean, shuffled.unwhitener @ shuffled.noise @ shuffled.unwhitener.T
    )
    eigenvalues, vectors = torch.linalg.eigh(noise)
    energy = (vectors.T @ basis).square().cumsum(1)
    kept, used = round(shuffled.weight), columns_used(basis, rank)
    overlap = kept * _energy(basis, along @ along.T)
    for count in range(1, rank + 1):
        overlap = torch.where(used == count, overlap + _expected_loadings(eigenvalues, count - kept) @ energy, overlap)
    return overlap / used


def captured_null_curve(basis: Tensor, shuffled: ShuffledLabels) -> Tensor:
    """Expected captured share; ``basis`` is the ``(m, m)`` nested basis in whitened coordinates."""
    return _energy(basis, shuffled.explained) / shuffled.explained.trace()


def _energy(basis: Tensor, covariance: Tensor) -> Tensor:
    """tr(P_k M) at every k."""
    return (basis * (covariance @ basis)).sum(0).cumsum(0)


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


def _expected_loadings(eigenvalues: Tensor, rank: int) -> Tensor:
    r"""Diagonal of the expected projector on ``rank`` Gaussian columns, in the eigenbasis of their covariance M.

    The deterministic equivalent :math:`M (M + \delta I)^{-1}` with :math:`\delta` such that its trace is ``rank``
    (Silverstein & Bai, J. Multivariate Anal. 54, 1995).

    """
    eigenvalues = eigenvalues.clamp(min=0)
    low, high = 0.0, float(eigenvalues.sum()) / max(rank, 1)
    for _ in range(200):
        delta = (low + high) / 2
        trace = float((eigenvalues / (eigenvalues + delta)).sum())
        low, high = (delta, high) if trace > rank else (low, delta)
    return eigenvalues / (eigenvalues + high) if rank > 0 else torch.zeros_like(eigenvalues)
