"""One pass of a model over a set of texts, and the numbers of its layers."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ntps_lightning.capture.backbone import Backbone, Layers, find_backbone
from ntps_lightning.capture.entry import NotCallableError, find_entry, sparing
from ntps_lightning.capture.lookahead import ADVICE
from ntps_lightning.capture.module_state import ModuleState
from ntps_lightning.capture.own_pass import own_pass
from ntps_lightning.distributed import rank_and_world_size, together
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import few_samples_warning
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.prescreening.measured import LayerNumbers
from ntps_lightning.prescreening.numbers import layer_numbers
from ntps_lightning.prescreening.pace import Pace
from ntps_lightning.prescreening.progress import shown
from ntps_lightning.prescreening.texts import TextSet
from ntps_lightning.prescreening.tokens import as_seen
from ntps_lightning.side_set import SideBatch, SideSet, join, make_side_set


@dataclass(frozen=True)
class Pass:
    """What a pass has shown.

    Args:
        layers: in ascending order.
        hidden_size: d of the highest.
        num_samples: texts that count.
        num_kept: rows that held-out numbers were read on.
        remarks: what was found in the texts as this model sees them.

    """

    layers: tuple[LayerNumbers, ...]
    hidden_size: int
    num_samples: int
    num_kept: int
    remarks: tuple[str, ...]


def measure_layers(
    model: nn.Module,
    tokenizer: Any,
    texts: TextSet,
    *,
    layers: Layers = "all",
    max_length: int | None = None,
    what: str = "",
) -> Pass:
    """Run a model over texts once, and leave it as it was; every rank comes here, and each sees its share of them.

    Rows that are kept are chosen by :attr:`TextSet.groups`, so that they are of the same texts in the same order for
    every tokenizer, and estimates of two models can be subtracted (:meth:`Estimate.minus`).

    Args:
        model: on the device where it is to run.
        tokenizer: its tokenizer, with or without a padding token.
        texts: the texts.
        layers: see :class:`~ntps_lightning.NTPSMonitor`.
        max_length: tokens after which a text ends; by default, and at most, those that the model takes.
        what: named beside its progress; by default the texts.

    Raises:
        SetupError: If the model cannot be measured: it looks ahead, is of a kind that is not supported, or there is no
            memory for the sums.
        ValueError: If a layer cannot be scored.
        torch.OutOfMemoryError: If there is no memory for a call over a single text.

    """
    with together():
        backbone = _backbone(model)
        entry = _entry(backbone, model)
        side_set = _side_set(texts, tokenizer, backbone, max_length)
        state = ModuleState(model)
    monitor = _monitor(model, layers, texts)
    with together(), own_pass(model):
        state.install()
        entry.eval()
        _show_all(monitor, entry, _share(side_set), backbone.device_of(0), what or texts.name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"NTPS from \d+ samples")  # a remark, once for all layers
        found = monitor.compute(estimators=True)
    numbers = tuple(layer_numbers(layer, details) for layer, details in found.items())
    last = found[max(found)]
    few = few_samples_warning(last)
    return Pass(
        layers=numbers,
        hidden_size=backbone.hidden_size or round(last.num_samples / last.samples_per_dim),
        num_samples=last.num_samples,
        num_kept=last.held_out.num_kept if last.held_out else 0,
        remarks=(*side_set.remarks, *([few] if few else [])),
    )


def _backbone(model: nn.Module) -> Backbone:
    try:
        return find_backbone(model)
    except ValueError as error:
        raise SetupError(str(error)) from error


def _monitor(model: nn.Module, layers: Layers, texts: TextSet) -> NTPSMonitor:
    try:
        return NTPSMonitor(model, layers=layers, num_classes=len(texts.class_names) or None)
    except SetupError as error:
        raise SetupError(str(error).removesuffix(ADVICE)) from error


def _entry(backbone: Backbone, model: nn.Module) -> nn.Module:
    """The decoder, which spares the head that nobody reads."""
    try:
        return find_entry(backbone.decoder, model)
    except NotCallableError as error:
        raise SetupError(f"{type(model).__name__} cannot be called: {error}") from error


def _side_set(texts: TextSet, tokenizer: Any, backbone: Backbone, max_length: int | None) -> SideSet:
    """A batch for each text, the longest first."""
    limits = [limit for limit in (max_length, backbone.context) if limit is not None]
    groups = as_seen(texts, tokenizer, min(limits, default=None)).groups
    rows = [
        {"text": text, "label": label, "group": group}
        for text, label, group in zip(texts.texts, texts.labels, groups, strict=True)
    ]
    found = make_side_set(
        rows,
        groups="group",
        tokenizer=tokenizer,
        max_length=min(limits, default=None),
        max_tokens=1,
        what=texts.name,
    )
    largest = max(int(batch.inputs["input_ids"].max()) for batch in found.batches)
    if backbone.vocab_size is not None and largest >= backbone.vocab_size:
        raise SetupError(
            f"the tokenizer makes token {largest} of {texts.name}, but the model has {backbone.vocab_size}: is it"
            " another model's tokenizer?"
        )
    fewer = len(set(texts.groups)) - len(set(groups))
    if fewer:
        found.remarks.append(
            f"{fewer} of {len(texts)} texts are equal to others for this model alone: a text is left out of a fit"
            " together with these, and numbers are not paired with those of other models"
        )
    return found


def _share(side_set: SideSet) -> list[SideBatch]:
    return [batch for batch, counts in side_set.shard(*rank_and_world_size()) if counts]


def _show_all(
    monitor: NTPSMonitor, entry: nn.Module, batches: list[SideBatch], device: torch.device, what: str
) -> None:
    """From the start again where memory was short while sums were added: what was added by then is not known."""
    pace = Pace(device)
    total = sum(batch.inputs["input_ids"].numel() for batch in batches)
    while True:
        try:
            with shown(what, total) as advance:
                _show(monitor, entry, batches, device, pace, advance)
            return
        except torch.OutOfMemoryError:
            if pace.tokens <= min(batch.inputs["input_ids"].numel() for batch in batches):
                raise
        pace.halve()
        monitor.reset()


def _show(
    monitor: NTPSMonitor, entry: nn.Module, batches: list[SideBatch], device: torch.device, pace: Pace, advance: Any
) -> None:
    begin = 0
    while begin < len(batches):
        end = begin + pace.rows(batches[begin].inputs["input_ids"].shape[1])
        batch = join(batches[begin:end])
        pace.begin(batch.inputs["input_ids"].numel())
        with monitor.batch(**batch.shown):
            _call(entry, batch.inputs, device, pace)
        pace.end()
        advance(sum(each.inputs["input_ids"].numel() for each in batches[begin:end]))
        begin = end


def _call(entry: nn.Module, inputs: dict[str, torch.Tensor], device: torch.device, pace: Pace) -> None:
    """Over the whole batch, or where there is no memory over its halves: the monitor counts each row once."""
    parts = [slice(0, len(inputs["input_ids"]))]
    while parts:
        part = parts.pop(0)
        try:
            entry(**{name: tensor[part].to(device) for name, tensor in inputs.items()}, **sparing(entry))
            continue
        except torch.OutOfMemoryError:
            if part.stop - part.start == 1:
                raise
        pace.halve()
        middle = (part.start + part.stop) // 2
        parts[:0] = [slice(part.start, middle), slice(middle, part.stop)]
