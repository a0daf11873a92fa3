"""What prescreening says of layers and models, and what it costs."""

import tempfile

import torch

from benchmarks.prescreen.cost import Meter
from benchmarks.prescreen.settings import BUILD, LENGTH, MODELS
from benchmarks.prescreen.texts import same_length, split
from benchmarks.study.training.backbones import FOLDERS, backbone, tokenizer
from ntps_lightning import NextTokenPerceptionScore, NTPSMonitor, prescreen
from ntps_lightning.prescreening import pace

OPTIONS = {"max_length": LENGTH, "dtype": "float32", "device": "cpu", "cache": BUILD / "measured"}


def layers(model: str, data: str, measured: int, tested: int) -> dict:
    """Numbers by layer, and the seconds that they took."""
    pairs = split(data, measured, tested).measured
    found = prescreen({model: FOLDERS[model]()}, {data: pairs}, **OPTIONS).of()
    return {"layers": {layer.layer: numbers(layer) for layer in found.layers}, "seconds": found.seconds}


def numbers(layer) -> dict[str, float]:
    """Those that are compared."""
    return {
        "probe_r2": layer.probe_r2.value,
        "probe_accuracy": layer.probe_accuracy.value,
        "captured_r2": layer.captured_r2[0],
        "score": layer.score,
        "log_me": layer.log_me,
        "h_score": layer.h_score,
        "rankme": layer.rankme,
    }


def choice(data: str, measured: int, tested: int) -> dict:
    """Models in order, the first's lead in accuracy with its paired standard error, and whether the order is settled;
    what was measured for the rows of layers is not measured again."""
    pairs = split(data, measured, tested).measured
    result = prescreen({model: FOLDERS[model]() for model in MODELS}, {data: pairs}, **OPTIONS)
    ranking = result.rank_models(data)
    names = ("name", "layer", "value", "se", "flatters")
    ranked = [{name: getattr(each, name) for name in names} for each in ranking.ranked]
    accuracies = [_accuracy(result.of(each.name, data), each.layer) for each in ranking.ranked]
    lead = accuracies[0].minus(accuracies[1])
    return {"ranked": ranked, "lead": lead.value, "lead_se": lead.se, "settled": ranking.settled}


def _accuracy(measured, index: int):
    return next(layer.probe_accuracy for layer in measured.layers if layer.layer == index)


def cost(model: str, data: str, n: int, texts_a_call: int) -> dict:
    """Of all numbers of all layers of a model in memory."""
    reader, decoder = tokenizer(model), backbone(model)
    pairs = same_length(data, n, reader)
    assert texts_a_call * LENGTH == pace.Pace(torch.device("cpu")).tokens, "prescreening takes another number by itself"
    meter = Meter(decoder)
    meter.watch("gathering", NextTokenPerceptionScore, ["update"])
    meter.watch("estimation", NTPSMonitor, ["compute"])
    with tempfile.TemporaryDirectory() as cache:
        return meter.of(lambda: prescreen((decoder, reader), pairs, max_length=LENGTH, cache=cache))
