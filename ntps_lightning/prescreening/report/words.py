"""The answers in words, which all forms of the report begin with."""

from __future__ import annotations

from collections.abc import Sequence

from ntps_lightning.prescreening.measured import LayerNumbers, Measured, Number
from ntps_lightning.prescreening.ranking import KEPT, Ranking, layer_to_read
from ntps_lightning.prescreening.result import Prescreen

# Labels that nobody makes.
_MANY = 1_000_000
# Sentences about single pairs: more would bury the answers.
_MOST_LINES = 8

CAVEATS = (
    "± is one standard error. Accuracy and R² are held out: of a linear probe on the model as it is, read on texts "
    "that it was not fitted on. Score, null, lift, RankMe, H-score and LogME are of all texts, and not held out.",
    "What may be the best, and ranks, are at 95%. Labels to settle it would tell the first from whatever else "
    "may be the best, at 95% in four of five samples, if the differences are as seen here; these are uncertain, so "
    "take it as an order of magnitude. The errors of models and data sets take the layer of each to be given.",
    "With more labels: accuracy (R² without classes) of a probe that is fitted on twice the labels at hand, "
    "extrapolated from fits on fewer of them; nothing is said where that is more than four times the largest fit.",
    "Nothing here foretells what LoRA gains: there is no evidence yet that any number of the base model does. The "
    "paper (arXiv 2505.17169) reports negative rank correlations of its score with that gain within a model: a low "
    "score, a high gain.",
    "Scores, captured shares and their levels are compared within a model alone; accuracies of data sets with other "
    "classes are not compared.",
)


def answers(result: Prescreen) -> list[str]:
    """Which layer to read, and which model and data set is ahead: a sentence or two each."""
    found = [_models(result, data) for data in result.data] if len(result.models) > 1 else []
    found += [_data(result, model) for model in result.models] if len(result.data) > 1 else []
    if len(result.measured) <= _MOST_LINES:
        found += [_layer(result, each) for each in result.measured]
    else:
        found.append("The table below has the layer to read of each model on each data set.")
    return [each for each in found if each]


def number(value: Number, digits: int = 3) -> str:
    """With its standard error."""
    return f"{value[0]:.{digits}f} ± {value[1]:.{digits}f}"


def listed(names: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def spans(layers: Sequence[int]) -> str:
    """Layers as ranges: 3, 5 to 7."""
    ends: list[list[int]] = []
    for layer in sorted(layers):
        if ends and layer == ends[-1][-1] + 1:
            ends[-1].append(layer)
        else:
            ends.append([layer])
    ranges = [[f"{run[0]} to {run[-1]}"] if len(run) > 2 else list(map(str, run)) for run in ends]
    return listed([each for run in ranges for each in run])


def accuracy_and_r2(layer: LayerNumbers) -> str:
    """What the probe reads at a layer."""
    r2 = f"R² {number((layer.probe_r2.value, layer.probe_r2.se))}"
    return r2 if layer.accuracy is None else f"accuracy {number(layer.accuracy)}, {r2}"


def with_twice(layer: LayerNumbers) -> str:
    """With how many labels to expect what; empty where it is not known."""
    if not layer.expected:
        return ""
    labels = min(layer.expected)
    return f"with {labels:,} labels {number(layer.expected[labels])}"


def to_settle(ranking: Ranking) -> str:
    """How many labels would tell the first from all that may be as good; empty where it is settled."""
    if ranking.settled:
        return ""
    first, hardest = ranking.ranked[0].name, ranking.hardest
    difference, se = next(each.behind for each in ranking.ties if each.name == hardest)
    if se == 0:
        return f"No number of labels tells {first} from {hardest}: they read the same."
    if difference == 0 or ranking.labels_to_settle is None:
        return f"{first} and {hardest} have the same number here, ± {se:.3f}: what would tell them apart is not known."
    if ranking.at_hand:
        return f"Two by two {first} is ahead of {_these(ranking)} already, of all {len(ranking.ranked)} together not."
    labels = f"about {ranking.labels_to_settle:,}" if ranking.labels_to_settle < _MANY else "more than a million"
    kept = f", and no more than {KEPT:,} texts of a set are read" if ranking.beyond_kept else ""
    return (
        f"To tell {first} from {_these(ranking)} in four of five samples would take {labels} labels to read on (here"
        f" {ranking.labels:,}), if their difference is as seen{kept}."
    )


def labels_cell(ranking: Ranking) -> str:
    """How many labels would settle it, for a table; a dash where it is settled."""
    if ranking.settled:
        return "-"
    if ranking.labels_to_settle is None:
        return "not known"
    if ranking.at_hand:
        return "at hand"
    return f"{ranking.labels_to_settle:,}" if ranking.labels_to_settle < _MANY else f"> {_MANY:,}"


def _these(ranking: Ranking) -> str:
    """The hardest to tell from the first of those that may be as good."""
    return f"{ranking.hardest}, the hardest of these," if len(ranking.ties) > 1 else f"{ranking.hardest}"


def _layer(result: Prescreen, measured: Measured) -> str:
    """All of it of one, what fits a line of several."""
    ranking = result.rank_layers(measured.model, measured.data)
    layer = layer_to_read(measured)
    ties = [each.layer for each in ranking.ties]
    settled = f"Of its {len(ranking.ranked)} layers no other may be as good." if len(ranking.ranked) > 1 else ""
    may_be = f"Layer{'s' if len(ties) > 1 else ''} {spans(ties)} may be as good." if ties else settled
    read = f"{measured.data}: read layer {layer.layer} of {measured.model}: {accuracy_and_r2(layer)}"
    if len(result.measured) > 1:
        return f"{read}. {may_be}".strip()
    parts = [f"{read}, from {measured.num_samples:,} texts.", may_be, to_settle(ranking), _expected(layer)]
    return " ".join(filter(None, parts))


def _expected(layer: LayerNumbers) -> str:
    what = "R²" if layer.probe_accuracy is None else "accuracy"
    return f"Expected {what} {with_twice(layer)}, twice those at hand." if layer.expected else ""


def _models(result: Prescreen, data: str) -> str:
    return _ahead(result.rank_models(data), f"Models on {data}", "models")


def _data(result: Prescreen, model: str) -> str:
    return _ahead(result.rank_data(model), f"Data sets for {model}", "data sets")


def _ahead(ranking: Ranking, what: str, kind: str) -> str:
    if len(ranking.ranked) < 2:
        return ""
    first = ranking.ranked[0]
    ties = [each.name for each in ranking.ties]
    may_be = (
        f"{listed(ties)} may be as good." if ties else f"No other of the {len(ranking.ranked)} {kind} may be as good."
    )
    # Of data sets accuracies have other chance levels.
    accuracy = f", accuracy {number(first.accuracy)}" if ranking.of == "models" and first.accuracy else ""
    read = f"{what}: {first.name} is ahead, R² {number((first.value, first.se))}{accuracy} at layer {first.layer}."
    return " ".join(filter(None, [read, may_be, to_settle(ranking)]))
