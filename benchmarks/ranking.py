"""How often the set that is said to hold the best layer does, and all intervals of ranks hold, over redrawn data.

Layers are random views of the same states of a known population, so that their errors are paired. The truth of a
layer is what its probe reads of the population, exactly, on average over the fits to all redrawn data sets. Beside it:
how many layers the set has, how much too high the best layer's number is and how much of it was foretold; and, of data
sets that are drawn by themselves, the same coverages unpaired.

python -m benchmarks.ranking            # ten minutes
"""

import argparse
from dataclasses import dataclass

import torch

from benchmarks.calibration import Truth
from benchmarks.helpers.population import Population
from benchmarks.helpers.progress import doing
from benchmarks.helpers.timing import goal, table
from ntps_lightning.functional.held_out import held_out
from ntps_lightning.prescreening.joint import Joint, flattery

LAYERS = 8
GOAL = 0.93


@dataclass(frozen=True)
class Cell:
    """What is redrawn: n samples of d dimensions, of which each layer shows p; paired: all layers of the same ones."""

    n: int
    d: int
    p: int
    paired: bool

    @property
    def name(self):
        return f"n={self.n} d={self.d} views of {self.p}{'' if self.paired else ', unpaired'}"


CELLS = [Cell(100, 40, 20, True), Cell(500, 40, 20, True), Cell(500, 40, 36, True), Cell(300, 40, 20, False)]


def views(cell):
    """``(d, p)`` orthonormal, one a layer; the last is the first's mirror, nearly as good."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(cell.d, cell.p, generator=generator, dtype=torch.float64) for _ in range(LAYERS - 1)]
    found.append(found[0] + 0.1 * torch.randn(cell.d, cell.p, generator=generator, dtype=torch.float64))
    return [torch.linalg.qr(view)[0] for view in found]


def redraw(cell, population, truth, seed):
    """The estimates of all layers of one data set, and the R² of these very fits on the population."""
    estimates, own = [], []
    for i, view in enumerate(views(cell)):
        number = seed if cell.paired else seed * LAYERS + i
        sample = population.draw(cell.n, torch.Generator().manual_seed(number))
        seen = type(sample)(sample.states @ view, sample.targets, sample.groups)
        basis = torch.eye(cell.p, dtype=torch.float64)
        found = held_out(seen.covariances(), seen.means, seen.kept(cell.n), basis, 3, curves=False)
        estimates.append(found.probe_r2)
        own.append(truth.of(sample, view, sample.kept(cell.n))[1])
    return estimates, own


def measure(cell, draws):
    """Shares and means over the redrawn data sets."""
    doing(f"{cell.name}: {draws} data sets")
    population = Population(cell.d)
    truth = Truth(population, 1)
    drawn = [redraw(cell, population, truth, seed) for seed in range(draws)]
    true = torch.tensor([own for _, own in drawn], dtype=torch.float64).mean(0)
    rank = 1 + (true[None] > true[:, None]).sum(1)
    best, every = int(true.argmax()), range(LAYERS)
    found = {"best in set": [], "size of set": [], "all ranks": [], "too high": [], "foretold": []}
    for estimates, _ in drawn:
        joint = Joint.of(estimates, [0] * LAYERS if cell.paired else list(every))
        stays, intervals = joint.may_be_best(), joint.ranks()
        chosen = int(joint.values.argmax())
        found["best in set"].append(stays[best])
        found["size of set"].append(sum(stays))
        found["all ranks"].append(all(low <= r <= high for (low, high), r in zip(intervals, rank, strict=True)))
        found["too high"].append(float(joint.values[chosen] - true[chosen]))
        found["foretold"].append(flattery(joint, every, every))
    return {name: sum(values) / len(values) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="data sets a cell")
    args = parser.parse_args()
    rows = []
    for cell in CELLS:
        found = measure(cell, args.draws)
        worst = min(found["best in set"], found["all ranks"])
        rows.append([cell.name, *(f"{value:.3f}" for value in found.values()), *goal(worst, GOAL, most=False)])
    columns = ["cell", "best in set", "size of set", "all ranks", "too high", "foretold", "goal of both", ""]
    table(f"Sets and ranks at 95% of {LAYERS} layers, over {args.draws} redrawn data sets a cell", columns, rows)


if __name__ == "__main__":
    main()
