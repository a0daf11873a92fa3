"""Batches of a side set: made of samples, by length, or as a user has made them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ntps_lightning.errors import SetupError
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.side_set.labels import collate_labels
from ntps_lightning.side_set.rows import Where, find, is_pair
from ntps_lightning.side_set.sample import Sample, plain

# What the model is called with, of a user's batch.
_INPUTS = ("input_ids", "attention_mask", "position_ids")
# What tokenizers and collators add, and no text depends on.
_BESIDE = {
    "label",
    "labels",
    "text",
    "token_type_ids",
    "special_tokens_mask",
    "offset_mapping",
    "length",
    "idx",
    "index",
}


@dataclass(frozen=True)
class SideBatch:
    """One call of the model, and what is shown beside it; all on the CPU.

    Args:
        inputs: what the model is called with: ``(N, T)`` int64 ``input_ids``, ``attention_mask`` and ``position_ids``;
            the latter two where a user's batch has them, the mask also where the batch was made of rows.
        shown: what :meth:`~ntps_lightning.NTPSMonitor.batch` takes: ``labels``, ``(N,)`` or ``(N, C)`` or N words;
            ``input_ids``; where asked for, ``groups``, N integers or words, and ``tokens``, ``(N, T)`` zeros and ones.

    """

    inputs: dict[str, Tensor]
    shown: dict[str, Any]


def is_batch(item: Any) -> bool:
    """Whether this holds rows of tokens, and not one."""
    ids = _fields(item).get("input_ids") if isinstance(_fields(item), Mapping) else _fields(item)
    if hasattr(ids, "ndim"):
        return int(ids.ndim) > 1
    return isinstance(ids, (list, tuple)) and bool(ids) and isinstance(plain(ids[0]), (list, tuple))


def bucket(samples: Sequence[Sample], max_tokens: int, pad: int) -> list[SideBatch]:
    """The samples in batches of about one length, the longest first, padded on the right.

    Args:
        samples: with tokens, and labels of one kind.
        max_tokens: rows times tokens of the longest is no more, but for a single row.
        pad: the token that rows end in where the mask is 0.

    """
    ordered = sorted(samples, key=lambda sample: -len(sample.ids))
    found = []
    begin = 0
    while begin < len(ordered):
        end = begin + max(1, max_tokens // len(ordered[begin].ids))
        found.append(_collate(ordered[begin:end], pad))
        begin = end
    return found


def join(batches: Sequence[SideBatch]) -> SideBatch:
    """Batches that were made of rows as one, padded on the right to its longest."""
    inputs = {name: _stacked([batch.inputs[name] for batch in batches]) for name in batches[0].inputs}
    shown: dict[str, Any] = {}
    for name in batches[0].shown:
        parts = [batch.shown[name] for batch in batches]
        if name == "tokens":
            shown[name] = _stacked(parts)
        elif isinstance(parts[0], Tensor):
            shown[name] = torch.cat(parts) if name != "input_ids" else inputs["input_ids"]
        else:
            shown[name] = [each for part in parts for each in part]
    return SideBatch(inputs, shown)


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """``(N, T)`` rows of all, with zeros behind those that are shorter: the mask tells padding."""
    longest = max(part.shape[1] for part in parts)
    return torch.cat([torch.nn.functional.pad(part, (0, longest - part.shape[1])) for part in parts])


def _collate(samples: Sequence[Sample], pad: int) -> SideBatch:
    ids = _padded([sample.ids for sample in samples], pad)
    mask = _padded([[1] * len(sample.ids) for sample in samples], 0)
    tokens = [sample.chosen for sample in samples if sample.chosen is not None]
    return SideBatch(
        {"input_ids": ids, "attention_mask": mask},
        _shown(ids, samples, _padded(tokens, 0) if tokens else None),
    )


def _shown(ids: Tensor, samples: Sequence[Sample], tokens: Tensor | None) -> dict[str, Any]:
    shown = {"labels": collate_labels([sample.label for sample in samples]), "input_ids": ids}
    if samples[0].group is not None:
        shown["groups"] = [sample.group for sample in samples]
    if tokens is not None:
        shown["tokens"] = tokens
    return shown


def _padded(rows: Sequence[list[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


@dataclass(frozen=True)
class TakenBatch:
    """A user's batch, read.

    Args:
        inputs: as in :class:`SideBatch`.
        tokens: ``(N, T)`` zeros and ones; ``None`` where none were asked for.
        samples: its rows without their padding, and their labels as they stand there.
        left: tensors that it has beside these, which the model is not called with.

    """

    inputs: dict[str, Tensor]
    tokens: Tensor | None
    samples: list[Sample]
    left: list[str]

    def with_samples(self, samples: Sequence[Sample]) -> SideBatch:
        """The same with labels and groups that have been understood."""
        return SideBatch(self.inputs, _shown(self.inputs["input_ids"], samples, self.tokens))


def read_batch(item: Any, where: Where, name: str) -> TakenBatch:
    """Read a user's batch.

    Args:
        item: a mapping with ``input_ids``, an object with that attribute, or a pair of such or of these ids and labels.
        where: its labels, groups and tokens.
        name: of the batch, for errors.

    Raises:
        SetupError: If it has no such item, or one of another shape.

    """
    inputs = _read_inputs(item, name)
    ids = inputs["input_ids"]
    labels = _one_a_row(find(item, where.labels, "labels", "batch"), len(ids), "labels", name)
    groups: list[Any] = [None] * len(ids)
    if where.groups is not None:
        groups = _one_a_row(find(item, where.groups, "groups", "batch"), len(ids), "groups", name)
    tokens = None
    if where.tokens is not None:
        tokens = _aligned(find(item, where.tokens, "tokens", "batch"), ids, "tokens", name)
    samples = list(_rows(inputs, labels, groups, tokens, name))
    return TakenBatch(inputs, tokens, samples, _left(item, where))


def _fields(item: Any) -> Any:
    """The mapping or the ids of a batch, or of a pair of one and labels."""
    first = item[0] if is_pair(item) else item
    if not isinstance(first, Mapping) and hasattr(first, "input_ids"):
        return {name: getattr(first, name) for name in _INPUTS if getattr(first, name, None) is not None}
    return first


def _read_inputs(item: Any, name: str) -> dict[str, Tensor]:
    fields = _fields(item)
    if not isinstance(fields, Mapping):
        fields = {"input_ids": fields}
    if fields.get("input_ids") is None:
        raise SetupError(f"{name} has no input_ids, which others have; it has {sorted(map(str, fields))}")
    ids = _tensor(fields["input_ids"], "input_ids", name)
    if ids.ndim != 2 or ids.is_floating_point() or not ids.numel():
        raise SetupError(f"input_ids of {name} must be (N, T) integers, got {ids.dtype} {tuple(ids.shape)}")
    inputs = {"input_ids": ids.long()}
    if fields.get("attention_mask") is not None:
        inputs["attention_mask"] = _aligned(fields["attention_mask"], ids, "attention_mask", name)
    if fields.get("position_ids") is not None:
        inputs["position_ids"] = _tensor(fields["position_ids"], "position_ids", name).long()
    return inputs


def _tensor(value: Any, what: str, name: str) -> Tensor:
    try:
        # A copy: collators may hand out one tensor for all batches.
        return to_tensor(value, what, "numbers").detach().cpu().clone()
    except ValueError as error:
        raise SetupError(f"{name}: {error}") from error


def _aligned(value: Any, ids: Tensor, what: str, name: str) -> Tensor:
    """``(N, T)`` zeros and ones as int64."""
    found = _tensor(value, what, name)
    if found.shape != ids.shape or not ((found == 0) | (found == 1)).all():
        raise SetupError(
            f"{what} of {name} must be zeros and ones of the shape of input_ids, {tuple(ids.shape)}, got {found.dtype}"
            f" {tuple(found.shape)}" + (" with other values" if found.shape == ids.shape else "")
        )
    return found.long()


def _one_a_row(values: Any, count: int, what: str, name: str) -> list[Any]:
    values = plain(values)
    if not isinstance(values, (list, tuple)):
        raise SetupError(
            f"{what} of {name} must be {count}, one for each row of input_ids; got a {type(values).__name__}"
        )
    if len(values) != count:
        raise SetupError(
            f"{what} of {name} are {len(values)}, but input_ids have {count} rows; a side set's batches have one text a"
            " row, and are not packed"
        )
    return [plain(value) for value in values]


def _rows(
    inputs: dict[str, Tensor], labels: list[Any], groups: list[Any], tokens: Tensor | None, name: str
) -> Iterator[Sample]:
    ids = inputs["input_ids"]
    valid = inputs.get("attention_mask", torch.ones_like(ids)).bool()
    if not valid.any(1).all():
        row = int(valid.any(1).int().argmin())
        raise SetupError(f"row {row} of {name} has no tokens: its attention_mask is 0 everywhere; leave it out")
    for index, (label, group) in enumerate(zip(labels, groups, strict=True)):
        chosen = None if tokens is None else tokens[index][valid[index]].tolist()
        yield Sample(ids[index][valid[index]].tolist(), label, group, chosen)


def _left(item: Any, where: Where) -> list[str]:
    fields = _fields(item)
    if not isinstance(fields, Mapping):
        return []
    named = {each for each in (where.labels, where.groups, where.tokens) if isinstance(each, str)}
    known = named | _BESIDE | set(_INPUTS)
    return [str(key) for key, value in fields.items() if isinstance(value, Tensor) and key not in known]
