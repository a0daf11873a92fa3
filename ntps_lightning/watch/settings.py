"""What is measured in a run, whatever loop drives it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from typing import Any

import torch
from torch import nn
from typing_extensions import Unpack

from ntps_lightning.batch_items import BatchItem, describe
from ntps_lightning.capture.backbone import Backbone, Layers
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.watch.guard import OnError


class SettingsKeywords(ScoreKeywords, total=False):
    """The fields of :class:`Settings` as keywords, for signatures that take them."""

    prefix: str
    num_classes: int | None
    layers: Layers
    attention_mask: BatchItem | None
    tokens: BatchItem | None
    groups: BatchItem | None
    model: nn.Module | str | None
    baseline: bool
    kept: int
    controls: bool
    on_error: OnError
    accumulate_device: str | torch.device | None
    allow_bidirectional: bool


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The options that every loop has; :class:`~ntps_lightning.NTPSCallback` says what each means."""

    prefix: str = "ntps"
    num_classes: int | None = None
    layers: Layers = -1
    labels: BatchItem = "labels"
    attention_mask: BatchItem | None = None
    tokens: BatchItem | None = None
    groups: BatchItem | None = None
    model: nn.Module | str | None = None
    baseline: bool = True
    kept: int = 2048
    controls: bool = False
    on_error: OnError = "warn"
    accumulate_device: torch.device | None = None
    allow_bidirectional: bool = False
    score: ScoreOptions = field(default_factory=ScoreOptions)

    @classmethod
    def of(cls, *, labels: BatchItem, **keywords: Unpack[SettingsKeywords]) -> Settings:
        """Of keywords, those of the score among them.

        Raises:
            TypeError: If one is unknown.
            ValueError: If one is out of range.

        """
        given: dict[str, Any] = dict(keywords)
        score = ScoreOptions(**{each.name: given.pop(each.name) for each in fields(ScoreOptions) if each.name in given})
        device = given.pop("accumulate_device", None)
        where = None if device is None else torch.device(device)
        return cls(labels=labels, accumulate_device=where, score=score, **given)

    @property
    def items(self) -> dict[str, BatchItem | None]:
        """Where a batch holds what a monitor is shown of it."""
        return {
            "labels": self.labels,
            "attention_mask": self.attention_mask,
            "tokens": self.tokens,
            "groups": self.groups,
        }

    @property
    def definition(self) -> dict[str, str]:
        """What the numbers depend on, by name, the same from process to process."""
        layers = self.layers if isinstance(self.layers, (int, str)) else list(self.layers)
        found = {**asdict(self.score), "layers": layers, "tokens": describe(self.tokens), "data": None}
        return {name: str(value) for name, value in found.items()}

    def new_monitor(self, backbone: Backbone) -> NTPSMonitor:
        """A monitor with these options, of a model that is not called."""
        return NTPSMonitor(
            backbone,
            layers=self.layers,
            num_classes=self.num_classes,
            kept=self.kept,
            controls=self.controls,
            accumulate_device=self.accumulate_device,
            **asdict(self.score),
        )
