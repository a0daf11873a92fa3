"""How often held-out numbers' 95% intervals, two standard errors to each side, hold the truth, over redrawn data.

The truth of a number is what it estimates: the same probe, with ridges chosen on its own n samples, read on the
population (accuracy: on 100,000 fresh samples), on average over the fits to all redrawn data sets. Directions are
given: autoregressive ones are the same for all samples; of a sample's own principal components the truth is what the
best probe on them reads, less what fits lose on average. Beside it the share of intervals that hold the mean over all
samples, whatever their components ("of all"), and what this one fit reads ("fit's own").

python -m benchmarks.calibration        # half an hour; resumable: cells in build/calibration.jsonl are not redrawn
"""

import argparse
from dataclasses import dataclass

import torch

from benchmarks.helpers.population import Population
from benchmarks.helpers.progress import doing
from benchmarks.helpers.store import Store
from benchmarks.helpers.timing import table
from ntps_lightning.functional.held_out import GRID, held_out
from ntps_lightning.functional.kept import Blocks
from ntps_lightning.functional.ridge_probe import RidgeProbe, cross_fitted_ridges

NAMES = ("probe_r2", "probe_accuracy", "captured_r2", "principal_r2")
FRESH = 100_000
LOW, HIGH = 0.93, 0.995
K = 5
# Samples that are drawn at once.
_PART = 50_000
# Seeds of a cell start so far from those of the one before.
_FIRST = 100_000


@dataclass(frozen=True)
class Cell:
    """What is redrawn."""

    n: int
    d: int
    kept: int
    grouped: bool

    @property
    def slow(self):
        """Whether half the data sets must do."""
        return self.grouped or self.kept > 1000

    @property
    def name(self):
        return f"n={self.n} d={self.d} kept={self.kept}{' texts' if self.grouped else ''}"


CELLS = [
    Cell(n, d, kept, grouped)
    for grouped in (False, True)
    for n, every in ((100, (100,)), (500, (500, 150)), (2000, (2000, 300)))
    for d in (60, 200)
    for kept in every
]


class Truth:
    """What probes read of the population: R² exactly, accuracy of a large sample."""

    def __init__(self, population, size):
        self.population = population
        generator = torch.Generator().manual_seed(2)
        fresh = [population.draw(min(size, _PART), generator) for _ in range(max(1, size // _PART))]
        self.states = torch.cat([part.states.float() for part in fresh])
        self.labels = torch.cat([part.targets.argmax(1) for part in fresh])

    def of(self, sample, features, rows):
        """The probes of both halves on ``features``, ``(d, p)``, of a sample, their R² and the best."""
        cov = sample.covariances()
        mean, share = sample.means
        eigenvalues, vectors = torch.linalg.eigh(features.T @ cov.perception @ features)
        basis = features @ vectors
        cross = basis.T @ cov.cross
        probe = RidgeProbe(cov.num_samples, eigenvalues, (rows.states - mean) @ basis, cross, rows.targets - share)
        ridges, _ = cross_fitted_ridges(probe, rows, Blocks.of(rows.groups), GRID)
        both = [basis @ (cross / (eigenvalues + ridge * eigenvalues.mean())[:, None]) for ridge in ridges]
        of_mean = self.population.squared_error(both[0] * 0, mean, share)
        errors = [self.population.squared_error(weights, mean, share) for weights in both]
        return both, 1 - sum(errors) / 2 / of_mean, self.population.best_r2(features)

    def accuracy(self, sample, probes):
        """Of the probes of both halves."""
        mean, share = sample.means
        shares = []
        for weights in probes[: 1 if torch.equal(*probes) else 2]:
            predicted = self.states @ weights.float() + (share - mean @ weights).float()
            shares.append(float((predicted.argmax(1) == self.labels).double().mean()))
        return sum(shares) / len(shares)


def redraw(cell, population, truth, seed):
    """Value, standard error and truth of this fit of every number, for one data set."""
    sample = population.draw(cell.n, torch.Generator().manual_seed(seed), cell.grouped)
    rows = sample.kept(cell.kept)
    basis = population.directions(K)
    cov = sample.covariances()
    found = held_out(cov, sample.means, rows, basis, K, curves=False, fewer_rows=False)
    components = torch.linalg.eigh(cov.perception).eigenvectors[:, -K:]
    whole = torch.eye(cell.d, dtype=torch.float64)
    probes, *of_whole = truth.of(sample, whole, rows)
    confined = [truth.of(sample, features, rows)[1:] for features in (basis, components)]
    truths = (of_whole, (truth.accuracy(sample, probes), 0.0), *confined)
    return [(getattr(found, name).value, getattr(found, name).se, *t) for name, t in zip(NAMES, truths, strict=True)]


def measure(cell, draws, fresh=FRESH):
    """Per number: shares of intervals that hold truths, and mean error and bias over the spread."""
    doing(f"{cell.name}: {draws} data sets")
    population = Population(cell.d)
    truth = Truth(population, fresh)
    first = _FIRST * CELLS.index(cell) if cell in CELLS else 0
    drawn = [redraw(cell, population, truth, first + i) for i in range(draws)]
    value, se, own, best = torch.tensor(drawn, dtype=torch.float64).unbind(2)
    given = best + (own - best).mean(0)
    spread = (value - given).std(0)
    numbers = {
        "truth": own.mean(0),
        "coverage": holds(value, se, given),
        "of all": holds(value, se, own.mean(0)),
        "fit's own": holds(value, se, own),
        "se / sd": se.mean(0) / spread,
        "bias / sd": (value - given).mean(0) / spread,
    }
    return {name: {key: float(column[i]) for key, column in numbers.items()} for i, name in enumerate(NAMES)}


def holds(value, se, truth):
    """Share of 95% intervals."""
    return ((value - truth).abs() <= 1.96 * se).double().mean(0)


def stored(store, cell, draws):
    """What is known of a cell, or is measured now."""
    draws = draws // 2 if cell.slow else draws
    return store.get((cell.name, draws), lambda: measure(cell, draws))


def rows_of(name, found):
    """Lines of the table."""
    for number, values in found.items():
        met = LOW <= values["coverage"] <= HIGH
        yield [f"{name}, {number}", *(f"{value:.3f}" for value in values.values()), "met" if met else "MISSED"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="data sets a cell; half where one takes long")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    args = parser.parse_args()
    store = Store("calibration")
    if args.again:
        store.forget()
    found = {cell: stored(store, cell, args.draws) for cell in sorted(CELLS, key=lambda cell: cell.slow * cell.kept)}
    rows = [row for cell in CELLS for row in rows_of(cell.name, found[cell])]
    columns = [
        "cell",
        "truth",
        "coverage",
        "of all",
        "fit's own",
        "se / sd",
        "bias / sd",
        f"goal: {LOW:.0%} to {HIGH:.1%}",
    ]
    draws = f"{args.draws} redrawn data sets a cell, {args.draws // 2} where one takes long"
    table(f"95% intervals over {draws}", columns, rows)
    own = [number["fit's own"] for cell in found.values() for number in cell.values()]
    print(f"{sum(row[-1] == 'met' for row in rows)} of {len(rows)} within the goal")
    print(f"{sum(LOW <= value <= HIGH for value in own)} of {len(own)} by what the very fit reads")


if __name__ == "__main__":
    main()
