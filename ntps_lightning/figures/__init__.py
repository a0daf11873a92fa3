"""Pictures, and how loggers take them; matplotlib is needed here alone."""

from ntps_lightning.figures.curves import curve_figure
from ntps_lightning.figures.layers import Curve, Panel, layer_figure
from ntps_lightning.figures.loggers import log_figure

__all__ = ["Curve", "Panel", "curve_figure", "layer_figure", "log_figure"]
