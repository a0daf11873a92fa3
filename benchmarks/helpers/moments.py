"""Moments to add batches to, and to keep."""

import torch

from ntps_lightning.functional.moments import Moments, moment_shapes


def empty_moments(d, num_classes=5, device="cpu"):
    """Sums over no samples."""
    shapes = moment_shapes(d, num_classes).items()
    return Moments(**{name: torch.zeros(shape, dtype=torch.float64, device=device) for name, shape in shapes})


def on_cpu(moments):
    """The same sums, for keeping."""
    return Moments(**{name: value.cpu() for name, value in vars(moments).items()})
