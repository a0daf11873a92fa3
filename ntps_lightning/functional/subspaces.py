"""The two subspaces: what the labels need, and what next-token prediction favours."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.krylov import Leading, leading_eigenvectors

_EPS = torch.finfo(torch.float64).eps
# An eigenvalue below so many machine epsilons of the products, of a matrix with unit diagonal, may be rounding alone.
_ROUNDINGS = 10


@dataclass(frozen=True)
class Whitening:
    r"""A factor of a positive semi-definite matrix R: with :math:`F = Q D L`, :math:`R = F F^\top`.

    Q is an orthonormal basis of the range of R (absent at full rank), D equilibrates, L is lower triangular.

    Args:
        basis: ``(d, m)`` Q, or ``None`` when m = d.
        scale: ``(m,)`` the diagonal of D: square roots of the diagonal of :math:`Q^\top R Q`.
        cholesky: ``(m, m)`` L.

    """

    basis: Tensor | None
    scale: Tensor
    cholesky: Tensor

    @property
    def rank(self) -> int:
        """Numerical rank m of R."""
        return len(self.scale)

    def whiten(self, moment: Tensor) -> Tensor:
        r""":math:`F^{+} S` of shape ``(m, .)`` for a moment S ``(d, .)`` whose columns lie in the range of R."""
        moment = moment if self.basis is None else self.basis.T @ moment
        whitened: Tensor = torch.linalg.solve_triangular(self.cholesky, moment / self.scale[:, None], upper=False)
        return whitened

    def unwhiten(self, directions: Tensor) -> Tensor:
        r""":math:`F^{+\top} Y` of shape ``(d, .)`` for Y ``(m, .)``: orthonormal Y give R-orthonormal directions."""
        solved: Tensor = torch.linalg.solve_triangular(self.cholesky.T, directions, upper=True) / self.scale[:, None]
        return solved if self.basis is None else self.basis @ solved

    def inverse_norms(self) -> tuple[Tensor, Tensor]:
        r"""Trace and squared Frobenius norm of :math:`R^+`."""
        inverse = _equilibrated(torch.cholesky_inverse(self.cholesky), self.scale)
        return inverse.trace(), torch.linalg.vector_norm(inverse).square()

    def coordinates(self, directions: Tensor) -> Tensor:
        r""":math:`F^\top V` of shape ``(m, .)`` for V ``(d, .)``: Euclidean products are then products in R."""
        directions = directions if self.basis is None else self.basis.T @ directions
        return self.cholesky.T @ (self.scale[:, None] * directions)


def whitening(matrix: Tensor, noise: float = 0.0) -> Whitening:
    """Factorise a positive semi-definite ``(d, d)`` float64 matrix on its range.

    The rank is decided on the matrix with unit diagonal, so that one huge coordinate cannot hide the others: relative
    to its largest eigenvalue with tolerance d times the machine epsilon, and above what rounding may have added.

    Args:
        matrix: R.
        noise: machine epsilon of the products that R was summed from, if more than that of float64.

    """
    factor = _cholesky(matrix, noise)
    if factor is not None:
        return Whitening(None, *factor)
    scale = _scale(matrix)
    eigenvalues, vectors = torch.linalg.eigh(_equilibrated(matrix, scale))
    kept = eigenvalues > max(len(matrix) * _EPS * float(eigenvalues[-1]), _ROUNDINGS * noise)
    basis, reduced = torch.linalg.qr(scale[:, None] * vectors[:, kept])
    root = reduced * eigenvalues[kept].sqrt()
    scale = root.norm(dim=1)
    return Whitening(basis, scale, torch.linalg.qr((root / scale[:, None]).T).R.T)


def _scale(matrix: Tensor) -> Tensor:
    diagonal = matrix.diagonal()
    return torch.where(diagonal > 0, diagonal, 1).sqrt()


def _equilibrated(matrix: Tensor, scale: Tensor) -> Tensor:
    return (matrix / scale).div_(scale[:, None])


def _cholesky(matrix: Tensor, noise: float) -> tuple[Tensor, Tensor] | None:
    """Scale and factor of an equilibrated matrix, or ``None`` where its rank is not full, or rounding may hide that."""
    scale = _scale(matrix)
    factor, info = torch.linalg.cholesky_ex(_equilibrated(matrix, scale))
    if info.item() or factor.diagonal().square().min() <= 10 * len(matrix) * _EPS:
        return None
    if noise > _EPS and _smallest_eigenvalue(factor) <= _ROUNDINGS * noise:
        return None
    return scale, factor


def _smallest_eigenvalue(cholesky: Tensor) -> float:
    """Of a factorised matrix, by inverse iteration: from above, and near where it is far below the others."""
    generator = torch.Generator().manual_seed(0)
    block = torch.randn(len(cholesky), 4, generator=generator, dtype=torch.float64).to(cholesky)
    for _ in range(3):
        block = torch.linalg.qr(torch.cholesky_solve(block, cholesky)).Q
    return 1 / float(torch.linalg.svdvals(torch.cholesky_solve(block, cholesky))[0])


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
    """Leading generalized eigenvectors U of (S Sᵀ, R), no more than the rank r of S (arXiv 2505.17169, section 3).

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
    """Leading generalized eigenvectors V of (C1 C1ᵀ, C0) on the range of C0 (arXiv 2505.17169, section 3).

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
