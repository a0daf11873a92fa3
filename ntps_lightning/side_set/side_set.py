"""A labelled set to watch beside a run, made once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

from transformers import AutoTokenizer

from ntps_lightning.batch_items import BatchItem
from ntps_lightning.errors import SetupError
from ntps_lightning.side_set.batches import SideBatch, bucket, is_batch, read_batch
from ntps_lightning.side_set.labels import read_labels
from ntps_lightning.side_set.rows import Where, cut, read_rows
from ntps_lightning.side_set.sample import Sample, count_conflicts, digest, plain
from ntps_lightning.side_set.taking import take


@dataclass(frozen=True)
class SideSet:
    """Labelled texts as the batches that a model is shown.

    Args:
        batches: at least one.
        num_samples: how many texts they hold, with those whose class is missing (-100).
        digest: a hash of tokens, labels, groups and chosen tokens of the samples in whatever order and batches: the
            same in every process.
        remarks: what the user should be told once.

    """

    batches: list[SideBatch]
    num_samples: int
    digest: str
    remarks: list[str]

    def shard(self, rank: int, world_size: int) -> list[tuple[SideBatch, bool]]:
        """A rank's batches, as many on every rank, so that a model that ranks share is called by all together.

        Args:
            rank: from 0.
            world_size: number of ranks.

        Returns:
            Each batch, and whether it counts: one that only evens out the ranks does not. Over all ranks each batch of
            the set counts once.

        """
        calls = range(rank, rank + len(self.batches), world_size)
        last = len(self.batches) - 1  # the shortest, where they are by length
        return [(self.batches[min(index, last)], index <= last) for index in calls]


def make_side_set(
    data: Any,
    *,
    labels: BatchItem = "label",
    text: BatchItem = "text",
    groups: BatchItem | None = None,
    tokens: BatchItem | None = None,
    tokenizer: Any = None,
    max_length: int | None = None,
    max_tokens: int = 8192,
    what: str = "data",
) -> SideSet:
    """Make batches of a labelled set, once; random numbers are drawn afterwards as if it had not been made.

    Args:
        data: a finite iterable, of rows or of batches. An endless one is never done with.

            Rows (a list, a ``Dataset``, a ``datasets.Dataset``, a pandas ``DataFrame``) are mappings or pairs
            ``(text, label)``. They hold a text; chat messages, a list of mappings with ``role`` and ``content``, under
            ``text`` or else ``messages``, which the tokenizer's chat template makes a text of; or ``input_ids``, with
            or without an ``attention_mask``, which are taken before a text unless ``text`` names another. They are made
            batches of about one length, in an order that depends on the rows alone.

            Batches (a ``DataLoader``, a list) are mappings, or objects with such attributes, with ``(N, T)``
            ``input_ids`` and perhaps ``attention_mask`` and ``position_ids``, or pairs ``(input_ids, labels)`` or
            ``(mapping, labels)``. They are kept as they are, also where they are longer than ``max_length``.
        labels: where a row or batch holds its labels: a key, an index, an attribute, or a function of it. In a pair
            that is the second, unless the first has the key. Words, integers, bools, floats, or lists of zeros and
            ones or floats. Rows whose word is missing are left out; -100 and missing integers stay, as -100.
        text: where a row holds its text.
        groups: where it holds an integer or a word that is shared by samples which are not independent.
        tokens: where it holds zeros and ones, 1 at tokens that count: ``(N, T)`` of a batch; of a row as many as its
            ``input_ids``.
        tokenizer: the model's, or its folder or id on the hub; needed for texts. What it pads with is the padding, or
            else its end of text, or 0.
        max_length: tokens that the model takes: rows end there. ``None`` cuts none.
        max_tokens: rows times tokens of the longest, of a batch made of rows; a longer row is a batch of its own.
        what: the argument that ``data`` was given as, for errors.

    Raises:
        SetupError: (a ``ValueError``) If there is nothing in it, what it holds is none of the above, a row has no
            tokens, all samples have one label, the tokenizer is not found, there are token labels only, or a DataLoader
            gives each rank a share.

    """
    _check_sizes(max_length, max_tokens)
    where = Where(labels, text, groups, tokens)
    if isinstance(tokenizer, str):
        tokenizer = _load(tokenizer)
    items = take(data, what)
    if is_batch(items[0]):
        return _of_batches(items, where, what)
    return _of_rows(items, where, tokenizer, max_length, max_tokens, what)


def _of_batches(items: Sequence[Any], where: Where, what: str) -> SideSet:
    taken = [read_batch(item, where, f"batch {number} of {what}") for number, item in enumerate(items)]
    lengths = [batch.inputs["input_ids"].shape[1] for batch in taken for _ in batch.samples]
    samples = _understood([sample for batch in taken for sample in batch.samples], lengths, what)
    missing = sum(sample.label is None for sample in samples)
    if missing:
        raise SetupError(f"{missing} of {len(samples)} labels of {what} are missing among words; leave those rows out")
    rest = iter(samples)
    batches = [batch.with_samples(list(islice(rest, len(batch.samples)))) for batch in taken]
    left = sorted({name for batch in taken for name in batch.left})
    remarks = [f"the model is not called with {', '.join(left)} of the batches of {what}"] if left else []
    return SideSet(batches, len(samples), digest(samples), remarks + _conflicts(samples))


def _of_rows(
    items: Sequence[Any], where: Where, tokenizer: Any, max_length: int | None, max_tokens: int, what: str
) -> SideSet:
    whole = read_rows(items, where, tokenizer, what)
    whole = _understood(whole, [len(sample.ids) for sample in whole], what)
    samples = cut([sample for sample in whole if sample.label is not None], max_length)
    remarks = []
    if len(samples) < len(whole):
        remarks.append(f"{len(whole) - len(samples)} of {len(whole)} rows have no label and are left out")
    longer = sum(max_length is not None and len(sample.ids) > max_length for sample in whole)
    if longer:
        remarks.append(f"{longer} of {len(whole)} rows are longer than {max_length:,} tokens and are cut")
    batches = bucket(samples, max_tokens, _padding(tokenizer))
    return SideSet(batches, len(samples), digest(samples), remarks + _conflicts(samples))


def _understood(samples: Sequence[Sample], lengths: Sequence[int], what: str) -> list[Sample]:
    """With labels of one kind, and groups of one."""
    labels = read_labels([sample.label for sample in samples], lengths, what)
    groups = [plain(sample.group) for sample in samples]
    kinds = Counter(str if isinstance(group, str) else type(group) for group in groups)
    if set(kinds) not in ({int}, {str}, {type(None)}):
        got = ", ".join(sorted(kind.__name__ for kind in kinds))
        raise SetupError(f"groups of {what} must be all integers or all words, one a sample; got {got}")
    return [
        replace(sample, label=label, group=group) for sample, label, group in zip(samples, labels, groups, strict=True)
    ]


def _conflicts(samples: Sequence[Sample]) -> list[str]:
    count = count_conflicts(samples)
    return [f"{count} texts stand under two labels or more: held-out numbers leave them out"] if count else []


def _load(tokenizer: str) -> Any:
    try:
        return AutoTokenizer.from_pretrained(tokenizer)
    except (OSError, ValueError) as error:  # whatever the hub or a file raises
        raise SetupError(
            f"tokenizer={tokenizer!r} is no folder with a tokenizer, nor one on the hub: {error}"
        ) from error


def _padding(tokenizer: Any) -> int:
    """The mask tells padding, so that any token will do."""
    found = (getattr(tokenizer, name, None) for name in ("pad_token_id", "eos_token_id"))
    return next((token for token in found if isinstance(token, int)), 0)


def _check_sizes(max_length: int | None, max_tokens: int) -> None:
    for name, value in (("max_length", max_length), ("max_tokens", max_tokens)):
        if value is not None and (not isinstance(value, int) or value < 1):
            raise SetupError(f"{name} must be a positive number of tokens, got {value!r}")
