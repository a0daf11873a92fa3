r"""Whether a score stands out of its null: how often meaningless labels would score as much (METHOD 35).

Under shuffled labels the cross-covariance S is noise of covariance :math:`\Sigma_y \otimes B / n`, all else stays:
scores of draws of that noise are scores of such labels, for :math:`d^2 C` operations each.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Covariances
from ntps_lightning.functional.whitening import Whitening

# So that a score above all of them has p = .005.
_DRAWS = 199
# Columns that are drawn at once, and the most outputs whose draws are worth their time.
_COLUMNS = 512
_MOST_OUTPUTS = 100
# What is added to B, relative to its mean eigenvalue, so that it has a factor where samples are few.
_JITTER = 1e-9


def score_p_value(
    score: float,
    cov: Covariances,
    shares: Tensor | None,
    whitener: Whitening,
    basis: Tensor,
    *,
    orthonormal: bool = False,
) -> float | None:
    """Share of draws from the null that score as much, the score itself counted among them.

    Args:
        score: what was found.
        cov: centred covariances.
        shares: ``(C,)`` of the classes; ``None`` for targets that are no classes.
        whitener: factor of R, the perception covariance with its ridge.
        basis: ``(d, k)`` orthonormal basis of the autoregressive directions.
        orthonormal: see :class:`~ntps_lightning.ScoreOptions`.

    Returns:
        A multiple of .005 in [.005, 1], the same whenever it is asked for; ``None`` where targets are more than 100.

    """
    drawn = null_scores(cov, shares, whitener, basis, orthonormal=orthonormal)
    return None if drawn is None else float(1 + (drawn >= score).sum()) / (1 + len(drawn))


def null_scores(
    cov: Covariances, shares: Tensor | None, whitener: Whitening, basis: Tensor, *, orthonormal: bool = False
) -> Tensor | None:
    """``(199,)`` scores of noise; for the arguments see :func:`score_p_value`."""
    d, outputs = cov.cross.shape
    if outputs > _MOST_OUTPUTS:
        return None
    generator = torch.Generator().manual_seed(0)
    factor, mixing = _factor(cov.perception), _target_root(cov, shares)
    found = []
    for draws in torch.split(torch.arange(_DRAWS), max(1, _COLUMNS // outputs)):
        noise = torch.randn(d, len(draws), len(mixing), generator=generator, dtype=torch.float64)
        cross = (noise.to(basis.device) @ mixing).flatten(1)
        found.append(_scores(whitener.whiten(factor @ cross), whitener, basis, outputs, orthonormal))
    return torch.cat(found)


def _scores(whitened: Tensor, whitener: Whitening, basis: Tensor, outputs: int, orthonormal: bool) -> Tensor:
    """Of ``(m, N C)`` whitened cross-covariances side by side, ``(N,)``: U without a singular value decomposition."""
    columns = whitener.unwhiten(whitened)
    gram, energy, inside = (_grams(each, outputs) for each in (whitened, columns, basis.T @ columns))
    eigenvalues, vectors = torch.linalg.eigh(gram)
    rank = int((eigenvalues[0] > 1e-10 * eigenvalues[0, -1]).sum())
    used = min(rank, basis.shape[1])
    vectors = vectors[:, :, -used:] / eigenvalues[:, None, -used:].sqrt()
    energy, inside = (vectors.mT @ each @ vectors for each in (energy, inside))
    if orthonormal:
        return _traces(torch.linalg.solve(energy, inside)) / used
    return _traces(inside) / _traces(energy)


def _traces(matrices: Tensor) -> Tensor:
    traces: Tensor = matrices.diagonal(dim1=1, dim2=2).sum(1)
    return traces


def _grams(columns: Tensor, outputs: int) -> Tensor:
    """``(N, C, C)`` of ``(m, N C)``."""
    parts = columns.view(len(columns), -1, outputs).transpose(0, 1)
    gram: Tensor = parts.mT @ parts
    return gram


def _factor(perception: Tensor) -> Tensor:
    jittered = perception.clone()
    jittered.diagonal().add_(_JITTER * perception.trace() / len(perception))
    lower, info = torch.linalg.cholesky_ex(jittered)
    factor: Tensor = lower
    if not int(info):
        return factor
    eigenvalues, vectors = torch.linalg.eigh(perception)
    root: Tensor = vectors * eigenvalues.clamp(min=0).sqrt()
    return root


def _target_root(cov: Covariances, shares: Tensor | None) -> Tensor:
    """``(C, C)`` whose Gram matrix is the covariance of the targets."""
    covariance = torch.diag(shares) - torch.outer(shares, shares) if shares is not None else cov.target_gram
    assert covariance is not None
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    root: Tensor = (vectors * eigenvalues.clamp(min=0).sqrt()).T
    return root
