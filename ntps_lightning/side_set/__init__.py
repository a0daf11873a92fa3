"""A small labelled set, as the batches that a model is shown again and again: made once, for any loop."""

from ntps_lightning.side_set.batches import SideBatch, join
from ntps_lightning.side_set.side_set import SideSet, make_side_set
from ntps_lightning.side_set.taking import Rows

__all__ = ["Rows", "SideBatch", "SideSet", "join", "make_side_set"]
