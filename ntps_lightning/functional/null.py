r"""What meaningless labels would score, in closed form.

Shuffling the labels leaves every moment as it is but the cross-covariance S, of which only noise remains (METHOD 14):

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
from ntps_lightning.functional.whitening import Whitening


@dataclass(frozen=True)
class ShuffledLabels:
    r"""What is known of a perception subspace whose labels were shuffled, in whitened coordinates (METHOD 15).

    There the second moment of a direction that is not the mean is :math:`N = I - \rho G - \mu \mu^\top`, up to a
    factor, with :math:`G = F^+ F^{+\top}` and :math:`R = F F^\top`; nothing of that size is stored.

    Args:
        whitener: factor of R = B + ridge.
        ridge: the absolute ridge :math:`\rho`.
        mean: ``(m, 1)`` the mean :math:`\mu`, the one direction that shuffling keeps; zero when centred.
        weight: the share of one perception direction that points there, in [0, 1]; zero when centred.
        gram_norms: trace and squared Frobenius norm of G.
        noise_variance: of the labels, per sample.
        target_mean_energy: squared norm of the mean target.

    """

    whitener: Whitening
    ridge: float
    mean: Tensor
    weight: float
    gram_norms: tuple[Tensor, Tensor]
    noise_variance: Tensor
    target_mean_energy: Tensor

    @property
    def noise_trace(self) -> Tensor:
        """tr N."""
        return self.whitener.rank - self.ridge * self.gram_norms[0] - self.mean.square().sum()

    @property
    def explained(self) -> Tensor:
        """Expected squared norm of the whitened cross-covariance."""
        return self.noise_variance * self.noise_trace + self.target_mean_energy * self.mean.square().sum()

    def noise(self, directions: Tensor) -> Tensor:
        r"""Diagonal of :math:`Y^\top N Y` for Y ``(m, j)``."""
        ridge = self.ridge * self.whitener.unwhiten(directions).square().sum(0)
        return directions.square().sum(0) - ridge - (self.mean.T @ directions).square()[0]


def shuffled_labels(cov: Covariances, whitener: Whitening, ridge: float) -> ShuffledLabels:
    """Expected perception directions under shuffled labels.

    Args:
        cov: the covariances that the score is computed from.
        whitener: factor of B + ridge.
        ridge: the absolute ridge, as added to the diagonal of B.

    """
    mean, norms = whitener.whiten(cov.mean[:, None]), whitener.inverse_norms()
    noise_trace = whitener.rank - ridge * norms[0] - mean.square().sum()
    return ShuffledLabels(
        whitener=whitener,
        ridge=ridge,
        mean=mean,
        weight=_mean_weight(cov, mean, noise_trace),
        gram_norms=norms,
        noise_variance=cov.target_variance.sum() / max(cov.num_samples - 1, 1),
        target_mean_energy=cov.target_mean.square().sum(),
    )


def null_curve(basis: Tensor, shuffled: ShuffledLabels, rank: int) -> Tensor:
    r"""Expected overlap of the paper's U: :math:`\operatorname{tr}(P_k M) / \operatorname{tr} M` with
    :math:`M = R^{-1} B_c R^{-1}` when centred, a ratio of expectations (METHOD 17, 18).

    Args:
        basis: ``(d, j)`` nested basis of the autoregressive directions.
        shuffled: see :func:`shuffled_labels`.
        rank: number of perception directions r.

    """
    whitener, ridge, weight = shuffled.whitener, shuffled.ridge, shuffled.weight
    unit_mean = normalize(shuffled.mean, dim=0)
    mean_direction = whitener.unwhiten(unit_mean)
    mean_energy = mean_direction.square().sum()
    gram_mean = whitener.whiten(mean_direction)
    gram_trace, gram_square = shuffled.gram_norms
    noise_trace = whitener.rank - unit_mean.square().sum() - ridge * (gram_trace - mean_energy)
    projected_square = gram_square - 2 * gram_mean.square().sum() + mean_energy.square()
    noise_energy = gram_trace - mean_energy - ridge * projected_square
    directions = whitener.whiten(basis)
    noise_in_basis = shuffled.noise(directions - unit_mean @ (unit_mean.T @ directions)).cumsum(0)
    mean_in_basis = (mean_direction.T @ basis).square()[0].cumsum(0)
    noise_weight = (columns_used(basis, rank).double() - weight) / noise_trace
    overlap = weight * mean_in_basis + noise_weight * noise_in_basis
    return overlap / (weight * mean_energy + noise_weight * noise_energy)


def orthonormal_null_curve(basis: Tensor, shuffled: ShuffledLabels, rank: int) -> Tensor:
    """Expected overlap of an orthonormal basis of U (METHOD 20); for the arguments see :func:`null_curve`.

    The span of r Gaussian directions has the expected projector of :func:`_expected_loadings`, an equivalent for many
    dimensions: where few eigenvalues dominate it is rougher (the tests hold it to .07 at d = 24 without a ridge).

    """
    identity = torch.eye(len(basis), dtype=basis.dtype, device=basis.device)
    inverse = shuffled.whitener.unwhiten(shuffled.whitener.whiten(identity))
    mean = shuffled.whitener.unwhiten(shuffled.mean)
    unit_mean = normalize(mean, dim=0)
    noise = inverse - shuffled.ridge * inverse @ inverse - mean @ mean.T
    noise = noise - unit_mean @ (unit_mean.T @ noise)
    noise = noise - (noise @ unit_mean) @ unit_mean.T
    eigenvalues, vectors = torch.linalg.eigh(noise)
    energy = (vectors.T @ basis).square().cumsum(1)
    kept, used = round(shuffled.weight), columns_used(basis, rank)
    overlap = kept * (unit_mean.T @ basis).square()[0].cumsum(0)
    for count in range(1, rank + 1):
        overlap = torch.where(used == count, overlap + _expected_loadings(eigenvalues, count - kept) @ energy, overlap)
    return overlap / used


def captured_null_curve(basis: Tensor, shuffled: ShuffledLabels) -> Tensor:
    """Expected captured share (METHOD 16); ``basis`` is the ``(m, j)`` nested basis in whitened coordinates."""
    noise = shuffled.noise_variance * shuffled.noise(basis)
    signal = shuffled.target_mean_energy * (shuffled.mean.T @ basis).square()[0]
    return (noise + signal).cumsum(0) / shuffled.explained


def _mean_weight(cov: Covariances, mean: Tensor, noise_trace: Tensor) -> float:
    """Signal to signal plus noise of the mean's direction (METHOD 19).

    One-hot labels always sum to one, a direction without noise: there the weight is 1.

    """
    if not cov.target_mean.any():
        return 0.0
    if cov.target_gram is None:
        return 1.0
    eigenvalues, vectors = torch.linalg.eigh(cov.target_gram - torch.outer(cov.target_mean, cov.target_mean))
    loadings = (vectors.T @ cov.target_mean).square()
    quiet = eigenvalues <= 1e-12 * eigenvalues[-1]
    if loadings[quiet].sum() > 1e-12 * loadings.sum():
        return 1.0
    signal = (cov.num_samples - 1) * mean.square().sum() * (loadings / eigenvalues)[~quiet].sum() / noise_trace
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
