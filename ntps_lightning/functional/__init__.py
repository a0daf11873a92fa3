"""Tensors in, tensors out; imports torch, what torch itself depends on, and the standard library.

METHOD is docs/METHOD.md, which derives every formula; numbers are those of its equations.
"""

from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.options import ScoreOptions
from ntps_lightning.functional.packed_batch import PackedBatch, pack_batch
from ntps_lightning.functional.score import next_token_perception_score, score_details

__all__ = [
    "NTPSDetails",
    "PackedBatch",
    "ScoreOptions",
    "next_token_perception_score",
    "pack_batch",
    "score_details",
]
