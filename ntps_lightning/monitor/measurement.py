"""What the batches of a measurement add up to: one metric a layer, and how ranks come to the same details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.capture.backbone import Backbone
from ntps_lightning.distributed import ELSEWHERE, gather, rank_and_world_size, together
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.options import ScoreOptions
from ntps_lightning.memory import MemoryEstimate
from ntps_lightning.metric import NextTokenPerceptionScore
from ntps_lightning.monitor.labels import LabelKind
from ntps_lightning.monitor.sample_ids import SamplesSeen
from ntps_lightning.monitor.samples import Samples

# A share of samples that two ranks have in common which texts that occur twice do not explain.
_MANY = 0.2


@dataclass(frozen=True)
class _Shown:
    """What a rank shows the others of its part of a measurement."""

    failed: bool
    seen: int
    counted: SamplesSeen
    without_tokens: int
    num_classes: int
    num_outputs: int
    names: tuple[str, ...]
    hidden_sizes: tuple[int, ...]


class Measurement:
    """Sums over the samples of some layers.

    Args:
        layers: indices as :meth:`Backbone.resolve` returns them.
        labels: what the labels are, as far as is known.
        options: of the score.
        kept: rows that each layer keeps for held-out numbers.
        controls: also measure the directions without order.
        accumulate_device: where the sums are kept; ``None`` is with the hidden states.

    Attributes:
        remarks: what a user should be told once of the samples, by what it is about, once :meth:`details` has returned.
        fault: why this cannot be scored any more; empty while it can.

    """

    def __init__(
        self,
        layers: list[int],
        labels: LabelKind,
        options: ScoreOptions,
        kept: int,
        controls: bool,
        accumulate_device: torch.device | None,
    ) -> None:
        self.layers = layers
        self.fault = ""
        self.remarks: dict[str, str] = {}
        self._without_tokens = 0
        self._seen = 0
        self._counted = SamplesSeen()
        self._names: list[str] = []  # the words that classes of the metrics stand for
        self._labels = labels
        self._options = options
        self._kept = kept
        self._controls = controls
        self._accumulate_device = accumulate_device
        self._metrics: dict[int, NextTokenPerceptionScore] = {}

    @property
    def samples_seen(self) -> int:
        """Samples of the batches so far, whether they have a label or not."""
        return self._seen

    def make_room(self, backbone: Backbone) -> None:
        """Before a forward pass: a metric for every layer whose hidden size the model declares, and for every class.

        Raises:
            SetupError: If there is no memory for them.

        """
        if self.fault:
            return
        if not self._metrics and backbone.hidden_size is not None:
            self._check_memory(backbone.hidden_size, backbone.device_of(self.layers[-1]))
            for layer in self.layers:
                self._add_metric(layer, backbone.hidden_size, backbone.device_of(layer))
        for metric in self._metrics.values():
            self._grow(metric)

    def fits(self, layer: int, hidden_states: Tensor) -> bool:
        """Whether there is a metric for these hidden states; once it holds sums, refusing others is its own affair."""
        metric = self._metrics.get(layer)
        return metric is not None and (metric.update_called or metric.hidden_size == hidden_states.shape[-1])

    def make_fit(self, layer: int, hidden_states: Tensor) -> None:
        """After a forward pass: a metric for a layer whose hidden size only the pass has told.

        Raises:
            SetupError: If there is no memory for it and its like.

        """
        if not self._metrics:
            self._check_memory(hidden_states.shape[-1], hidden_states.device)
        self._add_metric(layer, hidden_states.shape[-1], hidden_states.device)

    def add(self, layer: int, hidden_states: Tensor, samples: Samples) -> None:
        """Add a layer's ``(N, T, d)`` hidden states of a batch."""
        if samples.sequences is not None:
            hidden_states = samples.sequences.rows(hidden_states)
        if samples.mask is not None:
            hidden_states = hidden_states[samples.mask.to(hidden_states.device)]
        metric = self._metrics[layer]
        if not metric.update_called and self._accumulate_device is None and metric.device != hidden_states.device:
            with torch.inference_mode(False):
                metric.to(hidden_states.device)  # weights that are offloaded do not tell where states will be
        ids, groups = samples.counting(samples.ids), samples.counting(samples.groups)
        try:
            metric.update(hidden_states, samples.labels, samples.packed, ids, groups)
        except ValueError as error:
            raise type(error)(self._named(layer, error)) from error

    def count(self, seen: int, calls: Sequence[Samples]) -> None:
        """Count the samples of a batch, and those of the calls that were its own."""
        self._seen += seen
        for samples in calls:
            self._names = list(self._labels.names)
            self._counted = self._counted.add(len(samples.labels), samples.counting(samples.ids))
            self._without_tokens += samples.without_tokens

    def fail(self, reason: str) -> None:
        """Nothing that follows can be scored; the sums are let go. The first reason stays."""
        self.fault = self.fault or reason
        self._metrics.clear()

    def check_seen(self) -> None:
        """Compare with the other ranks; every rank must call it.

        Raises:
            SetupError: On every rank, if none had a batch.
            ValueError: On every rank, if one has failed.

        """
        ranks = gather(self._shown())
        with together():
            self._learn_from(ranks)

    def details(self, *, whole_curve: bool, estimators: bool = False) -> dict[int, NTPSDetails]:
        """The details of every layer, over all ranks, which share out the layers; every rank must call it, once.

        Args:
            whole_curve: curves over every k for the highest layer; those of others end at the k of the score.
            estimators: also learning curves, RankMe, H-score and LogME, of every layer.

        Raises:
            SetupError: On every rank, if none had a batch.
            ValueError: On every rank, if one has failed, no sample counts or a layer cannot be scored.

        """
        ranks = gather(self._shown())
        try:
            with together():
                self._make_alike(ranks)
            self._share_out()
        except Exception as error:  # sums that were reduced must not be again
            self.fail(str(error) or repr(error))
            raise
        parts = gather(self._solve_own(whole_curve, estimators))
        found = {layer: details for part in parts for layer, details in part.items()}
        for details in found.values():
            if isinstance(details, str):
                raise ValueError(details)
        return {layer: found[layer] for layer in self.layers}

    def _share_out(self) -> None:
        """Each layer's sums to the rank that solves it."""
        rank, world_size = rank_and_world_size()
        for i, layer in enumerate(self.layers):
            if world_size > 1:
                self._metrics[layer].reduce_(i % world_size)
            if i % world_size != rank:
                del self._metrics[layer]

    def _make_alike(self, ranks: list[_Shown]) -> None:
        """Sums of the same shapes on every rank, that count each sample once; waits for no other."""
        self._learn_from(ranks)
        if not any(rank.counted.count for rank in ranks):
            raise ValueError(
                "no sample counts: the labels are all -100, every sample is masked, or none has a token that `tokens=`"
                " chooses"
            )
        self._drop_copies(ranks)
        self._give_one_shape([max(sizes) for sizes in zip(*(rank.hidden_sizes for rank in ranks), strict=True)])

    def _solve_own(self, whole_curve: bool, estimators: bool) -> dict[int, Any]:
        """What the layers that are left to this rank score, or why they do not: the other ranks wait for either."""
        found: dict[int, NTPSDetails | str] = {}
        for layer, metric in self._metrics.items():
            try:
                whole = whole_curve and layer == max(self.layers)
                found[layer] = metric.details(whole_curve=whole, sync=False, estimators=estimators)
            except Exception as error:
                found[layer] = self._named(layer, error)
        return found

    def _named(self, layer: int, error: Exception) -> str:
        """What went wrong, and in which of several layers."""
        said = str(error) or repr(error)
        return said if len(self.layers) == 1 else f"layer {layer}: {said}"

    def _shown(self) -> _Shown:
        updated = {layer: metric for layer, metric in self._metrics.items() if metric.update_called}
        return _Shown(
            failed=bool(self.fault),
            seen=self._seen,
            counted=self._counted,
            without_tokens=self._without_tokens,
            num_classes=self._labels.num_classes,
            num_outputs=self._labels.num_outputs,
            names=tuple(self._names),
            hidden_sizes=tuple(updated[layer].hidden_size if layer in updated else 0 for layer in self.layers),
        )

    def _learn_from(self, ranks: list[_Shown]) -> None:
        """What labels are, as the ranks with the most have seen it; every rank raises what the others do."""
        if any(rank.failed for rank in ranks):
            raise ValueError(self.fault or ELSEWHERE)
        kind = self._labels
        kind.agree_on_names([rank.names for rank in ranks])
        places = [kind.names.index(name) for name in self._names]
        self._names = list(kind.names)
        kind.num_classes = max(len(kind.names), *(rank.num_classes for rank in ranks))
        kind.num_outputs = max(rank.num_outputs for rank in ranks)
        for metric in self._metrics.values() if places else ():
            self._grow(metric)
            metric.move_classes(places)
        if not any(rank.seen for rank in ranks):
            raise SetupError(
                "no batch was seen: is the data set empty, or is another dataloader meant (`dataloader_idx=`)?"
            )

    def _drop_copies(self, ranks: list[_Shown]) -> None:
        """Ranks that saw the samples of one before them count for nothing."""
        own, _ = rank_and_world_size()
        copies = [i for i, rank in enumerate(ranks) if any(rank.counted.same_as(other.counted) for other in ranks[:i])]
        if own in copies:
            with torch.inference_mode(False):
                for metric in self._metrics.values():
                    metric.reset()
        counted = [rank.counted for i, rank in enumerate(ranks) if i not in copies]
        without_tokens = sum(rank.without_tokens for i, rank in enumerate(ranks) if i not in copies)
        if without_tokens:
            self.remarks["without tokens"] = (
                f"{without_tokens} samples have no token that `tokens=` chooses, and are left out of the score. This is"
                " said once"
            )
        shared = max((a.shared_with(b) for i, a in enumerate(counted) for b in counted[:i]), default=0.0)
        if copies:
            self.remarks["copies"] = (
                f"{len(copies) + 1} ranks saw the same {ranks[copies[0]].counted.count} samples (is an IterableDataset"
                " not sharded?): they are counted once"
            )
        elif shared > _MANY:
            self.remarks["copies"] = (
                f"about {shared:.0%} of the samples were seen on more than one rank (is an IterableDataset not"
                " sharded?): they are counted as often, and n is too high"
            )

    def _give_one_shape(self, hidden_sizes: list[int]) -> None:
        """Ranks may have seen fewer classes than others, or no batch at all."""
        for layer, hidden_size in zip(self.layers, hidden_sizes, strict=True):
            if not hidden_size:
                raise ValueError(f"layer {layer} was seen in no forward pass; name others with `layers=`")
            if layer not in self._metrics or self._metrics[layer].hidden_size != hidden_size:
                if not self._metrics:
                    self._check_memory(hidden_size, torch.device("cpu"))
                self._add_metric(layer, hidden_size, torch.device("cpu"))
            self._grow(self._metrics[layer])

    def _add_metric(self, layer: int, hidden_size: int, device: torch.device) -> None:
        outputs = self._labels.num_outputs
        with torch.inference_mode(False):  # sums made inside it could not be added to outside
            metric = NextTokenPerceptionScore(
                hidden_size,
                None if outputs else self._labels.num_classes,
                num_outputs=outputs or None,
                kept=self._kept,
                controls=self._controls,
                **asdict(self._options),
            )
            self._metrics[layer] = metric.to(self._accumulate_device or device)

    def _grow(self, metric: NextTokenPerceptionScore) -> None:
        if not self._labels.num_outputs:
            with torch.inference_mode(False):
                metric.grow(self._labels.num_classes)

    def _check_memory(self, hidden_size: int, device: torch.device) -> None:
        kind, where = self._labels, self._accumulate_device or device
        classes = not kind.num_outputs
        MemoryEstimate(
            len(self.layers), hidden_size, kind.width, where, classes, self._kept, controls=self._controls
        ).check()
