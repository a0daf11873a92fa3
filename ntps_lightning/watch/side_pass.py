"""Measuring on batches of our own, which the model is run over for nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics.utilities import rank_zero_info

from ntps_lightning.batch_items import BatchItem
from ntps_lightning.capture.entry import reshard, sparing
from ntps_lightning.capture.module_state import ModuleState
from ntps_lightning.capture.own_pass import Within, own_pass
from ntps_lightning.distributed import rank_and_world_size, together
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.side_set import Rows, SideBatch, SideSet, make_side_set
from ntps_lightning.watch.listening import Listening
from ntps_lightning.watch.settings import Settings
from ntps_lightning.watch.watch import Watch

# A labelled side set, or several by name.
Data = Rows | list[Any] | Mapping[str, Rows | list[Any]]

# What the numbers depend on, of those that are measured on one.
OF_A_SIDE_SET = {"data": "side set"}
_COLUMNS = {"text", "label", "labels", "messages", "input_ids"}


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
        """Make the batches, where there are none yet; every rank comes here.

        Raises:
            SetupError: If there is nothing to measure on.

        """
        if self._set is not None:
            return
        with together():
            made = self._made(watch.settings, watch.backbone(root).context)
        self._set = made
        self._data, self._options = None, {}  # they are let go
        watch.depends_on("digest", made.digest)
        for remark in made.remarks:
            rank_zero_info(f"NTPS: {remark}.")

    def _made(self, settings: Settings, context: int | None) -> SideSet:
        if settings.attention_mask is not None:
            raise SetupError(
                "attention_mask= says where a batch that is listened to holds its mask; the batches of a side set"
                " (data=...) hold theirs under 'attention_mask'"
            )
        items: dict[str, Any] = settings.items
        del items["attention_mask"]
        return make_side_set(self._data, max_length=context, **items, **self._options)

    def share(self, place: Place) -> list[tuple[SideBatch, bool]]:
        """A rank's batches, as many as any other's, and whether each counts."""
        if self._set is None:
            raise RuntimeError("prepare() comes first")
        return [(batch, each and place.counts) for batch, each in self._set.shard(place.rank, place.world_size)]


def named_sets(data: Any, prefix: str) -> dict[str, Any]:
    """Side sets by the prefix of their keys: one, or the several that a dictionary names."""
    if not isinstance(data, Mapping):
        return {prefix: data}
    if not data or data.keys() & _COLUMNS:
        raise SetupError(
            f"data={{...}} names several sets, each with its rows; got the names {sorted(map(str, data))}, which are"
            " none, or columns: give rows, such as [{'text': ..., 'label': ...}, ...]"
        )
    return {f"{prefix}_{name}": each for name, each in data.items()}


def measure_side_set(
    watch: Watch,
    side: Side,
    root: nn.Module,
    caller: nn.Module,
    within: Within,
    place: Place | None = None,
    *,
    whole_curve: bool = False,
) -> tuple[Listening, dict[int, NTPSDetails]]:
    """Run the model over this rank's share of a side set, in evaluation mode, and leave no trace.

    Every rank comes here. :meth:`Guard.begin` comes first.

    Args:
        watch: measures.
        side: is measured on.
        root: what holds the model.
        caller: what the loop calls, where a strategy has wrapped it.
        within: makes the context that the loop runs its model in.
        place: of this rank, where ranks split a model over a tensor; by default every rank has a share of its own.
        whole_curve: see :meth:`NTPSMonitor.compute`.

    Returns:
        What has listened, and the details of every layer; nothing where any rank has failed.

    """
    listening = Listening(watch.guard, lambda: watch.tried_monitor(root, caller, within))
    with watch.guard.measuring():
        with together():
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
    found = listening.finish(whole_curve=whole_curve)
    listening.stop()
    return listening, found


def _show(
    watch: Watch,
    listening: Listening,
    entry: nn.Module,
    shares: list[tuple[SideBatch, bool]],
    device: torch.device,
) -> None:
    """Ranks that share the model come to every call, whatever went wrong with those before."""
    options = sparing(entry)
    for batch, counts in shares:
        listening.show(batch.shown | {"sample_mask": None if counts else _none_of(batch)})
        with watch.guard.measuring():
            entry(**{name: tensor.to(device) for name, tensor in batch.inputs.items()}, **options)
        listening.close_batch()


def _none_of(batch: SideBatch) -> Tensor:
    return torch.zeros(len(batch.shown["labels"]), dtype=torch.bool)
