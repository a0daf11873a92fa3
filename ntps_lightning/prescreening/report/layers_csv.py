"""A row a layer, as CSV."""

from __future__ import annotations

import csv
import io

from ntps_lightning.prescreening.result import Prescreen
from ntps_lightning.prescreening.table import layer_rows


def as_csv(result: Prescreen) -> str:
    """All digits; an empty cell where there is no number."""
    rows = layer_rows(result.measured)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
