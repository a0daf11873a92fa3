"""What rows say: how well a number tells the layers of a model, and two models, apart."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy

from benchmarks.prescreen.truth import unpacked
from benchmarks.study.analysis.candidate import bootstrap, spearman

# Of each library the names of its numbers.
NUMBERS = {
    "ours": ("probe_r2", "probe_accuracy", "captured_r2", "score", "log_me", "h_score", "rankme"),
    "peer": ("hscore", "logme", "knn"),
}
# Relative to the size of two values, a difference that is rounding: a number that is the same whatever the layer.
SAME = 1e-4
WIDE = 1.96

Number = tuple[str, str]


def numbers() -> list[Number]:
    """Library and name of each."""
    return [(party, name) for party, names in NUMBERS.items() for name in names]


def shared(row: dict) -> list[str]:
    """The layers that both libraries have."""
    return [layer for layer in row["test"] if layer in row["ours"] and layer in row["peer"]]


def column(row: dict, part: str, name: str) -> numpy.ndarray:
    """A number by layer, over those that are shared."""
    return numpy.array([row[part][layer][name] for layer in shared(row)])


def follows(row: dict, number: Number, truth: str) -> float:
    """Rank correlation over layers with the test's ``"accuracy"`` or ``"r2"``; 0 where a number is always the same."""
    values = column(row, *number)
    return 0.0 if highest(values).all() else spearman(values, column(row, "test", truth))


def regret(row: dict, number: Number) -> float:
    """Test accuracy lost against the best layer, on average over the layers that are highest by the number."""
    return lost(row, highest(column(row, *number)))


def lost(row: dict, chosen) -> float:
    """The same of layers that were chosen, a mask or an index."""
    accuracy = column(row, "test", "accuracy")
    return float(accuracy.max() - accuracy[chosen].mean())


def highest(values: numpy.ndarray) -> numpy.ndarray:
    """Which are, up to rounding."""
    top = values.max()
    return values >= top - SAME * abs(top)


def interval(values: dict[str, float]) -> tuple[float, float, float]:
    """Mean over sets, and its 95% bootstrap interval."""
    return bootstrap({name: [value] for name, value in values.items()})


@dataclass(frozen=True)
class Choice:
    """Of two models on a set, each at the layer that a number chooses.

    Args:
        right: 1 where the number is higher for the model whose probe reads the test texts better (or both read them
            alike), else 0; a half where it is the same for both.
        lost: test accuracy against the better of the two.
        lost_of_all: test accuracy against the best layer of both models.
        levels: the number itself, by model.

    """

    right: float
    lost: float
    lost_of_all: float
    levels: dict[str, float]


def choose(rows: dict[str, dict], number: Number) -> Choice:
    """The choice between the rows of two models on a set, by model."""
    levels = {model: float(column(row, *number).max()) for model, row in rows.items()}
    read = [float(column(row, "test", "accuracy")[highest(column(row, *number))].mean()) for row in rows.values()]
    best = max(float(column(row, "test", "accuracy").max()) for row in rows.values())
    chosen = highest(numpy.array(list(levels.values())))
    got = float(numpy.array(read)[chosen].mean())
    right = numpy.array([value >= max(read) for value in read], dtype=float)[chosen].mean()
    return Choice(float(right), max(read) - got, best - got, levels)


@dataclass(frozen=True)
class Verdict:
    """What prescreening says of two models on a set, beside the test.

    Args:
        settled: whether it says that one is best.
        right: whether the first reads the test texts at least as well.
        difference: the first's test accuracy less the second's.
        covered: whether that lies in the 95% interval of the lead in accuracy that was said, with the test's own error.

    """

    settled: bool
    right: bool
    difference: float
    covered: bool


def verdict(row: dict, rows: dict[str, dict]) -> Verdict:
    """Of a row of a choice, and the rows of layers by model."""
    hits = []
    for each in row["ranked"]:
        of = rows[each["name"]]
        hits.append(unpacked(of["test"][str(each["layer"])]["hits"], of["num_tested"]))
    differences = hits[0] - hits[1]
    se = float(differences.std(ddof=1)) / len(differences) ** 0.5
    difference = float(differences.mean())
    covered = abs(difference - row["lead"]) <= WIDE * (row["lead_se"] ** 2 + se**2) ** 0.5
    return Verdict(row["settled"], difference >= 0, difference, covered)


def by_set(rows: Sequence[dict], value: Callable[[dict], float]) -> dict[str, float]:
    """A value of each row, by its set."""
    return {row["data"]: value(row) for row in rows}
