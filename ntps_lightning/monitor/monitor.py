"""The score of one model's layers, from labelled batches, in any loop."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ntps_lightning.capture.backbone import Backbone, Layers, find_backbone
from ntps_lightning.capture.lookahead import refuse_lookahead
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.memory import MemoryEstimate
from ntps_lightning.monitor.batch import MonitoredBatch
from ntps_lightning.monitor.labels import LabelKind
from ntps_lightning.monitor.measurement import Measurement
from ntps_lightning.monitor.notices import Notices
from ntps_lightning.monitor.options import check_counts, read_device
from ntps_lightning.monitor.samples import Selection, check_tokens, read_groups


class NTPSMonitor:
    """Scores chosen layers of one model from its own forward passes over labelled batches, whoever makes them.

    Between :meth:`batch` and the end of its block hooks listen to the model, and take the one call that is the batch's
    own: calls with a key-value cache, with adapters disabled, over another number of sequences or over other
    ``input_ids`` are left out. With ``torch.distributed`` every rank makes the monitor, shows its own batches, and
    takes part in :meth:`compute`; under NCCL each has set its device (:func:`torch.cuda.set_device`).

    A model whose states depend on later tokens, as those of BERT do, is refused: the model is called once, over four
    short rows of tokens, and left as it was.

    Copies and pickles carry no model: they keep options, layers, what is known of the labels, sums and details, so that
    :meth:`compute` gives what it would have, and :meth:`batch` is refused.

    Args:
        model: a Hugging Face causal LM, sequence classifier or bare decoder, inside PEFT or any other module; a module
            of plain PyTorch that returns ``(N, T, d)`` hidden states; or what
            :func:`~ntps_lightning.capture.backbone.find_backbone` found, which is not called.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``: 0 are the embeddings, -1 the
            states after the final norm.
        num_classes: number of classes; by default the largest label seen plus one.
        kept: pooled states that each layer keeps for held-out numbers; 0 keeps none.
        controls: also measure what the same tokens would show in any order, ``held_out.bag_r2``: ``d^2`` numbers more,
            and float64 products that double the time of adding a batch on a CPU.
        accumulate_device: where the sums are kept, such as ``"cpu"`` to spare a GPU's memory; by default where the
            hidden states are.
        allow_bidirectional: score a model that looks ahead all the same; it is not called then.
        options: ``k``, ``ridge``, ``center``, ``orthonormal``, ``pooling`` and ``precision``, see
            :class:`~ntps_lightning.ScoreOptions`.

    Attributes:
        layers: the indices of the layers, in ascending order.
        options: the :class:`~ntps_lightning.ScoreOptions`.
        notices: what was said that is said once; several monitors of one run may share it.

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
        kept: int = 2048,
        controls: bool = False,
        accumulate_device: str | torch.device | None = None,
        allow_bidirectional: bool = False,
        **options: Unpack[ScoreKeywords],
    ) -> None:
        check_counts(num_classes, kept)
        backbone = model if isinstance(model, Backbone) else find_backbone(model, model)
        self.layers = backbone.resolve(layers)
        self.options = ScoreOptions(**options)
        self.notices = Notices()
        self._backbone: Backbone | None = backbone
        self._hidden_size = backbone.hidden_size
        self._accumulate_device = read_device(accumulate_device)
        self._kept = kept
        self._controls = controls
        self._labels = LabelKind(num_classes)
        self._details: dict[int, NTPSDetails] | None = None
        self._whole_curve = False
        self._estimators = False
        self._measurement = self._new_measurement()
        if isinstance(model, nn.Module) and not allow_bidirectional:
            refuse_lookahead(self._backbone, model)

    @property
    def num_classes(self) -> int:
        """Classes that were declared or seen; 0 where none were."""
        return self._labels.num_classes

    @property
    def class_names(self) -> list[str]:
        """What each class is called, where labels are words; after :meth:`compute` the same on every rank."""
        return list(self._labels.names)

    @property
    def samples_seen(self) -> int:
        """Samples of this rank's batches since the last reset, whether they count or not."""
        return self._measurement.samples_seen

    @property
    def fault(self) -> str:
        """Why nothing can be scored until the next reset; empty while it can."""
        return self._measurement.fault

    def batch(
        self,
        labels: Any,
        *,
        input_ids: Tensor | Sequence[Tensor] = (),
        attention_mask: Tensor | None = None,
        sample_mask: Tensor | None = None,
        tokens: Tensor | None = None,
        groups: Any = None,
    ) -> MonitoredBatch:
        """Listen to the model's call over a batch, in a ``with`` block.

        Args:
            labels: ``(N,)`` class indices, N words, ``(N, C)`` multi-hot integers, or ``(N,)`` / ``(N, C)`` floating
                regression targets: a tensor, a numpy array or lists. Samples of class -100 are left out.
            input_ids: ``(N, T)``, to tell the batch's own call from others; or several tensors, one of which it is.
            attention_mask: ``(N, T)``, 1 at valid tokens and 0 at padding; by default the one of the model's call.
            sample_mask: ``(N,)`` bool, false at samples to leave out, such as those that another rank counts.
            tokens: ``(N, T)`` zeros and ones (bool, integer or floating) in the layout of the model's call, also where
                it is packed: pooling and prefixes are of the tokens that are 1 and inside the attention mask, as if
                there were no others. Prefix sums run over them in order, so that after a gap the next token is the next
                one chosen. By default all of the mask. Samples without a chosen token are left out, which
                :meth:`compute` says once.
            groups: N integers or words, equal for samples that are not independent, such as windows of one text:
                held-out numbers leave them out together. By default each sample is for itself.

        Raises:
            SetupError: (a ``ValueError``) If the labels are none of that, classes too many to be so that nobody
                declared, or of another kind than those before, or than was declared; or ``tokens`` are no ``(N, T)``
                zeros and ones. At the end of the block, if none of the model's calls was the batch's own, it was made
                in a way that is not supported or is of another shape than ``tokens``, or there is no memory for the
                sums.
            ValueError: If ``sample_mask`` has another shape or dtype; at the end of the block, if what was captured
                cannot be scored. After any error nothing can be scored until :meth:`reset`.
            RuntimeError: If :meth:`compute` was called since the last :meth:`reset`, or this is a copy.

        """
        if self._backbone is None:
            raise RuntimeError(
                "this NTPSMonitor is a copy, which listens to no model: it can compute() what was measured before the"
                " copy was made; for new batches make another with NTPSMonitor(model, ...)"
            )
        if self._details is not None:
            raise RuntimeError("compute() has used up the sums: call reset() before the next batch")
        ids = [input_ids] if isinstance(input_ids, Tensor) else list(input_ids)
        try:
            labels, labelled = self._labels.learn(labels)
            if self._labels.multi_hot and any(labels.shape == each.shape for each in ids):
                raise SetupError(
                    f"labels are zeros and ones of the shape {tuple(labels.shape)} of input_ids: token-level labels are"
                    " next-token targets, not the class of a sequence; name other labels, or give a labelled side set"
                    " (data=...)"
                )
            mask = _sample_mask(sample_mask, len(labels))
            padding = None if attention_mask is None else to_tensor(attention_mask, "attention_mask", "(N, T)")
            chosen = None if tokens is None else check_tokens(tokens)
            members = None if groups is None else read_groups(groups, len(labels))
        except Exception as error:
            self.fail(str(error) or repr(error))
            raise
        if labelled is not None:
            mask = labelled if mask is None else labelled & mask
        return MonitoredBatch(
            self._backbone,
            self._measurement,
            Selection(labels, mask, chosen, members),
            attention_mask=padding,
            input_ids=ids,
        )

    def compute(self, *, whole_curve: bool = False, estimators: bool = False) -> dict[int, NTPSDetails]:
        """The details of every layer, of all samples on all ranks, the same on every rank. Every rank must call it.

        The sums are used up: what was computed is returned again until :meth:`reset`.

        Args:
            whole_curve: curves over every k for the highest layer; else all end at the k of the score.
            estimators: also the learning curve, RankMe, H-score and LogME of every layer: what is asked of a model
                before finetuning.

        Returns:
            The details by layer, whose keys are :attr:`layers`.

        Raises:
            SetupError: (a ``ValueError``) On every rank, if none had a batch.
            ValueError: On every rank, if one has failed, no sample counts or a layer cannot be scored.
            RuntimeError: If the whole curve or estimators are asked for after they were left out.

        """
        if self._details is None:
            self._details = self._measurement.details(whole_curve=whole_curve, estimators=estimators)
            self._whole_curve = whole_curve
            self._estimators = estimators
            for what, remark in self._measurement.remarks.items():
                self.notices.give(what, remark)
        if whole_curve and not self._whole_curve:
            raise RuntimeError("compute() has used up the sums: ask for whole_curve=True the first time")
        if estimators and not self._estimators:
            raise RuntimeError("compute() has used up the sums: ask for estimators=True the first time")
        return self._details

    def reset(self) -> None:
        """Forget all batches; how many classes there are, and their names, stay known."""
        self._details = None
        self._whole_curve = False
        self._estimators = False
        self._measurement = self._new_measurement()

    def twin(self, backbone: Backbone) -> NTPSMonitor:
        """A monitor of the same model, with the same options, without batches, that shares what is known of labels."""
        other = copy(self)
        other._backbone, other._hidden_size = backbone, backbone.hidden_size
        other.reset()
        return other

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

    def expect_classes(self, num_classes: int, names: Sequence[str] = ()) -> None:
        """Make room for so many classes, whether labels show them or not; ``names`` are those of words."""
        self._labels.expect(num_classes, names)

    def memory(self, device: torch.device, processes: int | None = None) -> MemoryEstimate | None:
        """What the sums will take, on ``device`` unless they are kept elsewhere; ``None`` without a declared size.

        Args:
            device: of the model.
            processes: how many share the memory of this host, where the launcher's variables do not tell.

        """
        if self._hidden_size is None:
            return None
        size, kind, where = self._hidden_size, self._labels, self._accumulate_device or device
        classes, controls = not kind.num_outputs, self._controls
        return MemoryEstimate(
            len(self.layers), size, kind.width, where, classes, self._kept, processes, controls=controls
        )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_backbone": None}

    def _new_measurement(self) -> Measurement:
        self._labels.renew()
        return Measurement(self.layers, self._labels, self.options, self._kept, self._controls, self._accumulate_device)


def _sample_mask(mask: Tensor | None, size: int) -> Tensor | None:
    if mask is None:
        return None
    mask = to_tensor(mask, "sample_mask", "bool of shape (N,)")
    if mask.dtype != torch.bool or tuple(mask.shape) != (size,):
        raise ValueError(f"sample_mask must be bool of shape (N,) = ({size},), got {mask.dtype} {tuple(mask.shape)}")
    return mask.cpu()
