"""Does a number of the base model tell what LoRA gains? Rank correlations over tasks, by bootstrap over sets."""

import math
from dataclasses import dataclass

import numpy

DRAWS = 2000
NUMBERS = (
    "score",
    "lift",
    "captured_in_sample",
    "in_sample_r2",
    "probe_r2",
    "probe_accuracy",
    "captured_r2",
    "captured",
    "principal_r2",
    "predicted_accuracy",
    "rankme",
)
NAMED = "score, last"  # the paper: the lower the score, the higher the gain


@dataclass(frozen=True)
class Outcome:
    """A task of which the base row and all runs are there.

    Args:
        name: the task.
        data: its set.
        numbers: of the base model, by name and layer; ``None`` where the package gives none.
        probe: accuracy on the test texts.
        lora: likewise, the mean of the runs.
        last: likewise, at the end of the runs.
        num_test: test texts.
        num_train: training texts.

    """

    name: str
    data: str
    numbers: dict[str, float | None]
    probe: float
    lora: float
    last: float
    num_test: int
    num_train: int

    @property
    def gain(self) -> float:
        """The share of the probe's errors that LoRA does not make."""
        return (self.lora - self.probe) / (1 - self.probe)

    @property
    def gain_error(self) -> float:
        """Binomial standard error, as if LoRA and the probe were read on different texts: they are right on the same
        ones more often than chance has it, which makes the true one smaller. Runs share the test texts."""
        left = 1 - self.probe
        of_lora = self.lora * (1 - self.lora) / left**2
        of_probe = self.probe * left * ((1 - self.lora) / left**2) ** 2
        return math.sqrt((of_lora + of_probe) / self.num_test)


def outcomes(rows: list[dict], model: str, seeds: tuple[int, ...]) -> list[Outcome]:
    """The tasks of a model that are complete; not those whose probe makes no error, where there is nothing to gain."""
    mine = [row for row in rows if row["model"] == model]
    found = []
    for base in (row for row in mine if row["kind"] == "base" and row["probe_accuracy"] < 1):
        runs = [row for row in mine if row["kind"] == "lora" and row["task"] == base["task"] and row["seed"] in seeds]
        if len(runs) == len(seeds):
            found.append(_outcome(base, runs))
    return found


def _outcome(base: dict, runs: list[dict]) -> Outcome:
    return Outcome(
        name=base["task"],
        data=base["data"],
        numbers={f"{n}, {layer}": _value(found[n]) for layer, found in base["layers"].items() for n in NUMBERS},
        probe=base["probe_accuracy"],
        lora=sum(run["accuracy"] for run in runs) / len(runs),
        last=sum(run["last_accuracy"] for run in runs) / len(runs),
        num_test=base["num_test"],
        num_train=base["num_train"],
    )


def _value(number) -> float | None:
    return number[0] if isinstance(number, list) else number


def draws(found: list[Outcome]) -> numpy.ndarray:
    """How often each task counts, ``(1 + DRAWS, tasks)``: once, and then as often as its set is drawn."""
    names = sorted({each.data for each in found})
    chosen = numpy.random.default_rng(0).multinomial(len(names), [1 / len(names)] * len(names), size=DRAWS)
    return numpy.vstack([numpy.ones(len(found)), chosen[:, [names.index(each.data) for each in found]]])


def rank_correlations(x, y, weights) -> numpy.ndarray:
    """Of samples that have each pair as often as a row of ``weights`` says; 0 where one side is constant."""
    x, y = _centred_ranks(x, weights), _centred_ranks(y, weights)
    scale = numpy.sqrt((weights * x**2).sum(1) * (weights * y**2).sum(1))
    return numpy.divide((weights * x * y).sum(1), scale, out=numpy.zeros(len(weights)), where=scale > 1e-9)


def _centred_ranks(values, weights):
    values = numpy.asarray(values)
    below = (values < values[:, None]) + (values == values[:, None]) / 2
    ranks = weights @ below.T
    return ranks - (weights * ranks).sum(1, keepdims=True) / weights.sum(1, keepdims=True)


def partial_rank_correlations(x, y, given, weights) -> numpy.ndarray:
    """Of x and y where ``given`` is held; 0 where it leaves nothing of one of them."""
    xy, xz, yz = (rank_correlations(*pair, weights) for pair in ((x, y), (x, given), (y, given)))
    left = numpy.sqrt(((1 - xz**2) * (1 - yz**2)).clip(min=0))
    return numpy.divide(xy - xz * yz, left, out=numpy.zeros(len(weights)), where=left > 1e-6)


def interval(drawn: numpy.ndarray) -> dict[str, float]:
    """The first value, and the 95% interval of the others."""
    low, high = numpy.quantile(drawn[1:], (0.025, 0.975))
    return {"mean": float(drawn[0]), "low": float(low), "high": float(high)}


def correlations(found: list[Outcome]) -> dict[str, dict]:
    """By number: with the gain, the same given the probe's accuracy, and with LoRA's accuracy; and the probe's own."""
    asked = {name: (lambda each, name=name: each.numbers[name]) for name in found[0].numbers}
    asked["probe, test texts"] = lambda each: each.probe
    numbers = {name: _correlations([e for e in found if read(e) is not None], read) for name, read in asked.items()}
    del numbers["probe, test texts"]["gain given the probe"]
    return numbers


def _correlations(found: list[Outcome], read) -> dict:
    if not found:
        return {}
    number, gain, probe, lora = zip(*((read(e), e.gain, e.probe, e.lora) for e in found), strict=True)
    weights = draws(found)
    return {
        "num_tasks": len(found),
        "gain": interval(rank_correlations(number, gain, weights)),
        "gain given the probe": interval(partial_rank_correlations(number, gain, probe, weights)),
        "LoRA's accuracy": interval(rank_correlations(number, lora, weights)),
    }
