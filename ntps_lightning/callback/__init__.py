"""The score on every validation epoch of a Lightning run."""

from ntps_lightning.callback.callback import NTPSCallback

__all__ = ["NTPSCallback"]
