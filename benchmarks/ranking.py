"""How often the set that is said to hold the best layer does, and all intervals of ranks hold, over redrawn data.

Layers are random views of the same states of a known population, so that their errors are paired. The truth of a
layer is what its probe reads of the population, exactly, on average over the fits to all redrawn data sets. Beside it:
how many layers the set has, how much too high the best layer's number is and how much of it was foretold; and, of data
sets that are drawn by themselves, the same coverages unpaired. Equal layers, the same states each through noise of its
own, are the hardest case: there a set must hold any one of them, and no rank may be told from another. In the last
cells candidates are models, each at the best of several layers, which are equal but for noise of their own: the truth
is what such a layer reads.

python -m benchmarks.ranking            # forty minutes
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
# Seeds of noise are none of samples.
_NOISE = 10_000_000


@dataclass(frozen=True)
class Cell:
    """What is redrawn.

    Args:
        n: samples.
        d: their dimensions.
        p: those that a layer shows; ``None``: all of them, through noise of its own.
        paired: whether all layers are of the same samples.
        depths: of how many layers each is the best, in turn.

    """

    n: int
    d: int
    p: int | None
    paired: bool = True
    depths: tuple[int, ...] = (1,)

    @property
    def name(self):
        shown = "equal" if self.p is None else f"views of {self.p}"
        best = "" if self.depths == (1,) else f", best of {' and '.join(map(str, self.depths))}"
        return f"n={self.n} d={self.d} {shown}{best}{'' if self.paired else ', unpaired'}"


CELLS = [
    Cell(100, 20, None),
    Cell(500, 20, None),
    Cell(100, 40, 20),
    Cell(500, 40, 20),
    Cell(500, 40, 36),
    Cell(300, 40, 20, paired=False),
    Cell(200, 40, 20, depths=(4,)),
    Cell(200, 20, None, depths=(1, 4)),
]


def views(cell):
    """``(d, p)`` orthonormal, one a layer; the last is the first's mirror, nearly as good."""
    generator = torch.Generator().manual_seed(3)
    found = [torch.randn(cell.d, cell.p, generator=generator, dtype=torch.float64) for _ in range(LAYERS - 1)]
    found.append(found[0] + 0.1 * torch.randn(cell.d, cell.p, generator=generator, dtype=torch.float64))
    return [torch.linalg.qr(view)[0] for view in found]


def redraw(cell, population, truth, seed):
    """The estimates of all candidates of one data set, and what is true of them, on average over data sets."""
    estimates, own = [], []
    for i in range(LAYERS):
        number = seed if cell.paired else seed * LAYERS + i
        sample = population.draw(cell.n, torch.Generator().manual_seed(number))
        depth = cell.depths[i % len(cell.depths)]
        if cell.p is None or depth > 1:
            states = sample.states if cell.p is None else sample.states @ views(cell)[i]
            first = (seed * LAYERS + i) * max(cell.depths)
            layers = [estimate(sample, noisy(states, first + j)) for j in range(depth)]
            estimates.append(max(layers, key=lambda each: each.value))
            own.append(sum(each.value for each in layers) / depth)
            continue
        view = views(cell)[i]
        estimates.append(estimate(sample, sample.states @ view))
        own.append(truth.of(sample, view, sample.kept(cell.n))[1])
    # Of equal candidates the truth is one.
    return estimates, [sum(own) / LAYERS] * LAYERS if cell.p is None else own


def noisy(states, seed):
    """Half of whose variance is noise."""
    generator = torch.Generator().manual_seed(_NOISE + seed)
    return states + states.std(0) * torch.randn(states.shape, generator=generator, dtype=torch.float64)


def estimate(sample, states):
    """Held-out R²."""
    seen = type(sample)(states, sample.targets, sample.groups)
    rows = seen.kept(len(states))
    basis = torch.eye(states.shape[1], dtype=torch.float64)
    return held_out(seen.covariances(), seen.means, rows, basis, 3, curves=False).probe_r2


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
        found["foretold"].append(flattery(joint))
    return {name: sum(values) / len(values) for name, values in found.items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=400, help="data sets a cell")
    parser.add_argument("--cells", type=int, nargs="*", default=range(len(CELLS)), help="which (default: all)")
    args = parser.parse_args()
    rows = []
    for cell in (CELLS[i] for i in args.cells):
        found = measure(cell, args.draws)
        worst = min(found["best in set"], found["all ranks"])
        rows.append([cell.name, *(f"{value:.3f}" for value in found.values()), *goal(worst, GOAL, most=False)])
    columns = ["cell", "best in set", "size of set", "all ranks", "too high", "foretold", "goal of both", ""]
    table(f"Sets and ranks at 95% of {LAYERS} layers, over {args.draws} redrawn data sets a cell", columns, rows)


if __name__ == "__main__":
    main()
