"""What is measured in a run, whatever loop drives it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields

import torch
from torch import nn

from ntps_lightning.batch_items import BatchItem, describe
from ntps_lightning.capture.backbone import Backbone, Layers
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.monitor import NTPSMonitor
from ntps_lightning.monitor.options import check_counts, read_device
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
class Settings(ScoreOptions):
    """The options that every loop has, those of the score among them: its fields are keywords of
    :class:`~ntps_lightning.NTPSCallback`, which says what each means.

    Raises:
        ValueError: If one is out of range.

    """

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
    accumulate_device: str | torch.device | None = None
    allow_bidirectional: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.prefix:
            raise ValueError("prefix is what the keys start with, and must not be empty")
        check_counts(self.num_classes, self.kept)
        read_device(self.accumulate_device)

    @property
    def score(self) -> ScoreOptions:
        """Those of the score alone."""
        return ScoreOptions(**{each.name: getattr(self, each.name) for each in fields(ScoreOptions)})

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
