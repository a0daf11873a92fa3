"""The two subspaces: what the labels need, and what next-token prediction favours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.krylov import Leading, leading_eigenvectors
from ntps_lightning.functional.whitening import Whitening, whitening

_EPS = torch.finfo(torch.float64).eps


@dataclass(frozen=True)
class Subspace:
    """Leading generalized eigenvectors of a pencil (A Aᵀ, R), largest eigenvalue first.

    Args:
        directions: ``(d, m)`` eigenvectors as columns, orthonormal in the inner product of R.
        eigenvalues: ``(m,)`` in descending order.
        error: estimated sine of the largest angle to the exact subspace, in whitened coordinates.

    """

    directions: Tensor
    eigenvalues: Tensor
    error: float = 0.0


def perception_subspace(cross_covariance: Tensor, whitener: Whitening) -> Subspace:
    """Leading generalized eigenvectors U of (S Sᵀ, R), no more than the rank r of S (METHOD 6).

    Args:
        cross_covariance: ``(d, C)`` S.
        whitener: factor of R, the perception covariance with its ridge.

    """
    left, singular, _ = torch.linalg.svd(whitener.whiten(cross_covariance), full_matrices=False)
    rank = int((singular > 10 * max(cross_covariance.shape) * _EPS * singular[:1]).sum())
    return Subspace(whitener.unwhiten(left[:, :rank]), singular[:rank].square())


def autoregressive_subspace(
    prefix_gram: Tensor, prefix_next: Tensor, *, count: int | None = None, noise: float = 0.0
) -> Subspace:
    """Leading generalized eigenvectors V of (C1 C1ᵀ, C0) on the range of C0 (METHOD 7).

    A few are found by block Krylov iteration, to an angle of 1e-6, and where that does not converge as all are.

    Args:
        prefix_gram: ``(d, d)`` C0, the covariance of prefix sums, up to a factor.
        prefix_next: ``(d, d)`` C1, from prefix sums to the next token, up to the same factor.
        count: number of eigenvectors; by default all.
        noise: see :func:`whitening`.

    """
    whitener = whitening(prefix_gram, noise)
    operator = whitener.whiten(prefix_next)
    if count is not None:
        found = leading_eigenvectors(lambda x: operator @ (operator.T @ x), operator, count, _well_separated)
        if found is not None:
            return Subspace(whitener.unwhiten(found.vectors), found.eigenvalues.clamp(min=0), found.error)
    eigenvalues, vectors = torch.linalg.eigh(operator @ operator.T)
    return Subspace(whitener.unwhiten(vectors.flip(1)), eigenvalues.flip(0).clamp(min=0))


def _well_separated(found: Leading) -> bool:
    return found.error <= 1e-6


def extreme_eigenvalues(matrix: Tensor, whitener: Whitening, at_least: float | None = None) -> tuple[float, float]:
    """Smallest and largest eigenvalue of R ``(d, d)``.

    Args:
        matrix: R.
        whitener: its factor.
        at_least: a positive lower bound on all of them. Given one, it is returned for the smallest, and for the largest
            a bound that is at most a thousandth too high, without a decomposition.

    """
    if at_least:
        found = leading_eigenvectors(lambda x: matrix @ x, matrix, 1, _well_known)
        if found is not None:
            return at_least, float(found.eigenvalues[0]) + found.residual
    spectrum = torch.linalg.eigvalsh(matrix)
    return float(spectrum[0]) if whitener.rank == len(matrix) else 0.0, float(spectrum[-1])


def _well_known(found: Leading) -> bool:
    return found.residual <= 1e-3 * float(found.eigenvalues[0])
