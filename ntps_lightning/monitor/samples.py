"""Which samples and tokens of a batch count."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.capture.forward_inputs import ForwardInputs
from ntps_lightning.capture.packing import PackedSequences
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.functional.packed_batch import PackedBatch, pack_batch
from ntps_lightning.monitor.labels import are_words
from ntps_lightning.monitor.sample_ids import sample_ids


@dataclass(frozen=True)
class Samples:
    """Those of a batch that count, the same for every layer.

    Args:
        labels: theirs, on the CPU.
        mask: ``(N,)`` bool, false at samples that do not count; ``None`` where all do.
        sequences: how the samples are packed into rows; ``None`` where each has its own.
        packed: where their tokens that count stand; ``None`` where no sample counts.
        without_tokens: how many samples do not count only because none of their tokens is chosen.
        ids: ``(N,)`` int64 on the CPU, of all samples whether they count or not, by all of their valid tokens; ``None``
            where the call carries no token ids.
        groups: ``(N,)`` int64 on the CPU, of all samples, equal for those that belong together; ``None``: each for
            itself.

    """

    labels: Tensor
    mask: Tensor | None
    sequences: PackedSequences | None
    packed: PackedBatch | None
    without_tokens: int
    ids: Tensor | None
    groups: Tensor | None

    def counting(self, values: Tensor | None) -> Tensor | None:
        """Of values of all samples those that count."""
        return values if values is None or self.mask is None else values[self.mask]


class Selection:
    """What counts of a labelled batch, as far as it is known before the model is called.

    Args:
        labels: ``(N,)`` or ``(N, C)``, of all samples, on the CPU.
        sample_mask: ``(N,)`` bool on the CPU, false at samples to leave out; ``None`` keeps all.
        tokens: ``(N, T)`` bool in the layout of the model's call, false at tokens to leave out; ``None`` keeps all.
        groups: ``(N,)`` int64 on the CPU, equal for samples that belong together.

    """

    def __init__(
        self,
        labels: Tensor,
        sample_mask: Tensor | None = None,
        tokens: Tensor | None = None,
        groups: Tensor | None = None,
    ) -> None:
        self.tokens = tokens
        self._groups = groups
        self._labels = labels
        self._sample_mask = sample_mask

    def __len__(self) -> int:
        """Number N of samples, whether they count or not."""
        return len(self._labels)

    def part(self, rows: slice) -> Selection:
        """Some of the samples."""
        parts = (None if each is None else each[rows] for each in (self._sample_mask, self.tokens, self._groups))
        return Selection(self._labels[rows], *parts)

    def samples_of(self, inputs: ForwardInputs, sequences: PackedSequences | None, device: torch.device) -> Samples:
        """What counts of the model's call over the batch.

        Args:
            inputs: what the model is called with, over N samples.
            sequences: how they are packed into rows; ``None`` where each has its own.
            device: where the hidden states will be.

        Raises:
            SetupError: If the call has a mask that is not ``(N, T)``, or ``tokens`` are of another shape than it.
            ValueError: If the mask holds other values than 0 and 1, or without ``tokens`` leaves a sample no token.

        """
        mask = inputs.padding_mask() if sequences is None else sequences.mask
        counting = self._sample_mask
        without_tokens = 0
        if self.tokens is not None:
            mask = self._chosen(self.tokens, mask, inputs, sequences)
            counting, without_tokens = self._with_tokens(mask)
        labels = self._labels if counting is None else self._labels[counting]
        if mask is not None and counting is not None:
            mask = mask[counting.to(mask.device)]
        packed = None
        if len(labels):
            length = inputs.shape[1] if mask is None else mask.shape[1]
            packed = pack_batch(mask, (len(labels), length), device)
        return Samples(
            labels, counting, sequences, packed, without_tokens, _ids(inputs, sequences, self.tokens), self._groups
        )

    def _chosen(
        self, tokens: Tensor, mask: Tensor | None, inputs: ForwardInputs, sequences: PackedSequences | None
    ) -> Tensor:
        """The chosen tokens within the mask, in the shape of the mask."""
        if tuple(tokens.shape) != inputs.shape:
            raise SetupError(
                f"tokens must have the shape of the model's call, (N, T) = {inputs.shape}, got {tuple(tokens.shape)}"
            )
        if sequences is not None:
            return sequences.rows(tokens)
        if mask is None:
            return tokens
        if mask.shape != tokens.shape:
            raise SetupError(
                f"attention_mask must have the shape of the model's call, (N, T) = {inputs.shape}, got"
                f" {tuple(mask.shape)}"
            )
        return mask * tokens.to(mask.device)  # other values than 0 and 1 stay, to be refused where it is packed

    def _with_tokens(self, chosen: Tensor) -> tuple[Tensor | None, int]:
        """Which samples count, and how many do not for want of a chosen token alone."""
        found = chosen.any(1).cpu()
        counting = found if self._sample_mask is None else found & self._sample_mask
        wanted = len(found) if self._sample_mask is None else int(self._sample_mask.sum())
        return (None if counting.all() else counting), wanted - int(counting.sum())


def _ids(inputs: ForwardInputs, sequences: PackedSequences | None, tokens: Tensor | None) -> Tensor | None:
    ids = inputs.input_ids
    if ids is None or ids.ndim != 2:
        return None
    mask = inputs.padding_mask() if sequences is None else sequences.mask
    found = sample_ids(ids if sequences is None else sequences.rows(ids), mask)
    if tokens is not None:  # the same text with other tokens chosen is another sample
        tokens = tokens.long().to(ids.device)
        found = found ^ sample_ids(tokens if sequences is None else sequences.rows(tokens), mask)
    return found.cpu()


def read_groups(groups: Any, count: int) -> Tensor:
    """``(N,)`` int64 on the CPU, equal for samples of one group, of integers or words: the same in every process.

    Raises:
        SetupError: If they are neither, or not one a sample.

    """
    if are_words(groups):
        digests = [blake2b(word.encode(), digest_size=8).digest() for word in groups]
        groups = [int.from_bytes(digest, "little", signed=True) for digest in digests]
    try:
        found = to_tensor(groups, "groups", "one integer or word a sample").cpu()
    except ValueError as error:
        raise SetupError(str(error)) from error
    if found.is_floating_point() or found.is_complex() or tuple(found.shape) not in ((count,), (count, 1)):
        raise SetupError(
            f"groups must be integers or words, one for each of {count} samples, got {found.dtype} {tuple(found.shape)}"
        )
    whole: Tensor = found.reshape(-1).long()
    return whole


def check_tokens(tokens: Any) -> Tensor:
    """``(N, T)`` zeros and ones as bool, where they are.

    Raises:
        SetupError: If they make no tensor, are of another number of dimensions, or hold other values.

    """
    wanted = "of shape (N, T), 1 at tokens that count and 0 at others"
    try:
        tokens = to_tensor(tokens, "tokens", wanted)
    except ValueError as error:
        raise SetupError(str(error)) from error
    if tokens.ndim != 2:
        raise SetupError(f"tokens must be {wanted}, got {tokens.dtype} {tuple(tokens.shape)}")
    chosen = tokens == 1
    if not (chosen | (tokens == 0)).all():
        raise SetupError("tokens must hold 1 (counts) and 0 (does not) alone, got other values")
    return chosen  # type: ignore[no-any-return]
