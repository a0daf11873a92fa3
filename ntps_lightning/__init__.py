"""Next Token Perception Score: watch a language model align with your labels while it is finetuned.

Names are loaded where they are first used: the function needs torch alone, the metric torchmetrics, the callback
Lightning.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ntps_lightning.callback import NTPSCallback
    from ntps_lightning.capture.representations import capture_representations
    from ntps_lightning.functional import NTPSDetails, ScoreOptions, next_token_perception_score
    from ntps_lightning.metric import NextTokenPerceptionScore
    from ntps_lightning.monitor import NTPSMonitor
    from ntps_lightning.prescreening.prescreen import prescreen

__all__ = [
    "NTPSCallback",
    "NTPSDetails",
    "NTPSMonitor",
    "NextTokenPerceptionScore",
    "ScoreOptions",
    "capture_representations",
    "next_token_perception_score",
    "prescreen",
]

_HOME = {
    "NTPSCallback": "callback",
    "NTPSDetails": "functional",
    "NTPSMonitor": "monitor",
    "NextTokenPerceptionScore": "metric",
    "ScoreOptions": "functional",
    "capture_representations": "capture.representations",
    "next_token_perception_score": "functional",
    "prescreen": "prescreening.prescreen",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
