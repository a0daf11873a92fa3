r"""Held-out numbers of several candidates together: the covariance of their errors, and what it leaves open.

Candidates that were read on the same rows share most of their errors. With the centred influences of L groups in the
rows of :math:`A` (what a group does by its own term and by its part in the fits of others) and :math:`F` (the second
alone), the covariance is :math:`(G A A^T + \text{unseen}\, F F^T) / L`, whose diagonal is :attr:`Estimate.se` squared.
Candidates of other rows are independent.

Quantiles of maxima are read from draws of normal errors with that covariance. No correction by the number of
comparisons is made beside: that candidates agree in their errors is in the draws.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ntps_lightning.functional.jackknife import Estimate

# Half of them are the others with the opposite sign.
_DRAWS = 20_000
# A variance of a difference, relative to those of both, below which it is rounding: the same predictions.
_SAME = 1e-12


@dataclass(frozen=True)
class Joint:
    """K numbers with errors that are known together.

    Args:
        values: ``(K,)`` float64.
        covariance: ``(K, K)`` float64 of their errors.

    """

    values: Tensor
    covariance: Tensor

    @classmethod
    def of(cls, estimates: Sequence[Estimate], rows: Sequence[Hashable]) -> Joint:
        """Of estimates, and of each a key of the rows that it was read on: those with one key are paired."""
        values = torch.tensor([each.value for each in estimates], dtype=torch.float64)
        covariance = torch.zeros(len(values), len(values), dtype=torch.float64)
        for key in dict.fromkeys(rows):
            index = torch.tensor([i for i, other in enumerate(rows) if other == key])
            covariance[index[:, None], index] = _paired([estimates[i] for i in index])
        return cls(values, covariance)

    @property
    def difference_se(self) -> Tensor:
        """``(K, K)`` standard errors of the differences of two, zero where both are the same."""
        variances = self.covariance.diag()
        both = variances[:, None] + variances
        found = both - 2 * self.covariance
        return torch.where(found > _SAME * both, found, 0).sqrt()

    def draws(self) -> Tensor:
        """``(D, K)`` errors, the same each time."""
        eigenvalues, vectors = torch.linalg.eigh(self.covariance)
        # The symmetric root: signs of eigenvectors cancel in it, so that any LAPACK gives the same draws.
        root = (vectors * eigenvalues.clamp(min=0).sqrt()) @ vectors.T
        generator = torch.Generator().manual_seed(0)
        half = torch.randn(_DRAWS // 2, len(root), dtype=torch.float64, generator=generator) @ root
        return torch.cat([half, -half])

    def may_be_best(self, level: float = 0.95) -> list[bool]:
        """A set that holds the best one in at least ``level`` of all samples (Gupta 1965; Edwards & Hsu 1983).

        A candidate stays where no other is ahead of it by more than the largest lead, in standard errors, that chance
        would give any other one if all were as good.

        """
        errors, scale = self.draws(), self.difference_se
        found = []
        for i in range(len(self.values)):
            leads = _in_errors(self.values - self.values[i], scale[i])
            by_chance = _in_errors(errors - errors[:, i : i + 1], scale[i]).amax(1)
            found.append(bool(leads.max() <= torch.quantile(by_chance, level)))
        return found

    def ranks(self, level: float = 0.95) -> list[tuple[int, int]]:
        """From which to which rank, 1 the best, each may be: all intervals hold together in at least ``level`` of all
        samples (Mogstad, Romano, Shaikh & Wilhelm 2024).

        Differences of all pairs are significant beyond the largest that chance would give any of them. A candidate's
        rank is at least 1 + the number of those significantly above it, and so on.

        """
        errors, scale = self.draws(), self.difference_se
        largest = torch.zeros(len(errors), dtype=torch.float64)
        for i in range(len(self.values)):
            by_chance = _in_errors(errors - errors[:, i : i + 1], scale[i]).abs().amax(1)
            largest = torch.maximum(largest, by_chance)
        critical = torch.quantile(largest, level)
        leads = _in_errors(self.values - self.values[:, None], scale)
        above, below = (leads > critical).sum(1), (leads < -critical).sum(1)
        return [(1 + a, len(leads) - b) for a, b in zip(above.tolist(), below.tolist(), strict=True)]


def flattery(choice: Joint) -> float:
    """By how much the highest number is too high on average, since it was chosen on the same rows: an estimate.

    Values lie further apart than the truth, by the noise between them, and are drawn to their mean as far as that is
    more than nothing. So it is right within a twentieth where candidates are equal, and up to a fifth too high where
    they differ by about as much as the noise.

    Args:
        choice: the numbers the highest of which is chosen.

    """
    errors = choice.draws()
    chosen = (_shrunken(choice) + errors).argmax(1)
    return float(errors.gather(1, chosen[:, None]).mean())


def _shrunken(joint: Joint) -> Tensor:
    """``(K,)`` values, as far apart as they are beyond the noise between them."""
    count, mean = len(joint.values), joint.values.mean()
    found = joint.values - mean
    if count < 2 or not found.any():
        return joint.values
    noise = (joint.covariance.trace() - joint.covariance.mean() * count) / (count - 1)
    share = (1 - noise / (found.square().sum() / (count - 1))).clamp(min=0)
    return mean + share * found


def _in_errors(differences: Tensor, scale: Tensor) -> Tensor:
    """Divided by their standard errors; zero of two that are the same."""
    return torch.where(scale > 0, differences / scale, 0)


def _paired(estimates: Sequence[Estimate]) -> Tensor:
    """``(K, K)`` covariance of estimates of the same rows."""
    own, fit = (torch.stack([getattr(each, name).double() for each in estimates]) for name in ("own", "fit"))
    own, fit = (part - part.mean(1, keepdim=True) for part in (own, fit))
    kept, unseen = own + fit, estimates[0].unseen
    return (estimates[0].num_groups * kept @ kept.T + unseen * fit @ fit.T) / kept.shape[1]
