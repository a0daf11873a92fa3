"""Pure tensor mathematics; imports torch alone."""

from ntps_lightning.functional.score import NTPSDetails, next_token_perception_score

__all__ = ["NTPSDetails", "next_token_perception_score"]
