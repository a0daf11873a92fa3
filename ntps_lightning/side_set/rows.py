"""Rows of text, chat messages or tokens, as samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ntps_lightning.batch_items import BatchItem, read_item
from ntps_lightning.errors import SetupError
from ntps_lightning.side_set.sample import Sample, plain


@dataclass(frozen=True)
class Where:
    """Where rows or batches hold what; each as :func:`~ntps_lightning.batch_items.read_item` takes it."""

    labels: BatchItem = "label"
    text: BatchItem = "text"
    groups: BatchItem | None = None
    tokens: BatchItem | None = None


def find(item: Any, where: BatchItem, what: str, of: str) -> Any:
    """As :func:`~ntps_lightning.batch_items.read_item`, but for pairs: of a text, or a mapping, and a label.

    Args:
        item: a row or a batch.
        where: where it holds something.
        what: the argument that says where.
        of: ``"row"`` or ``"batch"``.

    """
    if isinstance(where, str) and is_pair(item):
        first, second = item
        if isinstance(first, Mapping) and where in first:
            return first[where]
        if what == "labels":
            return second
        if what == "text":
            return first
    return read_item(item, where, what, of)


def is_pair(item: Any) -> bool:
    """Whether this is a list or tuple of two, without names."""
    return isinstance(item, (list, tuple)) and len(item) == 2 and not hasattr(item, "_fields")


def read_rows(items: Sequence[Any], where: Where, tokenizer: Any, what: str) -> list[Sample]:
    """A sample of each row, in order, its label as it stands there.

    Raises:
        SetupError: If a row has no such item, or one of another type; if there is no tokenizer, or none with a chat
            template, where one is needed; or if a text has no tokens.

    """
    sources = [_source(item, where) for item in items]
    encoder = _Encoder(tokenizer, what)
    samples = []
    for number, (item, (source, mask)) in enumerate(zip(items, sources, strict=True)):
        row = f"row {number} of {what}"
        ids = encoder.ids(source, row)
        chosen = None if where.tokens is None else _chosen(find(item, where.tokens, "tokens", "row"), source, row)
        ids, chosen = _unpadded(ids, chosen, mask, row)
        if not ids:
            raise SetupError(f"the text of {row} has no tokens; leave the row out")
        label = find(item, where.labels, "labels", "row")
        group = None if where.groups is None else find(item, where.groups, "groups", "row")
        samples.append(Sample(ids, label, group, chosen))
    return samples


def cut(samples: list[Sample], max_length: int | None) -> list[Sample]:
    """Those that are longer end there."""
    if max_length is None:
        return samples
    return [
        sample
        if len(sample.ids) <= max_length
        else replace(
            sample,
            ids=sample.ids[:max_length],
            chosen=None if sample.chosen is None else sample.chosen[:max_length],
        )
        for sample in samples
    ]


def _source(item: Any, where: Where) -> tuple[Any, Any]:
    """The text, messages or tokens of a row, and the mask of the latter."""
    fields = item[0] if is_pair(item) else item
    if isinstance(fields, Mapping) and where.text == "text":
        if "input_ids" in fields:
            return plain(fields["input_ids"]), plain(fields.get("attention_mask"))
        if "text" not in fields and "messages" in fields:
            return plain(fields["messages"]), None
    return plain(find(item, where.text, "text", "row")), None


class _Encoder:
    """Makes tokens of whatever a row has.

    Args:
        tokenizer: the user's; ``None`` where none was given.
        what: the argument that the rows came with, for errors.

    """

    def __init__(self, tokenizer: Any, what: str) -> None:
        self._tokenizer = tokenizer
        self._what = what

    def ids(self, source: Any, row: str) -> list[int]:
        """The tokens of a text, of messages, or of tokens themselves."""
        if isinstance(source, str):
            return self._encode(source)
        if _are_integers(source):
            return [int(token) for token in source]
        if isinstance(source, (list, tuple)) and source and all(isinstance(each, Mapping) for each in source):
            return self._encode_chat(list(source), row)
        got = f"a {type(source).__name__}"
        if isinstance(source, (list, tuple)) and source:
            got += f" of {type(source[0]).__name__}"
        raise SetupError(
            f"the text of {row} is {got}; it must be a str, messages (a list of mappings with role and content), or one"
            " list of token ids (name another with text=...); a DataLoader that collates texts is no such row: give its"
            " dataset"
        )

    def _encode(self, text: str) -> list[int]:
        # Not verbose: that a text is longer than the model takes is said once, of all.
        encoded = self._needed()(text, verbose=False)
        return list(encoded["input_ids"])

    def _encode_chat(self, messages: list[Any], row: str) -> list[int]:
        tokenizer = self._needed()
        if not getattr(tokenizer, "chat_template", None):
            raise SetupError(
                f"{self._what} holds chat messages, but the tokenizer ({type(tokenizer).__name__}) has no chat"
                " template; set tokenizer.chat_template, or give each row one text"
            )
        try:
            encoded = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        except Exception as error:  # whatever a template raises
            raise SetupError(f"the chat template refuses the messages of {row}: {error}") from error
        return list(encoded)

    def _needed(self) -> Any:
        if self._tokenizer is None:
            raise SetupError(
                f"{self._what} holds text, which needs the model's tokenizer: pass tokenizer=..., or rows of input_ids"
            )
        return self._tokenizer


def _are_integers(source: Any) -> bool:
    if not isinstance(source, (list, tuple)):
        return False
    return {type(plain(token)) for token in source} <= {int}


def _chosen(values: Any, source: Any, row: str) -> list[int]:
    values = plain(values)
    if not _are_integers(source):
        raise SetupError(f"tokens=... chooses among input_ids, but {row} has text; give rows of input_ids")
    fits = isinstance(values, (list, tuple)) and len(values) == len(source)
    if not fits or not set(values) <= {0, 1}:
        got = f"{len(values)} values" if isinstance(values, (list, tuple)) else f"a {type(values).__name__}"
        raise SetupError(f"tokens of {row} must be zeros and ones, one for each of {len(source)} input_ids; got {got}")
    return [int(value) for value in values]


def _unpadded(ids: list[int], chosen: list[int] | None, mask: Any, row: str) -> tuple[list[int], list[int] | None]:
    """Without the padding that a tokenised row may have."""
    if mask is None:
        return ids, chosen
    if len(mask) != len(ids) or not all(value in (0, 1) for value in mask):
        raise SetupError(f"attention_mask of {row} must be zeros and ones, one for each of {len(ids)} input_ids")
    kept = [index for index, value in enumerate(mask) if value]
    return [ids[index] for index in kept], None if chosen is None else [chosen[index] for index in kept]
