"""Factors of covariances: coordinates in which their inner product is the Euclidean one."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

_EPS = torch.finfo(torch.float64).eps
# An eigenvalue below so many machine epsilons of the products, of a matrix with unit diagonal, may be rounding alone.
_ROUNDINGS = 10


@dataclass(frozen=True)
class Whitening:
    r"""A factor of a positive semi-definite matrix R (METHOD 6): with :math:`F = Q D L`, :math:`R = F F^\top`.

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
    to its largest eigenvalue with tolerance d times the machine epsilon, and above what rounding may have added
    (METHOD 23).

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
