"""Measuring on batches of our own, which the model is run over for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_info

from ntps_lightning.batch_items import BatchItem
from ntps_lightning.capture.entry import reshard
from ntps_lightning.capture.module_state import ModuleState
from ntps_lightning.capture.own_pass import Within, own_pass
from ntps_lightning.distributed import rank_and_world_size
from ntps_lightning.side_set import SideBatch, SideSet, make_side_set
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.watch import Watch


@dataclass(frozen=True)
class Place:
    """A rank's place among those that share out a side set.

    Args:
        rank: its share.
        world_size: shares; ranks that split a model over a tensor have the same.
        counts: whether it counts what it sees, or another with the same share does.

    """

    rank: int
    world_size: int
    counts: bool = True


class Side:
    """A labelled side set: what a user gave, and the batches that are made of it once.

    Args:
        data: see :func:`~ntps_lightning.side_set.make_side_set`.
        text: see there.
        tokenizer: see there.
        max_tokens: see there.
        what: what it is called in messages.

    """

    def __init__(self, data: Any, *, text: BatchItem, tokenizer: Any, max_tokens: int, what: str) -> None:
        self._data = data
        self._options: dict[str, Any] = {"text": text, "tokenizer": tokenizer, "max_tokens": max_tokens, "what": what}
        self._set: SideSet | None = None

    def prepare(self, watch: Watch, root: nn.Module) -> None:
        """Make the batches, where there are none yet.

        Raises:
            SetupError: If there is nothing to measure on.

        """
        if self._set is not None:
            return
        items: dict[str, Any] = {
            name: where for name, where in watch.settings.items.items() if name != "attention_mask"
        }
        context = watch.backbone(root).context
        self._set = make_side_set(self._data, max_length=context, **items, **self._options)
        watch.depends_on("data", self._set.digest)
        for remark in self._set.remarks:
            rank_zero_info(f"NTPS: {remark}.")

    def share(self, place: Place) -> list[tuple[SideBatch, bool]]:
        """A rank's batches, as many as any other's, and whether each counts."""
        if self._set is None:
            raise RuntimeError("prepare() comes first")
        return [(batch, each and place.counts) for batch, each in self._set.shard(place.rank, place.world_size)]

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry neither data nor tokenizer, but the batches."""
        return self.__dict__ | {"_data": None, "_options": {}}


def named_sets(data: Any, prefix: str) -> dict[str, Any]:
    """Side sets by the prefix of their keys: one, or the several that a dictionary names."""
    if isinstance(data, Mapping):
        return {f"{prefix}_{name}": each for name, each in data.items()}
    return {prefix: data}


def run_side_set(
    watch: Watch, side: Side, root: nn.Module, caller: nn.Module, within: Within, place: Place | None = None
) -> Listening:
    """Run the model over this rank's share of a side set, in evaluation mode, and leave no trace.

    Every rank comes here. :meth:`Guard.begin` comes first.

    Args:
        watch: measures.
        side: is measured on.
        root: what holds the model.
        caller: what the loop calls, where a strategy has wrapped it.
        within: makes the context that the loop runs its model in.
        place: of this rank, where ranks split a model over a tensor; by default every rank has a share of its own.

    Returns:
        What has listened, to be finished.

    """
    listening = Listening(watch.guard, lambda: watch.new_monitor(root))
    with watch.guard.measuring():
        shares = side.share(place or Place(*rank_and_world_size()))
        entry = watch.entry(root, caller)
        state = ModuleState(root)  # of the pass, which buffers that go on changing are left alone by
        with own_pass(caller, within):
            state.install()
            entry.eval()
            try:
                _show(watch, listening, entry, shares, watch.backbone(root).device_of(0))
            finally:
                reshard(entry)
    return listening


def _show(
    watch: Watch,
    listening: Listening,
    entry: nn.Module,
    shares: list[tuple[SideBatch, bool]],
    device: torch.device,
) -> None:
    """Ranks that share the model come to every call, whatever went wrong with those before."""
    options = {"use_cache": False} if "use_cache" in signature(entry.forward).parameters else {}
    for batch, counts in shares:
        listening.show(batch.shown | {"sample_mask": None if counts else _none_of(batch)})
        with watch.guard.measuring():
            entry(**{name: tensor.to(device) for name, tensor in batch.inputs.items()}, **options)
        listening.close_batch()


def _none_of(batch: SideBatch) -> Tensor:
    return torch.zeros(len(batch.shown["labels"]), dtype=torch.bool)
