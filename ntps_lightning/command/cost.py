"""What a layer takes, and how many there is room for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch

from ntps_lightning.errors import SetupError
from ntps_lightning.memory import MemoryEstimate, scratch_bytes, state_bytes

# Pooled states that a callback keeps of each layer by default.
KEPT = 2048


@dataclass(frozen=True)
class Room:
    """How many layers there is room for.

    Args:
        device: where.
        layers: how many, in a validation; ``None`` where what is free is not known.
        with_baseline: how many in the one that a baseline is measured in as well.

    """

    device: str
    layers: int | None
    with_baseline: int | None


@dataclass
class Cost:
    """What a layer takes, and how many there is room for beside the model.

    Args:
        sums_bytes: float64 sums of a layer, without the d C numbers that C classes add.
        kept_bytes: its kept rows.
        scratch_bytes: what is taken for a while, of one layer at a time.
        rooms: on each device.
        problems: why not even one layer fits.

    """

    sums_bytes: int
    kept_bytes: int
    scratch_bytes: int
    rooms: list[Room] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def cost_of(hidden_size: int, devices: list[str]) -> Cost:
    """What a layer takes before the labels are known, with the callback's defaults.

    Args:
        hidden_size: d.
        devices: where sums could be kept, by name.

    """
    sums = state_bytes(1, hidden_size, 0)
    kept = state_bytes(1, hidden_size, 0, kept=KEPT) - sums
    cost = Cost(sums, kept, scratch_bytes(hidden_size, KEPT))
    for device in devices:
        once = MemoryEstimate(1, hidden_size, 0, torch.device(device), kept=KEPT)
        twice = replace(once, measurements=2)
        cost.rooms.append(Room(device, once.fit, twice.fit))
        try:
            once.check()
        except SetupError as error:
            cost.problems.append(str(error))
    return cost
