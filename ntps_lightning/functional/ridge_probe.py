r"""Ridge probes with an intercept, fitted on all samples by their sums and read on kept rows without those (METHOD 26).

With :math:`R = B + \lambda I` of n centred samples, :math:`r_i` the residual of row i and
:math:`h_{ij} = 1/n + (\bar x_i - \bar x)^\top R^{-1} (\bar x_j - \bar x) / n`, the residuals of the rows of a group g
in the fit without them are :math:`(I - H_{gg} W_g)^{-1} r_g`, exactly, for a fixed total penalty :math:`n \lambda`; W
are the multiplicities of the rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.kept import Blocks, KeptRows


@dataclass(frozen=True)
class Fit:
    """A probe, as far as the kept rows see it.

    Args:
        num_samples: n, that it was fitted on.
        residuals: ``(m, C)`` of the kept rows, which were among them.
        features: ``(m, p)`` such that ``features @ features.T + 1 / n`` is the hat matrix H of the kept rows.

    """

    num_samples: int
    residuals: Tensor
    features: Tensor

    def hat(self, left: Tensor, right: Tensor) -> Tensor:
        """H between rows of features, ``(..., a, p)`` and ``(..., b, p)``."""
        return left @ right.transpose(-1, -2) + 1 / self.num_samples

    def leverage(self) -> Tensor:
        """``(m,)`` the diagonal of H."""
        return self.features.square().sum(1) + 1 / self.num_samples

    def without_own(self, blocks: Blocks, weights: Tensor) -> Tensor:
        """``(m, C)`` residuals in the fit without the row's own group."""
        if blocks.single:
            return self.residuals / (1 - weights * self.leverage())[:, None]
        found = torch.zeros_like(self.residuals)
        for part in blocks.by_size():
            solved = torch.linalg.solve(left_out(self, part, weights), part.gather(self.residuals))
            found[part.index[part.valid]] = solved[part.valid]
        return found


def left_out(fit: Fit, blocks: Blocks, weights: Tensor) -> Tensor:
    """``(G, s, s)`` I - H W of the rows of each group, the identity where there is none."""
    features = blocks.gather(fit.features)
    both = blocks.valid[:, :, None] & blocks.valid[:, None]
    hat = fit.hat(features, features) * both
    identity = torch.eye(hat.shape[-1], dtype=hat.dtype, device=hat.device)
    return identity - hat * blocks.gather(weights)[:, None]


@dataclass(frozen=True)
class RidgeProbe:
    """Probes of every ridge on some features, by the eigenbasis of the features' covariance.

    Args:
        num_samples: n.
        eigenvalues: ``(p,)`` of the covariance of the features over all samples.
        rows: ``(m, p)`` features of the kept rows in the eigenbasis, measured from the mean of all samples.
        cross: ``(p, C)`` covariance of the features with the targets, in the eigenbasis.
        targets: ``(m, C)`` of the kept rows, measured from the mean of all samples.

    """

    num_samples: int
    eigenvalues: Tensor
    rows: Tensor
    cross: Tensor
    targets: Tensor

    def at(self, ridge: float) -> Fit:
        """The probe with a ridge relative to the mean eigenvalue."""
        features = self.rows / (self.damped(ridge) * self.num_samples).sqrt()
        return Fit(self.num_samples, self.residuals(ridge), features)

    def residuals(self, ridge: float) -> Tensor:
        """``(m, C)`` of the kept rows."""
        return self.targets - self.rows @ (self.cross / self.damped(ridge)[:, None])

    def leverages(self, ridges: list[float]) -> Tensor:
        """``(m, len(ridges))`` diagonals of the hat matrix."""
        inverses = torch.stack([1 / self.damped(ridge) for ridge in ridges], 1)
        return self.rows.square() @ inverses / self.num_samples + 1 / self.num_samples

    def damped(self, ridge: float) -> Tensor:
        """``(p,)`` eigenvalues with a ridge relative to their mean."""
        return self.eigenvalues + ridge * float(self.eigenvalues.mean())


def mean_fit(num_samples: int, targets: Tensor) -> Fit:
    """The probe without features, the mean: what R² compares with."""
    return Fit(num_samples, targets, targets.new_zeros(len(targets), 0))


def left_out_squares(probe: RidgeProbe, weights: Tensor, blocks: Blocks, grid: list[float]) -> Tensor:
    """``(len(grid), m)`` squared errors of rows in the fit without their own group, times their weights."""
    found = []
    leverages = probe.leverages(grid) if blocks.single else None
    for i, ridge in enumerate(grid):
        if leverages is None:
            residuals = probe.at(ridge).without_own(blocks, weights)
        else:
            residuals = probe.residuals(ridge) / (1 - weights * leverages[:, i])[:, None]
        found.append(residuals.square().sum(1) * weights)
    return torch.stack(found)


def cross_fitted_ridges(
    probe: RidgeProbe, rows: KeptRows, blocks: Blocks, grid: list[float]
) -> tuple[tuple[float, float], bool]:
    """Choose a ridge on each half of the kept rows, by the squared errors of rows in the fit without their own group.

    Returns:
        The ridge for the first half, which the second chose, and for the second; and whether one is an end of the grid.

    """
    first = rows.halves[rows.groups]
    errors = left_out_squares(probe, rows.weights, blocks, grid)
    best_first, best_second = (int(errors[:, half].sum(1).argmin()) for half in (first, ~first))
    at_edge = bool({best_first, best_second} & {0, len(grid) - 1})
    return (grid[best_second], grid[best_first]), at_edge
