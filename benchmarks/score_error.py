"""How sure the score is: does it stand out of its null, and what is its error?

1. p-values from draws of the null: autoregressive directions and the factor of B + ridge stay, the cross-covariance is
   noise of covariance (that of targets x B) / n. Under shuffled labels they should be uniform.
2. A bootstrap of the same kind, the cross-covariance plus noise of covariance (that of residuals x B) / n, residuals
   over n - df: its error against the spread of the score over redrawn data, and over redrawn S with all else of one.

Nothing of this is in the package.

python -m benchmarks.score_error
"""

import argparse
import warnings

import torch
from torch.nn.functional import one_hot

from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import table
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.moments import covariances
from ntps_lightning.functional.options import ScoreOptions
from ntps_lightning.functional.overlap import nested_basis, overlap_curve
from ntps_lightning.functional.subspaces import autoregressive_subspace, perception_subspace
from ntps_lightning.functional.whitening import whitening

CLASSES = 5
RIDGE = ScoreOptions().ridge


class Tokens:
    """A population of samples of tokens, each of which remembers those before; the means of classes stay."""

    def __init__(self, d, signal, length=12):
        generator = torch.Generator().manual_seed(0)
        self.scale = torch.arange(1, d + 1) ** -0.5
        self.means = signal * self.scale * torch.randn(CLASSES, d, generator=generator)
        self.memory = torch.linspace(0.9, 0, d)
        self.length = length

    def draw(self, n, seed):
        """``(n, T, d)`` states and ``(n,)`` labels."""
        generator = torch.Generator().manual_seed(seed)
        labels = torch.randint(CLASSES, (n,), generator=generator)
        states = torch.randn(n, self.length, len(self.scale), generator=generator) * self.scale
        for t in range(1, self.length):
            states[:, t] += self.memory * states[:, t - 1]
        return states + self.means[labels][:, None], labels


class Fixed:
    """The score as a function of the cross-covariance: all else stays as some moments have it."""

    def __init__(self, moments, ridge, k=None):
        self.cov = covariances(moments, center=True)
        self.n = self.cov.num_samples
        d, outputs = self.cov.cross.shape
        self.penalty = float(ridge * self.cov.perception.trace() / d)
        self.k = ScoreOptions(k=k).num_directions(d, outputs)
        self.whitener = whitening(self.cov.perception + self.penalty * torch.eye(d, dtype=torch.float64))
        found = autoregressive_subspace(self.cov.prefix, self.cov.prefix_next, count=self.k, noise=self.cov.rounding)
        self.basis = nested_basis(found.directions)
        eigenvalues, vectors = torch.linalg.eigh(self.cov.perception)
        self.eigenvalues = eigenvalues.clamp(min=0)
        self.root = vectors * self.eigenvalues.sqrt()
        share = moments.target_sum / self.n
        self.targets = torch.diag(share) - torch.outer(share, share)

    def score(self, cross):
        return float(overlap_curve(self.basis, perception_subspace(cross, self.whitener).directions)[self.k - 1])

    def noise(self, covariance, generator):
        """A cross-covariance of ``covariance`` x B / n."""
        eigenvalues, vectors = torch.linalg.eigh(covariance)
        root = (vectors * eigenvalues.clamp(min=0).sqrt()).T
        drawn = torch.randn(len(self.eigenvalues), len(root), generator=generator, dtype=torch.float64)
        return self.root @ drawn @ root / self.n**0.5

    def null(self, draws, seed=0):
        """Scores of noise."""
        generator = torch.Generator().manual_seed(seed)
        return torch.tensor([self.score(self.noise(self.targets, generator)) for _ in range(draws)])

    def bootstrap_error(self, draws, seed=0):
        """Spread of the score of the cross-covariance with noise of the residuals."""
        generator = torch.Generator().manual_seed(seed)
        weights = self.whitener.unwhiten(self.whitener.whiten(self.cov.cross))
        shared = weights.T @ self.cov.cross
        residual = self.targets - shared - shared.T + weights.T @ self.cov.perception @ weights
        freedom = 1 + float((self.eigenvalues / (self.eigenvalues + self.penalty)).sum())
        residual = residual * self.n / max(self.n - freedom, 1)
        drawn = [self.score(self.cov.cross + self.noise(residual, generator)) for _ in range(draws)]
        return float(torch.tensor(drawn).std())


def p_values(states, labels, shuffles, draws):
    """Of the score under shuffled labels, against the same draws of the null: nothing else depends on them."""
    fixed = Fixed(batch_moments(states, labels, num_classes=CLASSES), RIDGE)
    null = fixed.null(draws)
    pooled = states.double().mean(1)
    pooled -= pooled.mean(0)
    generator = torch.Generator().manual_seed(1)
    found = []
    for _ in range(shuffles):
        targets = one_hot(labels[torch.randperm(len(labels), generator=generator)], CLASSES).double()
        score = fixed.score(pooled.T @ (targets - targets.mean(0)) / len(labels))
        found.append(float((1 + (null >= score).sum()) / (1 + len(null))))
    return torch.tensor(found)


def uniform_rows(d, sizes, shuffles, draws):
    for n in sizes:
        doing(f"p-values, d={d}, n={n}")
        states, labels = Tokens(d, 0.1).draw(n, 0)
        found = p_values(states, labels, shuffles, draws).sort().values
        grid = torch.arange(1, len(found) + 1) / len(found)
        distance = float((found - grid).abs().max())
        shares = (f"{float((found <= level).double().mean()):.3f}" for level in (0.01, 0.05, 0.1, 0.5))
        limit = 1.36 * (1 / shuffles + 1 / draws) ** 0.5
        yield [f"d={d}, n={n}", *shares, f"{distance:.3f}", f"{limit:.3f}"]


def bootstrap_rows(d, sizes, signals, redraws, draws):
    for signal in signals:
        population = Tokens(d, signal)
        for n in sizes:
            doing(f"bootstrap, d={d}, n={n}, signal {signal}")
            first = Fixed(batch_moments(*population.draw(n, redraws), num_classes=CLASSES), RIDGE)
            scores = []
            given = []
            errors = []
            for seed in range(redraws):
                states, labels = population.draw(n, seed)
                fixed = Fixed(batch_moments(states, labels, num_classes=CLASSES), RIDGE)
                scores.append(fixed.score(fixed.cov.cross))
                given.append(first.score(fixed.cov.cross))
                if seed < redraws // 4:
                    errors.append(fixed.bootstrap_error(draws))
            sd, sd_given = (float(torch.tensor(values).std()) for values in (scores, given))
            error = sum(errors) / len(errors)
            cells = (f"{sum(scores) / len(scores):.3f}", f"{sd:.4f}", f"{sd_given:.4f}", f"{error:.4f}")
            within = "yes" if 0.8 <= error / sd <= 1.2 else "NO"
            yield [f"d={d}, n={n}, signal {signal}", *cells, f"{error / sd:.2f}", f"{error / sd_given:.2f}", within]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=500)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    rows = list(uniform_rows(60, (200, 600, 2000), args.draws, 2 * args.draws))
    columns = ["shuffled labels", "p <= .01", "<= .05", "<= .1", "<= .5", "largest gap", "of uniform, 95%"]
    table(f"1. p-values of {args.draws} shuffles", columns, rows)
    rows = list(bootstrap_rows(60, (200, 600, 2000), (0.05, 0.1, 0.3), args.draws // 5, args.draws // 5))
    table(
        "2. Bootstrap",
        ["redrawn data", "score", "sd", "of S alone", "se", "se / sd", "of S alone ", "within 20%"],
        rows,
    )


if __name__ == "__main__":
    main()
