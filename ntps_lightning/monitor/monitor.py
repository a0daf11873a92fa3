"""The score of one model's layers, from labelled batches, in any loop."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ntps_lightning.capture.backbone import Backbone, Layers, find_backbone
from ntps_lightning.capture.lookahead import refuse_lookahead
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.memory import MemoryEstimate
from ntps_lightning.monitor.batch import MonitoredBatch
from ntps_lightning.monitor.labels import LabelKind
from ntps_lightning.monitor.measurement import Measurement


class NTPSMonitor:
    """Scores chosen layers of one model from its own forward passes over labelled batches, whoever makes them.

    Between :meth:`batch` and the end of its block hooks listen to the model, and take the one call that is the batch's
    own: calls with a key-value cache, with adapters disabled, over another number of sequences or over other
    ``input_ids`` are left out. With ``torch.distributed`` every rank makes the monitor, shows its own batches, and
    takes part in :meth:`compute`; under NCCL each has set its device (:func:`torch.cuda.set_device`).

    A model whose states depend on later tokens, as those of BERT do, is refused: the model is called once, over four
    short rows of tokens, and left as it was.

    Args:
        model: a Hugging Face causal LM, sequence classifier or bare decoder, inside PEFT or any other module; a module
            of plain PyTorch that returns ``(N, T, d)`` hidden states; or what
            :func:`~ntps_lightning.capture.backbone.find_backbone` found, which is not called.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, -1 the
            states after the final norm.
        num_classes: number of classes; by default the largest label seen plus one.
        accumulate_device: where the sums are kept, such as ``"cpu"`` to spare a GPU's memory; by default where the
            hidden states are.
        allow_bidirectional: score a model that looks ahead all the same; it is not called then.
        options: ``k``, ``ridge``, ``center``, ``orthonormal``, ``pooling`` and ``precision``, see
            :class:`~ntps_lightning.ScoreOptions`.

    Attributes:
        layers: the indices of the layers, in ascending order.
        options: the :class:`~ntps_lightning.ScoreOptions`.

    Raises:
        SetupError: (a ``ValueError``) On every rank, if the model looks ahead.
        ValueError: If ``model`` does not hold exactly one supported language model, a layer or an option is out of
            range.

    Example:
        >>> import torch
        >>> from transformers import LlamaConfig, LlamaForCausalLM
        >>> from ntps_lightning import NTPSMonitor
        >>> _ = torch.manual_seed(0)
        >>> config = LlamaConfig(vocab_size=99, hidden_size=4, intermediate_size=8, num_hidden_layers=1,
        ...     num_attention_heads=1)
        >>> model = LlamaForCausalLM(config).eval()
        >>> monitor = NTPSMonitor(model, layers="all", num_classes=2)
        >>> for _ in range(4):
        ...     batch = {"input_ids": torch.randint(99, (32, 7))}
        ...     labels = batch["input_ids"][:, 0] % 2
        ...     with torch.no_grad(), monitor.batch(labels, input_ids=batch["input_ids"]):
        ...         output = model(**batch)
        >>> {layer: details.num_samples for layer, details in monitor.compute().items()}
        {0: 128, 1: 128}

    """

    def __init__(
        self,
        model: nn.Module | Backbone,
        *,
        layers: Layers = -1,
        num_classes: int | None = None,
        accumulate_device: str | torch.device | None = None,
        allow_bidirectional: bool = False,
        **options: Unpack[ScoreKeywords],
    ) -> None:
        self._backbone = model if isinstance(model, Backbone) else find_backbone(model, model)
        self.layers = self._backbone.resolve(layers)
        self.options = ScoreOptions(**options)
        self._accumulate_device = None if accumulate_device is None else torch.device(accumulate_device)
        self._labels = LabelKind(num_classes)
        self._details: dict[int, NTPSDetails] | None = None
        self._whole_curve = False
        self._measurement = self._new_measurement()
        if isinstance(model, nn.Module) and not allow_bidirectional:
            refuse_lookahead(self._backbone, model)

    @property
    def num_classes(self) -> int:
        """Classes that were declared or seen; 0 where none were, or the labels are regression targets."""
        return self._labels.num_classes

    @property
    def samples_seen(self) -> int:
        """Samples of this rank's batches since the last reset, whether they have a label or not."""
        return self._measurement.samples_seen

    @property
    def fault(self) -> str:
        """Why nothing can be scored until the next reset; empty while it can."""
        return self._measurement.fault

    def batch(
        self,
        labels: Tensor,
        *,
        input_ids: Tensor | Sequence[Tensor] = (),
        attention_mask: Tensor | None = None,
        sample_mask: Tensor | None = None,
    ) -> MonitoredBatch:
        """Listen to the model's call over a batch, in a ``with`` block.

        Args:
            labels: ``(N,)`` class indices, or ``(N,)`` / ``(N, C)`` floating regression targets. Samples of class -100
                are left out.
            input_ids: ``(N, T)``, to tell the batch's own call from others; or several tensors, one of which it is.
            attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding; by default the one of the model's call.
            sample_mask: ``(N,)`` bool, false at samples to leave out, such as those that another rank counts.

        Raises:
            SetupError: (a ``ValueError``) If the labels are not one class index per sequence, too many to be classes
                that nobody declared, or floats where classes were declared. At the end of the block, if none of the
                model's calls was the batch's own, it was made in a way that is not supported, or there is no memory for
                the sums.
            ValueError: If ``sample_mask`` has another shape or dtype; at the end of the block, if what was captured
                cannot be scored. After any error nothing can be scored until :meth:`reset`.
            RuntimeError: If :meth:`compute` was called since the last :meth:`reset`.

        """
        if self._details is not None:
            raise RuntimeError("compute() has used up the sums: call reset() before the next batch")
        try:
            labels, labelled = self._labels.learn(labels)
            mask = _sample_mask(sample_mask, len(labels))
        except Exception as error:
            self.fail(str(error) or repr(error))
            raise
        if labelled is not None:
            mask = labelled if mask is None else labelled & mask
        return MonitoredBatch(
            self._backbone,
            self._measurement,
            labels,
            attention_mask=attention_mask,
            input_ids=[input_ids] if isinstance(input_ids, Tensor) else input_ids,
            sample_mask=mask,
        )

    def compute(self, *, whole_curve: bool = False) -> dict[int, NTPSDetails]:
        """The details of every layer, of all samples on all ranks, the same on every rank. Every rank must call it.

        The sums are used up: what was computed is returned again until :meth:`reset`.

        Args:
            whole_curve: curves over every k for the highest layer; else all end at the k of the score.

        Returns:
            The details by layer, whose keys are :attr:`layers`.

        Raises:
            SetupError: (a ``ValueError``) On every rank, if none had a batch.
            ValueError: On every rank, if one has failed, no sample counts or a layer cannot be scored.
            RuntimeError: If the whole curve is asked for after it was left out.

        """
        if self._details is None:
            self._details = self._measurement.details(whole_curve=whole_curve)
            self._whole_curve = whole_curve
        if whole_curve and not self._whole_curve:
            raise RuntimeError("compute() has used up the sums: ask for whole_curve=True the first time")
        return self._details

    def reset(self) -> None:
        """Forget all batches; how many classes there are stays known."""
        self._details = None
        self._labels = self._labels.renewed()
        self._measurement = self._new_measurement()

    def fail(self, reason: str) -> None:
        """Something went wrong on the way here, so that :meth:`compute` must not give a number until the next reset."""
        self._measurement.fail(reason)

    def check_seen(self) -> None:
        """Compare with the other ranks; every rank must call it.

        Raises:
            SetupError: (a ``ValueError``) On every rank, if none had a batch.
            ValueError: On every rank, if one has failed.

        """
        self._measurement.check_seen()

    def expect_classes(self, num_classes: int) -> None:
        """Make room for so many classes, whether labels show them or not."""
        self._labels.num_classes = max(self._labels.num_classes, num_classes)

    def memory(self, device: torch.device) -> MemoryEstimate | None:
        """What the sums will take, on ``device`` unless they are kept elsewhere; ``None`` without a declared size."""
        if self._backbone.hidden_size is None:
            return None
        where = self._accumulate_device or device
        return MemoryEstimate(len(self.layers), self._backbone.hidden_size, self._labels.width, where)

    def _new_measurement(self) -> Measurement:
        return Measurement(self.layers, self._labels, self.options, self._accumulate_device)


def _sample_mask(mask: Tensor | None, size: int) -> Tensor | None:
    if mask is None:
        return None
    if mask.dtype != torch.bool or tuple(mask.shape) != (size,):
        raise ValueError(f"sample_mask must be bool of shape (N,) = ({size},), got {mask.dtype} {tuple(mask.shape)}")
    return mask.cpu()
