"""One validation epoch's hidden states, streamed into one metric per layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.backbone import Backbone, adapters_disabled
from ntps_lightning.batches import Batch
from ntps_lightning.capture import Hooks
from ntps_lightning.distributed import gather, rank_and_world_size
from ntps_lightning.errors import SetupError
from ntps_lightning.functional import NTPSDetails
from ntps_lightning.functional.targets import check_class_indices
from ntps_lightning.memory import check_memory
from ntps_lightning.metric import NextTokenPerceptionScore
from ntps_lightning.sequences import Call, padding_mask, sequence_ids, unmasked_padding, unpack

# Above this many classes, labels whose number nobody declared are more likely token ids than classes.
_MAX_INFERRED_CLASSES = 1000

# The label that PyTorch's losses ignore.
_IGNORED = -100


class Measurement:
    """Listens to a backbone between :meth:`begin_batch` and :meth:`end_batch`; takes one forward pass per batch.

    Args:
        backbone: the decoder to listen to.
        layers: indices as :meth:`Backbone.resolve` returns them.
        num_classes: number of classes; ``None`` infers it from the labels.
        known_classes: number of classes that are known to be there, whatever these labels show.
        options: of :class:`NextTokenPerceptionScore`.
        device: where this rank's part of a result is exchanged with the others'.
        accumulate_device: where the sums are kept; ``None`` is with the hidden states.

    """

    def __init__(
        self,
        backbone: Backbone,
        layers: list[int],
        *,
        num_classes: int | None,
        known_classes: int,
        options: dict[str, Any],
        device: torch.device,
        accumulate_device: torch.device | None,
    ) -> None:
        self._backbone, self._layers, self._options, self._device = backbone, layers, options, device
        self._accumulate_device = accumulate_device
        self._declared, self.num_classes, self._num_outputs = num_classes is not None, num_classes or known_classes, 0
        self._hooks = Hooks(backbone, layers, self._receive, self._accept, self._note)
        self._metrics: dict[int, NextTokenPerceptionScore] = {}
        self._batch: Batch | None = None
        self._taken = False
        self._mask: Tensor | None = None
        self._sequences: Tensor | None = None
        self._refused: list[str] = []
        self._error: Exception | None = None
        self._failed = False
        self.samples_seen = 0

    def stop(self) -> None:
        """Expect no forward pass any more."""
        self._hooks.remove()
        self._batch = None

    def fail(self) -> None:
        """Count nothing any more. It still listens: ranks that share a model must gather its states together."""
        self._failed = True
        self._metrics.clear()

    def begin_batch(self, batch: Batch) -> None:
        """Expect the forward pass of ``batch``.

        Raises:
            SetupError: If the labels are not one class index per sequence, too many to be classes that nobody declared,
                or floats where classes were declared.

        """
        self._batch, self._taken, self._refused, self._error = self._labelled(batch), False, [], None
        self._hooks.install()

    def end_batch(self) -> None:
        """Close the batch.

        Raises:
            SetupError: If none of the model's calls was the batch's own, or it was made in a way that is not supported.
            ValueError: If what was captured cannot be scored.

        """
        batch = self._batch
        if batch is None:
            return
        self.stop()
        self.samples_seen += len(batch.labels)
        if self._failed:
            return
        if self._error is not None:
            raise self._error
        if not self._taken:
            name = type(self._backbone.decoder).__name__
            seen = "; ".join(dict.fromkeys(self._refused)) or "it was not called (is another model used?)"
            raise SetupError(
                f"no forward pass of {name} over the batch of {len(batch.labels)} labels was seen: {seen}. Pass the"
                " model that is called with `model=`, or where the batch holds one label per sequence with `labels=`"
            )

    def check_seen(self, reduce_max: Callable[[Tensor], Tensor]) -> None:
        """Every rank must call it.

        Raises:
            SetupError: If no rank had a batch.

        """
        if not int(reduce_max(torch.tensor(self.samples_seen, device=self._device))):
            raise SetupError("no validation batch was seen: is dataloader_idx right, and the dataset not empty?")

    def details(self, reduce_max: Callable[[Tensor], Tensor], whole_curve: bool) -> dict[int, NTPSDetails]:
        """The details of every layer, over all ranks; every rank must call it, once. Layers are shared out over them.

        Args:
            reduce_max: elementwise maximum of a tensor over the ranks.
            whole_curve: curves over every k for the highest layer; those of others end at the k of the score.

        Raises:
            SetupError: If no rank had a batch.
            ValueError: If a layer cannot be scored.

        """
        self.check_seen(reduce_max)
        self._agree(reduce_max)
        rank, world_size = rank_and_world_size()
        for i, layer in enumerate(self._layers):
            if world_size > 1:
                self._metrics[layer].reduce_(i % world_size)
            if i % world_size != rank:
                del self._metrics[layer]
        parts = gather(self._solve_own(whole_curve))
        found = {layer: details for part in parts for layer, details in part.items()}
        for details in found.values():
            if isinstance(details, str):
                raise ValueError(details)
        return {layer: found[layer] for layer in self._layers}

    def _solve_own(self, whole_curve: bool) -> dict[int, NTPSDetails | str]:
        """What the layers that are left to this rank score, or why they do not: the other ranks wait for either."""
        found: dict[int, NTPSDetails | str] = {}
        for layer, metric in self._metrics.items():
            try:
                found[layer] = metric.details(whole_curve=whole_curve and layer == max(self._layers), sync=False)
            except Exception as error:
                found[layer] = str(error) or repr(error)
        return found

    def _labelled(self, batch: Batch) -> Batch:
        """The batch without samples that have no class; notes what its labels are."""
        labels = batch.labels
        if labels.is_floating_point():
            if self._declared:
                raise SetupError(
                    f"labels are {labels.dtype}, which means regression targets, but num_classes ="
                    f" {self.num_classes} was given; give integer class indices, or no num_classes"
                )
            self._num_outputs = labels.shape[1] if labels.ndim == 2 else 1
            return batch
        try:
            check_class_indices(labels)
        except ValueError as error:
            raise SetupError(str(error)) from error
        labels = labels.cpu()  # the device waits once
        labelled = labels != _IGNORED
        low, high = (int(labels[labelled].min()), int(labels.max())) if labelled.any() else (0, 0)
        if low < 0 or (self._declared and high >= self.num_classes):
            size = self.num_classes if self._declared else "C"
            raise SetupError(
                f"labels must be class indices in [0, {size}), or -100 for none, got values from {low} to {high}"
            )
        if not self._declared:
            self.num_classes = max(self.num_classes, high + 1, 2)
            if self.num_classes > _MAX_INFERRED_CLASSES:
                raise SetupError(
                    f"the labels go up to {self.num_classes - 1}, which looks like token ids; if they are classes,"
                    " pass num_classes"
                )
        if labelled.all():
            return batch
        return replace(batch, keep=labelled if batch.keep is None else labelled & batch.keep)

    def _note(self, error: Exception) -> None:
        """Inside the user's forward pass nothing is raised: the batch's end tells."""
        self._error = self._error or error

    def _accept(self, call: Call) -> bool:
        batch = self._batch
        if batch is None or self._taken or self._error is not None:
            return False
        if batch.attention_mask is not None:
            call = replace(call, attention_mask=batch.attention_mask)
        sequences = sequence_ids(call)
        reason = self._why_not(batch, call, sequences)
        if reason:
            self._refused.append(reason)
            return False
        mask = padding_mask(call) if sequences is None else None
        if mask is not None:
            with torch.inference_mode(False):  # a tensor that tells whether it was changed is read once for all layers
                mask = mask.clone()
        self._mask, self._sequences = mask, sequences
        if self.samples_seen == 0 and sequences is None and unmasked_padding(call, self._backbone.pad_token_id):
            rank_zero_warn(
                "the model is called without an attention_mask, and rows of its input_ids begin or end in pad tokens:"
                " they count as text in the score. Pass the mask to the model, or give `attention_mask=`"
            )
        self._taken = True
        return True

    def _why_not(self, batch: Batch, call: Call, sequences: Tensor | None) -> str | None:
        if call.cached:
            return "a call with past_key_values, as generate() makes, was left out"
        rows = call.shape[0]
        count = rows if sequences is None else int(sequences.max()) + 1
        if count != len(batch.labels):
            packed = f", packed into {rows}," if sequences is not None else ""
            hint = " (packed? their boundaries must be given, as restarting position_ids or cu_seq_lens)"
            return f"a call over {count} sequences{packed} was left out{hint if rows < len(batch.labels) else ''}"
        if adapters_disabled(self._backbone):
            return "a call with the adapters disabled was left out"
        ids = call.input_ids
        if ids is not None:
            own = [t.to(ids.device) for t in batch.input_ids if t.shape == ids.shape]
            if own and not any(torch.equal(ids, t) for t in own):
                return "a call with other input_ids than the batch's was left out"
        return None

    def _receive(self, layer: int, hidden_states: Tensor, call: Call) -> None:
        batch, mask = self._batch, self._mask
        if batch is None or self._failed or self._error is not None:
            return
        if self._sequences is not None:
            hidden_states, mask = unpack(hidden_states, self._sequences)
        labels, keep = batch.labels.to(hidden_states.device), batch.keep
        if keep is not None:
            if not keep.any():
                return
            keep = keep.to(hidden_states.device)
            hidden_states, labels = hidden_states[keep], labels[keep]
            mask = None if mask is None else mask[keep.to(mask.device)]
        self._metric(layer, hidden_states.shape[-1], hidden_states.device).update(hidden_states, labels, mask)

    def _metric(self, layer: int, hidden_size: int, device: torch.device) -> NextTokenPerceptionScore:
        if layer not in self._metrics:
            classes, outputs = (None, self._num_outputs) if self._num_outputs else (self.num_classes, None)
            if not self._metrics and self._backbone.hidden_size is None:
                check_memory(len(self._layers), hidden_size, classes or outputs, self._accumulate_device or device)
            metric = NextTokenPerceptionScore(hidden_size, classes, num_outputs=outputs, **self._options)
            self._metrics[layer] = metric.to(self._accumulate_device or device)
        metric = self._metrics[layer]
        if not self._num_outputs:
            metric.grow(self.num_classes)
        return metric

    def _agree(self, reduce_max: Callable[[Tensor], Tensor]) -> None:
        """Ranks may have seen other classes, or no batch at all; their states must have one shape."""
        widths = [self._metrics[layer].hidden_size if layer in self._metrics else 0 for layer in self._layers]
        sizes = torch.tensor([self.num_classes, self._num_outputs, *widths], device=self._device)
        self.num_classes, self._num_outputs, *widths = reduce_max(sizes).tolist()
        for layer, width in zip(self._layers, widths, strict=True):
            if width == 0:
                raise ValueError("no sample of the validation set has a label, they are all -100")
            self._metric(layer, width, self._device)
