"""Means over sets, with 95% bootstrap intervals over the confirmatory ones."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy

from benchmarks.decisions.settings import CONFIRMATORY, EXPLORATORY

DRAWS = 2000


@dataclass(frozen=True)
class Interval:
    """A statistic of the confirmatory sets and the limits of its 95% interval; and what the exploratory ones say."""

    value: float
    low: float
    high: float
    exploratory: float

    def __str__(self) -> str:
        if numpy.isnan(self.value):
            return f"({self.exploratory:.3f}, exploratory sets alone)"
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
    if not confirmatory:
        return Interval(numpy.nan, numpy.nan, numpy.nan, of_exploratory)
    draws = numpy.random.default_rng(0).choice(confirmatory, (DRAWS, len(confirmatory)))
    low, high = numpy.nanquantile([statistic(list(draw)) for draw in draws], (0.025, 0.975))
    return Interval(statistic(confirmatory), float(low), float(high), of_exploratory)


def mean_over_sets(values: dict[str, list[float]]) -> Interval:
    """Of values by set, each set's mean counting once."""
    means = {name: float(numpy.mean(each)) for name, each in values.items() if each}
    return over_sets(lambda names: float(numpy.mean([means[name] for name in names])), means)
