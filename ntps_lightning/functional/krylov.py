"""A few leading eigenvectors of a large symmetric matrix, with an estimate of their error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_OVERSAMPLING = 8
# Blocks that are kept before a restart, products between looks at the error, and products before giving up.
_MAX_BLOCKS = 16
_CHECK_EVERY = 4
_MAX_PRODUCTS = 48


@dataclass(frozen=True)
class Leading:
    """Ritz pairs, largest first.

    Args:
        eigenvalues: ``(count,)``.
        vectors: ``(m, count)`` orthonormal columns.
        residual: norm of A V - V diag(eigenvalues): an eigenvalue of A is as near to each Ritz value.
        error: estimated sine of the largest angle between the span of ``vectors`` and the leading invariant one:
            the residual over the gap to the next Ritz value (METHOD 24; Davis & Kahan, SIAM J. Numer. Anal. 7, 1970).

    """

    eigenvalues: Tensor
    vectors: Tensor
    residual: float
    error: float


def leading_eigenvectors(
    product: Callable[[Tensor], Tensor], like: Tensor, count: int, converged: Callable[[Leading], bool]
) -> Leading | None:
    """Block Krylov iteration with Rayleigh-Ritz and thick restarts (Musco & Musco, NeurIPS 2015; Wu & Simon, SIAM J.
    Matrix Anal. Appl. 22, 2000).

    Args:
        product: A X for ``(m, b)`` X, of a symmetric positive semi-definite A.
        like: any tensor of m rows, of the dtype and device to work in.
        count: number of eigenvectors.
        converged: whether what was found is good enough.

    Returns:
        The leading pairs, or ``None`` where they did not converge; the start is random, but always the same.

    """
    size, width = len(like), count + _OVERSAMPLING
    if 2 * width > size:
        return None
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(size, width, generator=generator, dtype=torch.float64).to(like)
    block = torch.linalg.qr(product(start)).Q
    basis, images = like.new_empty(size, 0), like.new_empty(size, 0)
    for products in range(1, _MAX_PRODUCTS + 1):
        image = product(block)
        basis, images = torch.cat([basis, block], 1), torch.cat([images, image], 1)
        full = basis.shape[1] + width > min(_MAX_BLOCKS * width, size)
        if full or products % _CHECK_EVERY == 0:
            projected = basis.T @ images
            values, vectors = torch.linalg.eigh((projected + projected.T) / 2)
            values, vectors = values.flip(0), vectors.flip(1)
            found = _ritz(basis, images, values, vectors, count)
            if converged(found):
                return found
            if full:
                kept = vectors[:, : 2 * width]
                basis, images = basis @ kept, images @ kept
        block = _orthonormal_to(basis, image)
    return None


def _ritz(basis: Tensor, images: Tensor, values: Tensor, vectors: Tensor, count: int) -> Leading:
    leading = basis @ vectors[:, :count]
    residual = float((images @ vectors[:, :count] - leading * values[:count]).norm())
    gap = float(values[count - 1] - values[count])
    return Leading(values[:count], leading, residual, residual / gap if gap > residual else 1.0)


def _orthonormal_to(basis: Tensor, block: Tensor) -> Tensor:
    for _ in range(2):  # twice is enough
        block = torch.linalg.qr(block - basis @ (basis.T @ block)).Q
    return block
