"""How often held-out numbers' 95% intervals, two standard errors to each side, hold the truth, over redrawn data.

The truth of a cell is what the number estimates: the same probe, with ridges chosen on its own n samples, read on the
population (accuracy: on 50,000 fresh samples), on average over the fits to all redrawn data sets. Autoregressive
directions are given; principal components are each sample's own. "fit's own" asks for the interval to hold the truth of
this one fit instead, with its own components.

python -m benchmarks.calibration        # half an hour; resumable: cells in build/calibration.jsonl are not redrawn
"""

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from benchmarks.helpers.population import Population
from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import machine, table
from ntps_lightning.functional.held_out import GRID, held_out
from ntps_lightning.functional.kept import Blocks
from ntps_lightning.functional.ridge_probe import RidgeProbe, cross_fitted_ridges

NAMES = ("probe_r2", "probe_accuracy", "captured_r2", "principal_r2")
FRESH = 50_000
LOW, HIGH = 0.93, 0.995
STORE = Path(__file__).parents[1] / "build" / "calibration.jsonl"
K = 5


@dataclass(frozen=True)
class Cell:
    """What is redrawn."""

    n: int
    d: int
    kept: int
    grouped: bool

    @property
    def dear(self):
        """Whether half the data sets must do."""
        return self.grouped and self.kept > 1000

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
        fresh = population.draw(size, torch.Generator().manual_seed(2))
        self.states = fresh.states.float()
        self.labels = fresh.targets.argmax(1)

    def of(self, sample, features, rows):
        """The probes of both halves on ``features``, ``(d, p)``, of a sample, each with its ridge, and their R²."""
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
        return both, 1 - sum(errors) / 2 / of_mean

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
    found = held_out(cov, sample.means, rows, basis, K, curves=False)
    components = torch.linalg.eigh(cov.perception).eigenvectors[:, -K:]
    whole = torch.eye(cell.d, dtype=torch.float64)
    (probes, probe_r2), *confined = (truth.of(sample, features, rows) for features in (whole, basis, components))
    truths = (probe_r2, truth.accuracy(sample, probes), *(r2 for _, r2 in confined))
    return [(getattr(found, name).value, getattr(found, name).se, t) for name, t in zip(NAMES, truths, strict=True)]


def measure(cell, draws, fresh=FRESH):
    """Per number: coverage of the average fit's truth and of this fit's, mean error and bias over the spread."""
    population = Population(cell.d)
    truth = Truth(population, fresh)
    found = torch.tensor([redraw(cell, population, truth, 1000 + seed) for seed in range(draws)], dtype=torch.float64)
    value, se, own = found.unbind(2)
    center = own.mean(0)
    return {
        name: {
            "truth": float(center[i]),
            "coverage": float(((value - center).abs() <= 1.96 * se)[:, i].double().mean()),
            "coverage of this fit's": float(((value - own).abs() <= 1.96 * se)[:, i].double().mean()),
            "se / sd": float(se[:, i].mean() / value[:, i].std()),
            "bias / sd": float((value[:, i].mean() - center[i]) / value[:, i].std()),
        }
        for i, name in enumerate(NAMES)
    }


def stored():
    """What has been measured, by cell and number of data sets."""
    lines = STORE.read_text().splitlines() if STORE.exists() else []
    return {(row["cell"], row["draws"]): row["found"] for row in map(json.loads, lines)}


def results(draws, cells):
    """Of every cell, measured where it is not stored."""
    known = stored()
    for cell in cells:
        key = (cell.name, draws // 2 if cell.dear else draws)
        if key not in known:
            doing(f"{cell.name}: {key[1]} data sets")
            known[key] = measure(cell, key[1])
            STORE.parent.mkdir(exist_ok=True)
            with STORE.open("a") as file:
                print(json.dumps({"cell": cell.name, "draws": key[1], "found": known[key]}), file=file)
        yield cell.name, known[key]


def rows_of(name, found):
    """Lines of the table."""
    for number, values in found.items():
        met = LOW <= values["coverage"] <= HIGH
        yield [f"{name}, {number}", *(f"{value:.3f}" for value in values.values()), "met" if met else "MISSED"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="data sets a cell; half where many texts are kept")
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    args = parser.parse_args()
    if args.again:
        STORE.unlink(missing_ok=True)
    rows = [row for name, found in results(args.draws, CELLS) for row in rows_of(name, found)]
    columns = ["cell", "truth", "coverage", "fit's own", "se / sd", "bias / sd", f"goal: {LOW:.0%} to {HIGH:.1%}"]
    draws = f"{args.draws} redrawn data sets a cell, {args.draws // 2} of the dearest"
    table(f"95% intervals over {draws} [{machine()}]", columns, rows)
    print(f"{sum(row[-1] == 'met' for row in rows)} of {len(rows)} within the goal")


if __name__ == "__main__":
    main()
