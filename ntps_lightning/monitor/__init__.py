"""One model, chosen layers, labelled batches, any loop."""

from ntps_lightning.monitor.monitor import NTPSMonitor

__all__ = ["NTPSMonitor"]
