"""Candidates in order, how sure that order is, and how many labels would settle it."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.prescreening.joint import Joint, flattery
from ntps_lightning.prescreening.measured import LayerNumbers, Measured, Number

LEVEL = 0.95
# Texts of a set that are read at most: those that a monitor keeps.
KEPT = 2048
# Standard errors that a difference must have to be found at 95%, and in four of five samples.
_WIDE = 1.96 + 0.84
# A choice on the same rows is remarked on where it flatters a number, or a lead, by more than this share of its
# standard error.
_FLATTERS = 0.5


@dataclass(frozen=True)
class Ranked:
    """A candidate in its place.

    Args:
        name: what it is called.
        layer: that was read.
        value: held-out R², by which it is ranked.
        se: its standard error.
        accuracy: at that layer, beside it; see :attr:`LayerNumbers.accuracy`.
        behind: how far it is behind the first, and the standard error of that; of the same texts it is a paired one.
        ranks: from which to which rank it may be; the intervals of all candidates hold together, at 95%.
        may_be_best: whether it is in a set that holds the best one, at 95%.
        flatters: by about how much ``value`` is too high on average, since the layer was chosen on the same rows; of a
            layer, since the first is the highest of all.

    """

    name: str
    layer: int
    value: float
    se: float
    accuracy: Number | None
    behind: Number
    ranks: tuple[int, int]
    may_be_best: bool
    flatters: float


@dataclass(frozen=True)
class Ranking:
    """Candidates, the best first.

    Args:
        of: ``"layers"``, ``"models"`` or ``"data"``.
        ranked: the candidates.
        labels: that the first was read on: of the texts that were kept.
        hardest: which of :attr:`ties` takes most labels to be told from the first; ``None`` where it is settled.
        labels_to_settle: to read on, that would tell these two apart at 95% in four of five samples, two digits of
            them; ``None`` where it is settled, or their numbers or predictions are the same. The difference that it
            goes by is itself uncertain.
        at_hand: whether both were read on so many: two by two the first is ahead, among all candidates not.
        beyond_kept: whether these are more than are kept of a set, however many labels there are.
        remarks: what a reader should know of this order.

    """

    of: str
    ranked: tuple[Ranked, ...]
    labels: int
    hardest: str | None
    labels_to_settle: int | None
    at_hand: bool
    beyond_kept: bool
    remarks: tuple[str, ...] = ()

    @property
    def ties(self) -> tuple[Ranked, ...]:
        """Those besides the first that may be the best."""
        return tuple(each for each in self.ranked[1:] if each.may_be_best)

    @property
    def settled(self) -> bool:
        """Whether the first is the best, at 95%."""
        return not self.ties


@dataclass(frozen=True)
class _Candidate:
    name: str
    layer: LayerNumbers
    rows: Hashable
    num_samples: int
    num_kept: int
    flatters: float

    @property
    def estimate(self) -> Estimate:
        return self.layer.probe_r2

    @property
    def labels(self) -> float:
        """Texts that were kept, with their copies."""
        groups = self.estimate.num_groups
        return self.num_samples * groups / (groups + self.estimate.unseen)


def layer_to_read(measured: Measured) -> LayerNumbers:
    """The layer with the highest R², which is steadier than accuracy; of equal ones the lowest."""
    return max(measured.layers, key=lambda layer: layer.probe_r2.value)


def rank_layers(measured: Measured) -> Ranking:
    """Layers of a model on a data set, by R²."""
    best = layer_to_read(measured)
    by_choice = _flattery(measured)
    candidates = [
        _Candidate(f"layer {layer.layer}", layer, _rows(measured, layer),
                   measured.num_samples, measured.num_kept, by_choice if layer is best else 0.0)
        for layer in measured.layers
    ]  # fmt: skip
    return _rank("layers", candidates)


def rank_models(measured: Sequence[Measured]) -> Ranking:
    """Models, or checkpoints, on one data set, each at its best layer, by R²: of a probe that reads nothing accuracy is
    whatever its ridge makes of the classes' shares.
    """
    return _rank("models", [_at_best_layer(each, each.model) for each in measured])


def rank_data(measured: Sequence[Measured]) -> Ranking:
    """Data sets for one model, each at its best layer, by R²: accuracies have other chance levels."""
    return _rank("data", [_at_best_layer(each, each.data) for each in measured])


def _at_best_layer(measured: Measured, name: str) -> _Candidate:
    layer = layer_to_read(measured)
    sizes = (measured.num_samples, measured.num_kept)
    return _Candidate(name, layer, _rows(measured, layer), *sizes, _flattery(measured))


def _rows(measured: Measured, layer: LayerNumbers) -> Hashable:
    """What is equal where two were read of the same texts."""
    return measured.data_id, measured.num_samples, layer.groups, len(layer.probe_r2.own)


def _flattery(measured: Measured) -> float:
    """Of the highest R²."""
    estimates = [layer.probe_r2 for layer in measured.layers]
    return flattery(Joint.of(estimates, [None] * len(estimates)))


def _rank(of: str, candidates: Sequence[_Candidate]) -> Ranking:
    order = sorted(candidates, key=lambda each: -each.estimate.value)
    joint = Joint.of([each.estimate for each in order], [each.rows for each in order])
    scale = joint.difference_se
    best, ranks = joint.may_be_best(LEVEL), joint.ranks(LEVEL)
    ranked = tuple(
        Ranked(
            name=each.name,
            layer=each.layer.layer,
            value=each.estimate.value,
            se=each.estimate.se,
            accuracy=each.layer.accuracy,
            behind=(order[0].estimate.value - each.estimate.value, float(scale[0, i])),
            ranks=ranks[i],
            may_be_best=best[i],
            flatters=each.flatters,
        )
        for i, each in enumerate(order)
    )
    hardest, labels = _hardest(order, ranked)
    known, pair = math.isfinite(labels), [each for each in (order[0], hardest) if each]
    return Ranking(
        of=of,
        ranked=ranked,
        labels=round(order[0].labels),
        hardest=hardest.name if hardest else None,
        labels_to_settle=two_digits(labels) if known else None,
        at_hand=all(labels <= each.labels for each in pair),
        beyond_kept=known and any(labels * each.num_kept > KEPT * each.labels for each in pair),
        remarks=_remarks(of, order, ranked),
    )


def _hardest(order: Sequence[_Candidate], ranked: Sequence[Ranked]) -> tuple[_Candidate | None, float]:
    """Of those that may be the best, which takes most labels to be told from the first, and how many."""
    ties: list[tuple[_Candidate | None, float]] = [
        (each, _labels_to_tell(order[0], each, place.behind))
        for each, place in zip(order[1:], ranked[1:], strict=True)
        if place.may_be_best
    ]
    return max(ties, key=lambda tie: tie[1], default=(None, math.inf))


def _labels_to_tell(first: _Candidate, other: _Candidate, behind: Number) -> float:
    """Errors shrink with the square root of the number of labels that are read on; infinite where nothing is known."""
    if 0 in behind:
        return math.inf
    difference, se = behind
    if first.rows == other.rows:
        variance = first.labels * se**2
    else:
        variance = first.labels * first.estimate.se**2 + other.labels * other.estimate.se**2
    return variance * (_WIDE / difference) ** 2


def two_digits(count: float) -> int:
    """Rounded up to two digits."""
    scale: int = 10 ** max(0, math.ceil(math.log10(count)) - 2) if count > 1 else 1
    return math.ceil(count / scale) * scale


def _remarks(of: str, order: Sequence[_Candidate], ranked: Sequence[Ranked]) -> tuple[str, ...]:
    if of == "models":
        return (*_unpaired(order), *_flattered_leads(ranked))
    if of == "data":
        return _flattered_leads(ranked)
    return tuple(
        f"{each.name}: its number may be about {each.flatters:.3f} too high (its standard error is {each.se:.3f}),"
        " since the layer was chosen on the same texts"
        for each in ranked
        if each.flatters > _FLATTERS * each.se
    )


def _flattered_leads(ranked: Sequence[Ranked]) -> tuple[str, ...]:
    """Where layers were chosen among more, or noisier, ones."""
    first = ranked[0]
    found = []
    for each in ranked[1:]:
        too_far = first.flatters - each.flatters
        if abs(too_far) > _FLATTERS * each.behind[1]:
            found.append(
                f"{first.name} may be about {abs(too_far):.3f} too {'far' if too_far > 0 else 'little'} ahead of"
                f" {each.name} (the standard error of that is {each.behind[1]:.3f}), since layers were"
                " chosen on the texts that they are read on"
            )
    return tuple(found)


def _unpaired(order: Sequence[_Candidate]) -> tuple[str, ...]:
    first = order[0]
    others = [each.name for each in order if each.rows != first.rows]
    if not others:
        return ()
    return (
        f"{', '.join(others)}: not read on the same texts as {first.name}, since tokenizers tell other texts apart;"
        " the difference has the errors of both, as if they were independent",
    )
