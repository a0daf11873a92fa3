"""Next Token Perception Score for PyTorch Lightning."""

from ntps_lightning.callback import NTPSCallback
from ntps_lightning.capture import capture_representations
from ntps_lightning.functional import NTPSDetails, next_token_perception_score
from ntps_lightning.metric import NextTokenPerceptionScore

__all__ = [
    "NTPSCallback",
    "NTPSDetails",
    "NextTokenPerceptionScore",
    "capture_representations",
    "next_token_perception_score",
]
