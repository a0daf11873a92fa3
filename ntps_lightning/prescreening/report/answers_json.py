"""The answers and numbers as JSON, for programs: without the influences of rows, which the file of the result holds."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from ntps_lightning.prescreening.ranking import Ranking
from ntps_lightning.prescreening.report.page import page_of
from ntps_lightning.prescreening.result import Prescreen
from ntps_lightning.prescreening.state import plain
from ntps_lightning.prescreening.table import layer_rows


def as_json(result: Prescreen) -> str:
    """Rankings, every layer, remarks, settings and versions, in ASCII, whatever is written to."""
    page = page_of(result)
    found = {
        "answers": page.answers,
        "best_layers": [
            {"model": each.model, "data": each.data, **_ranking(result.rank_layers(each.model, each.data))}
            for each in result.measured
        ],
        "models": [{"data": data, **_ranking(result.rank_models(data))} for data in result.data],
        "data": [{"model": model, **_ranking(result.rank_data(model))} for model in result.models],
        "layers": layer_rows(result.measured),
        "remarks": page.remarks,
        "caveats": page.caveats,
        "settings": result.settings,
        "versions": result.versions,
    }
    return json.dumps(plain(found), indent=2, allow_nan=False)


def _ranking(ranking: Ranking) -> dict[str, Any]:
    first = ranking.ranked[0]
    return {"best": first.name, "layer": first.layer, "settled": ranking.settled, **asdict(ranking)}
