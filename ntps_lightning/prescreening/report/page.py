"""What a report says, before it has a form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ntps_lightning.prescreening.measured import LayerNumbers, Measured, Number
from ntps_lightning.prescreening.ranking import Ranking, layer_to_read
from ntps_lightning.prescreening.report.words import CAVEATS, answers, labels_cell, listed, number, spans, with_twice
from ntps_lightning.prescreening.result import Prescreen


@dataclass(frozen=True)
class Table:
    """Text in rows.

    Args:
        title: what it is called.
        columns: their names.
        rows: as many cells each.
        strong: indices of the rows to point out.

    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: tuple[int, ...] = ()


@dataclass(frozen=True)
class Page:
    """The report.

    Args:
        title: its own.
        answers: sentences.
        summary: a row for each model on each data set.
        rankings: models by data set and data sets by model, where there are several.
        layers: one table for each model on each data set.
        remarks: what a reader should know of the data, the models and the numbers.
        caveats: how to read the numbers.
        settings: with which was measured.
        passes: of each model over each data set, with what they took.
        versions: of packages.

    """

    title: str
    answers: tuple[str, ...]
    summary: Table
    rankings: tuple[Table, ...]
    layers: tuple[Table, ...]
    remarks: tuple[str, ...]
    caveats: tuple[str, ...]
    settings: Table
    passes: Table
    versions: Table


def page_of(result: Prescreen) -> Page:
    """The report of a result."""
    rankings = rankings_of(result)
    return Page(
        title="Prescreening: what a probe reads before any finetuning",
        answers=tuple(answers(result)),
        summary=_summary(result),
        rankings=tuple(_ranking(title, ranking) for title, ranking in rankings),
        layers=tuple(_layers(each) for each in result.measured),
        remarks=tuple(_remarks(result)),
        caveats=CAVEATS,
        settings=_plain("Settings", "setting", result.settings.items()),
        passes=_passes(result.measured),
        versions=_plain("Versions", "package", result.versions.items()),
    )


def rankings_of(result: Prescreen) -> list[tuple[str, Ranking]]:
    """Of models by data set and of data sets by model, where there are several."""
    models = [(f"Models on {data}", result.rank_models(data)) for data in result.data]
    data = [(f"Data sets for {model}", result.rank_data(model)) for model in result.models]
    return [(title, ranking) for title, ranking in models + data if len(ranking.ranked) > 1]


def _summary(result: Prescreen) -> Table:
    """Without a column for the model where there is one."""
    several = len(result.models) > 1
    title = "Which layer to read" if several else f"Which layer of {result.models[0]} to read"
    columns = (
        "data",
        *(("model",) if several else ()),
        "layer",
        "or",
        "accuracy",
        "R²",
        "texts",
        "to settle",
        "with more labels",
    )
    by_data = [each for data in result.data for each in result.measured if each.data == data]
    rows = tuple(_pair(result, each, several) for each in by_data)
    return Table(title, columns, rows)


def _pair(result: Prescreen, measured: Measured, several: bool) -> tuple[str, ...]:
    ranking = result.rank_layers(measured.model, measured.data)
    layer = layer_to_read(measured)
    return (
        measured.data,
        *((measured.model,) if several else ()),
        str(layer.layer),
        spans([each.layer for each in ranking.ties]) if ranking.ties else "-",
        _or_dash(layer.accuracy),
        number((layer.probe_r2.value, layer.probe_r2.se)),
        f"{measured.num_samples:,}",
        labels_cell(ranking),
        with_twice(layer) or "-",
    )


def _ranking(title: str, ranking: Ranking) -> Table:
    # Of data sets accuracies have other chance levels.
    classes = ranking.of == "models" and any(each.accuracy is not None for each in ranking.ranked)
    rows = tuple(
        (
            _span(each.ranks),
            each.name,
            str(each.layer),
            number((each.value, each.se)),
            *((_or_dash(each.accuracy),) if classes else ()),
            number(each.behind) if each.behind[1] else "-",
            "yes" if each.may_be_best else "no",
        )
        for each in ranking.ranked
    )
    best = tuple(i for i, each in enumerate(ranking.ranked) if each.may_be_best)
    columns = ("rank", "name", "layer", "R²", *(("accuracy",) if classes else ()))
    return Table(title, (*columns, "behind the first", "may be the best"), rows, best)


def _or_dash(value: Number | None) -> str:
    return "-" if value is None else number(value)


def _span(ranks: tuple[int, int]) -> str:
    low, high = ranks
    return str(low) if low == high else f"{low} to {high}"


def _layers(measured: Measured) -> Table:
    classes = measured.layers[0].probe_accuracy is not None
    columns = ("layer", *(("accuracy",) if classes else ()), "probe R²", "captured R²", "principal R²", "score")
    columns += ("null", "lift", "k", "RankMe", *(("H-score",) if classes else ()), "LogME", "remarks")
    best = measured.layers.index(layer_to_read(measured))
    rows = tuple(_layer(layer) for layer in measured.layers)
    return Table(f"All layers: {measured.model} on {measured.data}", columns, rows, (best,))


def _layer(layer: LayerNumbers) -> tuple[str, ...]:
    classes, h_score = layer.probe_accuracy is not None, layer.h_score
    return (
        str(layer.layer),
        *((_or_dash(layer.accuracy),) if classes else ()),
        number((layer.probe_r2.value, layer.probe_r2.se)),
        number(layer.captured_r2),
        number(layer.principal_r2),
        f"{layer.score:.4f}",
        f"{layer.null:.4f}",
        f"{layer.lift:.4f}",
        str(layer.k),
        f"{layer.rankme:.1f}",
        *(("-" if h_score is None else f"{h_score:.3f}",) if classes else ()),
        f"{layer.log_me:.4f}",
        "; ".join(layer.remarks) or "-",
    )


def _remarks(result: Prescreen) -> list[str]:
    """Each once, with all that it is of. Those of single layers stand in their tables; here are the read one's."""
    found: dict[str, list[str]] = {}
    for each in result.measured:
        where = each.data if len(result.models) == 1 else f"{each.data}, {each.model}"
        layer = layer_to_read(each)
        everywhere = set.intersection(*(set(other.remarks) for other in each.layers))
        for remark in each.remarks:
            found.setdefault(remark, []).append(where)
        for remark in layer.remarks:
            of = where if remark in everywhere else f"{where} (layer {layer.layer})"
            found.setdefault(remark, []).append(of)
        for remark in result.rank_layers(each.model, each.data).remarks:
            found.setdefault(remark, []).append(where)
    for title, ranking in rankings_of(result):
        for remark in ranking.remarks:
            found.setdefault(remark, []).append(title)
    return [*result.remarks, *(f"{listed(of)}: {remark}" for remark, of in found.items())]


def _passes(measured: Sequence[Measured]) -> Table:
    columns = ("model", "data", "texts", "read on", "dimensions", "seconds")
    rows = tuple(
        (
            each.model,
            each.data,
            f"{each.num_samples:,}",
            f"{each.num_kept:,}",
            f"{each.hidden_size:,}",
            f"{each.seconds:.1f}",
        )
        for each in measured
    )
    return Table("Passes", columns, rows)


def _plain(title: str, what: str, items: Iterable[tuple[str, object]]) -> Table:
    rows = tuple((str(name), _said(value)) for name, value in items)
    return Table(title, (what, "value"), rows)


def _said(value: object) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)
