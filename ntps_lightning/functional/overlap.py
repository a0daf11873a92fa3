"""How much of the perception subspace the leading k autoregressive directions hold, for every k at once."""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.functional.subspaces import Subspace


def nested_basis(directions: Tensor) -> Tensor:
    """Orthonormal ``(d, m)`` columns whose first k span the first k of ``directions``, for every k (METHOD 8)."""
    basis: Tensor = torch.linalg.qr(directions).Q
    return basis


def overlap_curve(basis: Tensor, columns: Tensor) -> Tensor:
    r""":math:`\|P_k U_j\|_F^2 / \|U_j\|_F^2` at k = 1..m, with :math:`U_j` the first j = min(k, r) columns (METHOD 8).

    Args:
        basis: ``(d, m)`` nested basis of the autoregressive directions.
        columns: ``(d, r)`` perception directions, leading first.

    """
    used = columns_used(basis, columns.shape[1])
    energy = (basis.T @ columns).square().cumsum(0).cumsum(1)
    return energy.gather(1, used[:, None] - 1)[:, 0] / columns.square().sum(0).cumsum(0)[used - 1]


def captured_curve(basis: Tensor, whitened_cross: Tensor) -> Tensor:
    r"""Share of :math:`\operatorname{tr}(S^\top R^{-1} S)` that the leading k directions hold, at k = 1..m (METHOD 10).

    In whitened coordinates the inner product of R is Euclidean, so that
    :math:`\operatorname{tr}((V^\top R V)^{-1} V^\top S S^\top V)` is the energy of whitened S in a nested basis.

    Args:
        basis: ``(m, m)`` nested basis of the autoregressive directions in whitened coordinates.
        whitened_cross: ``(m, C)`` S in whitened coordinates.

    """
    return (basis.T @ whitened_cross).square().sum(1).cumsum(0) / whitened_cross.square().sum()


def excess_loss_bounds(basis: Tensor, perception: Subspace, extremes: tuple[float, float]) -> tuple[float, float]:
    r"""The bounds of arXiv 2505.17169 on the loss that the span of ``basis`` costs the best linear readout (METHOD 12).

    .. math:: \lambda_{\min}(R) \lambda_r \|U\|^2 (1 - \text{NTPS}) \le \text{excess} \le
        \lambda_{\max}(R) \lambda_1 \|U\|^2 (1 - \text{NTPS})

    Args:
        basis: ``(d, k)`` orthonormal.
        perception: all r perception directions and their eigenvalues.
        extremes: smallest and largest eigenvalue of R, or bounds on them from outside.

    """
    missed = perception.directions - basis @ (basis.T @ perception.directions)
    smallest, largest = extremes
    missed_energy = float(missed.square().sum())
    lower = smallest * float(perception.eigenvalues[-1]) * missed_energy
    return lower, largest * float(perception.eigenvalues[0]) * missed_energy


def columns_used(basis: Tensor, rank: int) -> Tensor:
    """``(m,)`` number of perception directions that are compared at k = 1..m: min(k, r)."""
    return torch.arange(1, basis.shape[1] + 1, device=basis.device).clamp(max=rank)
