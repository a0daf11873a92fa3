"""One validation epoch's hidden states, streamed into one metric per layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from ntps_lightning.capture import Backbone, Call, Hooks, adapters_disabled, padding_mask
from ntps_lightning.functional import NTPSDetails
from ntps_lightning.functional.moments import check_class_indices
from ntps_lightning.metric import NextTokenPerceptionScore

# Above this many classes, labels whose number nobody declared are more likely token ids than classes.
_MAX_INFERRED_CLASSES = 1000


@dataclass(frozen=True)
class Batch:
    """What a batch says of its samples.

    Args:
        labels: ``(N,)`` class indices, or ``(N,)`` / ``(N, C)`` floating targets.
        attention_mask: ``(N, T)``, or ``None`` to take the one that the model is called with.
        input_ids: ``(N, T)`` ids by which the model's call is told from others, where the batch has any.
        keep: ``(N,)`` bool, false at samples that another rank has already; ``None`` keeps all.

    """

    labels: Tensor
    attention_mask: Tensor | None = None
    input_ids: Tensor | None = None
    keep: Tensor | None = None


class Measurement:
    """Listens to a backbone between :meth:`start` and :meth:`stop`; takes one forward pass per batch.

    Args:
        backbone: the decoder to listen to.
        layers: indices as :meth:`Backbone.resolve` returns them.
        num_classes: number of classes; ``None`` infers it from the labels.
        options: of :class:`NextTokenPerceptionScore`.

    """

    def __init__(
        self, backbone: Backbone, layers: list[int], *, num_classes: int | None, options: dict[str, Any]
    ) -> None:
        self._backbone, self._layers, self._options = backbone, layers, options
        self._declared, self._num_classes, self._num_outputs = num_classes is not None, num_classes or 0, 0
        self._hooks = Hooks(backbone, layers, self._receive, self._accept)
        self._metrics: dict[int, NextTokenPerceptionScore] = {}
        self._batch: Batch | None = None
        self._taken = False
        self._refused: list[str] = []
        self.samples_seen = 0

    def start(self) -> None:
        """Install the hooks."""
        self._hooks.install()

    def stop(self) -> None:
        """Remove the hooks."""
        self._hooks.remove()

    def begin_batch(self, batch: Batch) -> None:
        """Expect the forward pass of ``batch``.

        Raises:
            ValueError: If the labels are not one per sequence, too many to be classes that nobody declared, or floats
                where classes were declared.

        """
        self._batch, self._taken, self._refused = batch, False, []
        if batch.labels.is_floating_point():
            if self._declared:
                raise ValueError(
                    f"labels are {batch.labels.dtype}, which means regression targets, but num_classes ="
                    f" {self._num_classes} was given; give integer class indices, or no num_classes"
                )
            self._num_outputs = batch.labels[0].numel()
            return
        check_class_indices(batch.labels)
        if not self._declared:
            self._num_classes = max(self._num_classes, int(batch.labels.max()) + 1, 2)
            if self._num_classes > _MAX_INFERRED_CLASSES:
                raise ValueError(
                    f"the labels go up to {self._num_classes - 1}, which looks like token ids; if they are classes,"
                    " pass num_classes"
                )

    def end_batch(self) -> None:
        """Close the batch.

        Raises:
            RuntimeError: If none of the model's calls was the batch's own.

        """
        batch, self._batch = self._batch, None
        if batch is None:
            return
        self.samples_seen += len(batch.labels)
        if not self._taken:
            name = type(self._backbone.decoder).__name__
            seen = "; ".join(dict.fromkeys(self._refused)) or (
                "it was not called (is another model used, or does a compiled one ignore hooks?)"
            )
            raise RuntimeError(
                f"no forward pass of {name} over the batch of {len(batch.labels)} labels was seen: {seen}. Pass the"
                " model that is called with `model=`, or where the batch holds one label per sequence with `labels=`"
            )

    def details(self, reduce_max: Callable[[Tensor], Tensor]) -> dict[int, NTPSDetails]:
        """The details of every layer, over all ranks; every rank must call it.

        Args:
            reduce_max: elementwise maximum of a tensor over the ranks.

        """
        self._agree(reduce_max)
        return {layer: self._metrics[layer].details() for layer in self._layers}

    def _accept(self, call: Call) -> bool:
        batch = self._batch
        if batch is None or self._taken:
            return False
        reason = self._why_not(batch, call)
        if reason:
            self._refused.append(reason)
        self._taken = not reason
        return self._taken

    def _why_not(self, batch: Batch, call: Call) -> str | None:
        if call.cached:
            return "a call with past_key_values, as generate() makes, was left out"
        if call.batch_size != len(batch.labels):
            return f"a call over {call.batch_size} sequences was left out"
        if adapters_disabled(self._backbone):
            return "a call with the adapters disabled was left out"
        ids, own = call.input_ids, batch.input_ids
        if ids is not None and own is not None and ids.shape == own.shape and not torch.equal(ids, own):
            return "a call with other input_ids than the batch's was left out"
        return None

    def _receive(self, layer: int, hidden_states: Tensor, call: Call) -> None:
        batch = self._batch
        assert batch is not None
        mask = padding_mask(call) if batch.attention_mask is None else batch.attention_mask
        labels, keep = batch.labels.to(hidden_states.device), batch.keep
        if keep is not None:
            if not keep.any():
                return
            keep = keep.to(hidden_states.device)
            hidden_states, labels, mask = hidden_states[keep], labels[keep], None if mask is None else mask[keep]
        metric = self._metric(layer, hidden_states.shape[-1], hidden_states.device)
        metric.update(hidden_states, labels, mask)

    def _metric(self, layer: int, hidden_size: int, device: torch.device) -> NextTokenPerceptionScore:
        if layer not in self._metrics:
            classes, outputs = (None, self._num_outputs) if self._num_outputs else (self._num_classes, None)
            metric = NextTokenPerceptionScore(hidden_size, classes, num_outputs=outputs, **self._options)
            self._metrics[layer] = metric.to(device)
        metric = self._metrics[layer]
        if not self._num_outputs:
            metric.grow(self._num_classes)
        return metric

    def _agree(self, reduce_max: Callable[[Tensor], Tensor]) -> None:
        """Ranks may have seen other classes, or no batch at all; their states must have one shape."""
        device = next(self._backbone.decoder.parameters()).device
        widths = [self._metrics[layer].hidden_size if layer in self._metrics else 0 for layer in self._layers]
        sizes = torch.tensor([self._num_classes, self._num_outputs, *widths], device=device)
        self._num_classes, self._num_outputs, *widths = reduce_max(sizes).tolist()
        for layer, width in zip(self._layers, widths, strict=True):
            if width == 0:
                raise ValueError(
                    "no validation batch was measured: is dataloader_idx right, and the dataset not empty?"
                )
            self._metric(layer, width, device)


def padding_duplicates(loader: Any, first: int, count: int) -> Tensor | None:
    """Which of a rank's samples are its own, where a DistributedSampler repeats some to even out the ranks.

    Args:
        loader: the rank's dataloader.
        first: how many samples the rank has drawn before these.
        count: how many these are.

    Returns:
        ``(count,)`` bool, or ``None`` where nothing is repeated.

    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    position = sampler.rank + sampler.num_replicas * torch.arange(first, first + count)
    own: Tensor = position < len(sampler.dataset)  # type: ignore[arg-type]
    return own
