"""What a run has measured, in the TrainerState that checkpoints keep."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch

from ntps_lightning.watch.watch import Watch

# The name of no callback's class: Trainer makes these anew from what is kept, and mixes up two of one class.
_KEY = "ntps_lightning"


def keep(state: Any, watch: Watch) -> None:
    """Into the state, which is saved as JSON."""
    buffer = io.BytesIO()
    torch.save(watch.records.state_dict(), buffer)
    kept = state.stateful_callbacks.setdefault(_KEY, {})
    kept[watch.prefix] = base64.b64encode(buffer.getvalue()).decode()


def go_on(state: Any, watch: Watch) -> None:
    """With what a checkpoint has kept, if it has anything."""
    kept = state.stateful_callbacks.get(_KEY, {}).get(watch.prefix)
    if kept is not None:
        watch.load(torch.load(io.BytesIO(base64.b64decode(kept)), weights_only=True))
