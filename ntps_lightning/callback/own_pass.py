"""Whether, and in what, Lightning's model may be called by us."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ntps_lightning.monitor.shards import why_not_exchanged


def why_no_replay(trainer: Any, pl_module: nn.Module) -> str:
    """Why the strategy does not let a model have other weights for a while; empty where it does."""
    model = trainer.strategy.model
    while isinstance(model, DistributedDataParallel) or hasattr(model, "_orig_mod"):
        model = model.module if isinstance(model, DistributedDataParallel) else model._orig_mod
    if model is not pl_module:
        return f"{type(model).__name__} does not let weights be exchanged"
    return why_not_exchanged(pl_module)


@contextmanager
def as_sanity_check(trainer: Any) -> Iterator[None]:
    """A pass of our own is none of the validation's: as the precision has it, and as in a sanity check."""
    stage = trainer.state.stage
    trainer.sanity_checking = True
    try:
        with trainer.precision_plugin.val_step_context():
            yield
    finally:
        trainer.state.stage = stage
