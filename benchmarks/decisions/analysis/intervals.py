"""Means over sets, with 95% bootstrap intervals over the confirmatory ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy
from scipy import stats

from benchmarks.decisions.settings import CONFIRMATORY, EXPLORATORY

DRAWS = 2000
# Draws in which a statistic may be undefined before its interval is.
UNDEFINED = 0.01


@dataclass(frozen=True)
class Interval:
    """A statistic of the confirmatory sets and the limits of its 95% interval; and what the exploratory ones say.

    Args:
        value: NaN where it is undefined, as are the limits.
        low: as ``high`` NaN where few of the sets have rows.
        high: the other limit.
        exploratory: the statistic of the exploratory sets.
        num_sets: confirmatory ones that have rows.
        t: limits by Student's t of a mean over sets: with nine sets a bootstrap's are somewhat too narrow.

    """

    value: float
    low: float
    high: float
    exploratory: float
    num_sets: int = len(CONFIRMATORY)
    t: tuple[float, float] | None = None

    def __str__(self) -> str:
        if not self.num_sets:
            return f"({self.exploratory:.3f}, exploratory sets alone)"
        if numpy.isnan(self.value):
            return "undefined"
        if self.num_sets < len(CONFIRMATORY):
            return f"{self.value:.3f} ({self.num_sets} sets)"
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def over_sets(statistic: Callable[[list[str]], float], known) -> Interval:
    """Of a statistic of a list of sets, in which a set may come more than once.

    Args:
        statistic: NaN where the sets do not tell.
        known: the sets that have rows.

    """
    confirmatory = [name for name in CONFIRMATORY if name in known]
    exploratory = [name for name in EXPLORATORY if name in known]
    of_exploratory = statistic(exploratory) if exploratory else numpy.nan
    value = statistic(confirmatory) if confirmatory else numpy.nan
    low = high = numpy.nan
    if len(confirmatory) == len(CONFIRMATORY):
        draws = numpy.random.default_rng(0).choice(confirmatory, (DRAWS, len(confirmatory)))
        drawn = numpy.array([statistic(list(draw)) for draw in draws])
        if numpy.isnan(drawn).mean() <= UNDEFINED:
            low, high = (float(limit) for limit in numpy.nanquantile(drawn, (0.025, 0.975)))
    return Interval(value, low, high, of_exploratory, len(confirmatory))


def mean_over_sets(values: dict[str, list[float]]) -> Interval:
    """Of values by set, each set's mean counting once."""
    means = {name: float(numpy.mean(each)) for name, each in values.items() if each}
    found = over_sets(lambda names: float(numpy.mean([means[name] for name in names])), means)
    of_sets = [means[name] for name in CONFIRMATORY if name in means]
    if len(of_sets) < len(CONFIRMATORY):
        return found
    half = float(stats.t.ppf(0.975, len(of_sets) - 1) * stats.sem(of_sets))
    return Interval(**vars(found) | {"t": (found.value - half, found.value + half)})
