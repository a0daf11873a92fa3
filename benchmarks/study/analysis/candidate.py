"""A candidate number, as it is read out of a row, and how well it follows a run."""

from dataclasses import dataclass, replace

import numpy
from scipy.stats import rankdata

from benchmarks.study.measures.sweep import KS

SHARES = 1e-4  # unit of the shares in a row


@dataclass(frozen=True)
class Candidate:
    """One way to make a number from hidden states and labels: the axes of the sweep."""

    family: str = "ntps"  # or ortho (orthonormal U), captured, captured_dof; with _lift or _log
    k: str = "2%"  # one of KS, or "mean" over all k; no meaning for _log
    ridge: str = "0.01"
    center: bool = True
    view: str = "mean"  # of the last layer; or pooling, tokens, another layer, number of samples

    def of(self, sweep: dict) -> float | None:
        """The number from one evaluation's (or layer's) sweep, ``None`` where it was not computed."""
        measures = sweep.get(f"{self._view(sweep)}|{self.center:d}|{self.ridge}", {})
        base = self.family.removesuffix("_lift")
        if base not in measures:
            return None
        at = -1 if self.k == "mean" or self.family.endswith("_log") else KS.index(self.k)
        value = measures[base][at] * SHARES
        if self.family.endswith("_lift"):
            if f"{base}_null" not in measures:
                return None
            null = measures[f"{base}_null"][at] * SHARES
            value = (value - null) / max(1 - null, 1e-9)
        return value

    def _view(self, sweep: dict) -> str:
        """ "block -1" is the input of the last block, whatever its number."""
        if not self.view.startswith("block"):
            return self.view
        inputs = sorted({int(key.split("|")[0][5:]) for key in sweep if key.startswith("layer")})
        back = int(self.view.split()[1])
        return f"layer{inputs[back]}" if len(inputs) >= -back else ""

    def null(self, sweep: dict) -> float | None:
        """What shuffled labels would give at the same place."""
        return replace(self, family=f"{self.family}_null").of(sweep)

    def __str__(self) -> str:
        k = "" if self.family.endswith("_log") else f", k = {self.k}"
        center = "" if self.center else ", uncentred"
        view = "" if self.view == "mean" else f", {self.view}"
        return f"{self.family}{k}, ridge {self.ridge}{center}{view}"


def spearman(a, b) -> float:
    """Rank correlation; 0 where one side is constant, which tells nothing about the other."""
    a = rankdata(a)
    b = rankdata(b)
    if a.std() == 0 or b.std() == 0:
        return 0.0
    return float(numpy.corrcoef(a, b)[0, 1])


def tracking(run: dict, read, quality: str = "probe_r2") -> float | None:
    """Rank correlation, over a run's evaluations, of a number with held-out quality; ``None`` where it is missing."""
    pairs = [(read(s), s[quality]) for s in run["stages"]]
    pairs = [(a, b) for a, b in pairs if a is not None and b is not None]
    return spearman(*zip(*pairs, strict=True)) if len(pairs) >= 3 else None


def bootstrap(values: dict[str, list[float]], repeats: int = 2000) -> tuple[float, float, float]:
    """Mean over data sets, and a 95% interval from resampling data sets: ``values[data]`` stays together."""
    groups = [numpy.mean(v) for v in values.values()]
    draws = numpy.random.default_rng(0).choice(groups, (repeats, len(groups))).mean(1)
    low, high = numpy.quantile(draws, (0.025, 0.975))
    return float(numpy.mean(groups)), float(low), float(high)
