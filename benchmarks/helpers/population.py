"""Pooled states of a population that is known: uneven classes, a decaying spectrum, and texts of several windows."""

from dataclasses import dataclass

import torch
from torch.nn.functional import one_hot

from ntps_lightning.functional.kept import KeptRows
from ntps_lightning.functional.moments import Covariances

# Windows of a text, and how much of what a class leaves open they share.
SIZES = torch.tensor([1, 2, 3, 6])
_SHARED = 0.5


@dataclass(frozen=True)
class Sample:
    """Some samples: ``(n, d)`` states, ``(n, C)`` one-hot targets and ``(n,)`` groups, from 0 on in their order."""

    states: torch.Tensor
    targets: torch.Tensor
    groups: torch.Tensor

    @property
    def means(self):
        return self.states.mean(0), self.targets.mean(0)

    def covariances(self):
        """The centred covariances that held-out numbers are made from; there are no tokens, nor prefixes."""
        n = len(self.states)
        mean, share = self.means
        states = self.states - mean
        targets = self.targets - share
        zeros = torch.zeros_like(share)
        perception = states.T @ states / n
        cross = states.T @ targets / n
        squares = targets.square().mean(0)
        fields = (n, mean * 0, zeros, squares, None, zeros + 1, perception, cross, perception, perception, 0.0)
        return Covariances(*fields)

    def kept(self, most):
        """The first whole groups of at most ``most`` rows: they are as good as any."""
        rows = int((self.groups.bincount().cumsum(0) <= most).sum())
        chosen = self.groups < rows
        groups = self.groups[chosen]
        halves = torch.arange(rows) % 2 == 0
        weights = torch.ones(len(groups), dtype=torch.float64)
        return KeptRows(self.states[chosen], self.targets[chosen], weights, groups, halves, digest=0)


class Population:
    """Normal states about the means of classes; the variance of direction i is that of a power law.

    Args:
        d: size of the states.
        signal: how far the means of classes stand from their middle, in standard deviations, over all directions.

    """

    shares = torch.tensor([0.4, 0.25, 0.2, 0.1, 0.05], dtype=torch.float64)

    def __init__(self, d, signal=1.6):
        generator = torch.Generator().manual_seed(0)
        self.scale = torch.arange(1, d + 1, dtype=torch.float64) ** -0.5
        noise = torch.randn(len(self.shares), d, generator=generator, dtype=torch.float64)
        self.class_means = signal * d**-0.5 * self.scale * noise
        self.mean = self.shares @ self.class_means
        self.cross = (self.class_means - self.mean).T * self.shares
        self.perception = self.cross @ (self.class_means - self.mean) + torch.diag(self.scale.square())

    def squared_error(self, weights, mean, share):
        """Expected, summed over outputs, of the probe ``share + (x - mean) @ weights``; exact."""
        explained = 2 * (weights * self.cross).sum() - (weights * (self.perception @ weights)).sum()
        offset = share + (self.mean - mean) @ weights - self.shares
        return float(1 - self.shares.square().sum() - explained + offset.square().sum())

    def best_r2(self, features):
        """Of any probe on ``features``, ``(d, p)``."""
        weights = torch.linalg.solve(features.T @ self.perception @ features, features.T @ self.cross)
        of_mean = float(1 - self.shares.square().sum())
        return 1 - self.squared_error(features @ weights, self.mean, self.shares) / of_mean

    def draw(self, n, generator, grouped=False):
        """``n`` samples, each of a text of its own, or several windows of a text and its class."""
        sizes = SIZES[torch.randint(len(SIZES), (n,), generator=generator)] if grouped else torch.ones(n).long()
        groups = torch.arange(n).repeat_interleave(sizes)[:n]
        labels = torch.multinomial(self.shares, n, replacement=True, generator=generator)[groups]
        text, window = torch.randn(2, n, len(self.scale), generator=generator, dtype=torch.float64)
        noise = _SHARED**0.5 * text[groups] + (1 - _SHARED) ** 0.5 * window if grouped else window
        targets = one_hot(labels, len(self.shares)).double()
        return Sample(self.class_means[labels] + self.scale * noise, targets, groups)

    def directions(self, k):
        """``(d, k)`` orthonormal, some of what tells classes apart in them: given, whatever the sample."""
        generator = torch.Generator().manual_seed(1)
        d = len(self.scale)
        signal = self.class_means.T @ torch.randn(len(self.shares), k, generator=generator, dtype=torch.float64)
        noise = torch.randn(d, k, generator=generator, dtype=torch.float64)
        return torch.linalg.qr(signal / signal.norm() + noise / noise.norm())[0]
