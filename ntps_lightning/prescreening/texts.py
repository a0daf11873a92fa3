"""Labelled texts, read and looked through before any model is loaded."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from typing import Any
from unicodedata import category

from ntps_lightning.errors import SetupError
from ntps_lightning.functional.held_out import FEWEST_GROUPS, FEWEST_ROWS
from ntps_lightning.prescreening.columns import Columns, Row
from ntps_lightning.prescreening.labels import in_order, is_empty, is_no_class, read_classes, read_targets
from ntps_lightning.prescreening.sources import read_source

# What the group of a text begins with that is in none of the user's.
OWN_GROUP = "text "
# Of a text, in a remark.
_SHOWN = 60
# Texts, in a remark.
_SOME = 3


@dataclass(frozen=True)
class TextSet:
    """Labelled texts, the same for every model.

    Args:
        name: what the set is called.
        texts: N of them.
        labels: N classes, indices into ``class_names``, or targets.
        groups: N words, equal for texts that are left out of a fit together: those of the user's column, or a hash of
            the text, so that copies are of one group, whatever white space they have.
        class_names: of classes, in their order.
        places: where they stand, in words.
        remarks: what was found in the data that a reader should know.

    """

    name: str
    texts: tuple[str, ...]
    labels: tuple[int, ...] | tuple[float, ...]
    groups: tuple[str, ...]
    class_names: tuple[str, ...]
    places: tuple[str, ...]
    remarks: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def data_id(self) -> str:
        """A hash of texts, labels and groups in whatever order."""
        labels = [self.class_names[int(label)] for label in self.labels] if self.class_names else self.labels
        parts = map(repr, zip(self.texts, labels, self.groups, strict=True))
        digests = sorted(blake2b(part.encode(), digest_size=16).digest() for part in parts)
        return blake2b(b"".join(digests), digest_size=16).hexdigest()

    def without(self, indices: Collection[int], remark: str) -> TextSet:
        """The others, without classes of which a single text is left.

        Raises:
            SetupError: If they are too few.

        """
        left = set(indices)
        kept = [index for index in range(len(self)) if index not in left]
        remarks = [*self.remarks, remark]
        if self.class_names:
            counts = Counter(self.labels[index] for index in kept)
            single = [self.class_names[int(label)] for label in sorted(counts) if counts[label] == 1]
            kept = [index for index in kept if counts[self.labels[index]] > 1]
            if single:
                remarks.append(f"classes of which a single text is left are left out: {', '.join(map(repr, single))}")
        parts: dict[str, Any] = {
            name: tuple(getattr(self, name)[index] for index in kept)
            for name in ("texts", "labels", "groups", "places")
        }
        there = sorted({int(label) for label in parts["labels"]}) if self.class_names else []
        names = tuple(self.class_names[label] for label in there)
        if self.class_names:
            parts["labels"] = tuple(there.index(int(label)) for label in parts["labels"])
        _check_count(parts["texts"], parts["labels"], parts["groups"], self.name)
        return replace(self, **parts, class_names=names, remarks=tuple(remarks))

    def with_groups(self, groups: tuple[str, ...]) -> TextSet:
        """The same in other groups."""
        return replace(self, groups=groups)

    def with_remark(self, remark: str) -> TextSet:
        """The same with one remark more."""
        return replace(self, remarks=(*self.remarks, remark))


def read_texts(
    source: Any,
    *,
    name: str | None = None,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    regression: bool = False,
    limit: int | None = None,
    seed: int = 0,
) -> TextSet:
    """Read labelled texts.

    Texts without a letter and rows without a label are left out, and so are classes of a single text, which nobody
    could read held out; remarks count them, and copies of a text, and texts that stand under several classes.

    Args:
        source: a file (.csv, .tsv, .jsonl, .json, .parquet); a folder with a folder of .txt files for each class; an id
            on the hub, where there is no such file; a pandas ``DataFrame``; a ``datasets.Dataset``; or an iterable of
            mappings or of pairs ``(text, label)``.
        name: what to call it; by default its path, or ``"data"``.
        text: column of the texts.
        label: column of the classes (words, integers or bools) or targets.
        group: column of what texts share that are not independent, such as their author or the document that they are
            windows of.
        regression: labels are targets, one number a text.
        limit: the most texts to take: those with the lowest hash of ``seed`` and the text, whatever their order.
        seed: see ``limit``.

    Raises:
        SetupError: If the source cannot be read, lacks a column, holds labels that are neither, or too few texts.

    """
    _check_choices(limit, seed)
    name = name or (str(source) if isinstance(source, (str, Path)) else "data")
    rows = read_source(source, Columns(text, label, group), name)
    if not rows:
        raise SetupError(f"{name} holds no row")
    remarks: list[str] = []
    rows = _without_missing(rows, name, remarks, is_empty if regression else is_no_class)
    labels: list[Any] = read_targets(rows) if regression else read_classes(rows)
    rows = [replace(row, label=each) for row, each in zip(rows, labels, strict=True)]
    rows = _chosen(rows, limit, seed, remarks)
    if not regression:
        rows = _without_single(rows, name, limit, remarks)
    groups = [_group(row) for row in rows]
    _remark_copies(rows, groups, remarks, regression)
    _check_count([row.text for row in rows], [row.label for row in rows], groups, name)
    names = [] if regression else in_order({row.label for row in rows})
    place = {word: index for index, word in enumerate(names)}
    return TextSet(
        name=name,
        texts=tuple(row.text for row in rows),
        labels=tuple(row.label if regression else place[row.label] for row in rows),
        groups=tuple(groups),
        class_names=tuple(names),
        places=tuple(row.place for row in rows),
        remarks=tuple(remarks),
    )


def _check_choices(limit: int | None, seed: int) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < FEWEST_ROWS):
        raise SetupError(f"limit must be a number of texts, at least {FEWEST_ROWS}, or None for all; got {limit!r}")
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise SetupError(f"seed must be an integer, got {seed!r}")


def _without_missing(rows: Sequence[Row], name: str, remarks: list[str], is_none: Callable[[Any], bool]) -> list[Row]:
    for row in rows:
        if not is_empty(row.text) and not isinstance(row.text, str):
            raise SetupError(f"the text of {row.place} is a {type(row.text).__name__}: it must be a str")
    written = [row for row in rows if isinstance(row.text, str) and _is_visible(row.text)]
    for row in written:
        if not _is_unicode(row.text):
            raise SetupError(f"the text of {row.place} holds half of a surrogate pair: save it anew in UTF-8")
    found = [row for row in written if not is_none(row.label)]
    if len(written) < len(rows):
        remarks.append(f"{len(rows) - len(written)} of {len(rows)} texts are empty and are left out")
    if len(found) < len(written):
        remarks.append(f"{len(written) - len(found)} of {len(rows)} rows have no label and are left out")
    if not found:
        raise SetupError(f"none of the {len(rows)} rows of {name} has both a text and a label")
    return found


def _is_visible(text: str) -> bool:
    """Whether there is a character that is neither white space nor a control or format character."""
    return any(not char.isspace() and category(char) not in ("Cc", "Cf") for char in text)


def _is_unicode(text: str) -> bool:
    return text.isascii() or not any("\ud800" <= char <= "\udfff" for char in text)


def _chosen(rows: list[Row], limit: int | None, seed: int, remarks: list[str]) -> list[Row]:
    if limit is None or len(rows) <= limit:
        return rows
    remarks.append(f"{limit} of {len(rows)} texts were chosen by a hash of each (limit={limit}, seed={seed})")
    order = sorted(range(len(rows)), key=lambda index: (_hash(seed, rows[index].text), index))
    return [rows[index] for index in sorted(order[:limit])]


def _without_single(rows: list[Row], name: str, limit: int | None, remarks: list[str]) -> list[Row]:
    counts = Counter(row.label for row in rows)
    if len(counts) == 1:
        raise SetupError(
            f"the {len(rows)} texts of {name} are all of one class, {rows[0].label!r}: give at least two classes"
        )
    single = in_order({word for word, count in counts.items() if count == 1})
    if len(single) > len(rows) / 2 or len(counts) - len(single) < 2:
        chosen = f" that limit={limit} has chosen" if limit is not None and len(rows) == limit else ""
        raise SetupError(
            f"the {len(rows)} texts of {name}{chosen} are of {len(counts)} classes, {len(single)} of which have a"
            " single text: at least two classes of two texts are needed (are these ids, or targets, which"
            " regression=True is for?)"
        )
    if single:
        some = ", ".join(repr(word) for word in single[:3]) + (", ..." if len(single) > 3 else "")
        remarks.append(f"{len(single)} of {len(counts)} classes have a single text and are left out: {some}")
    return [row for row in rows if counts[row.label] > 1]


def _group(row: Row) -> str:
    """A user's group, or of a text by itself what its copies share."""
    return f"{OWN_GROUP}{_hash(0, _plain(row.text))}" if is_empty(row.group) else f"group {row.group}"


def _plain(text: str) -> str:
    """What is equal for copies: white space tells nothing of a text that a probe could learn."""
    return " ".join(text.split())


def _remark_copies(rows: Sequence[Row], groups: Sequence[str], remarks: list[str], regression: bool) -> None:
    labels: dict[str, set[Any]] = defaultdict(set)
    homes: dict[str, set[str]] = defaultdict(set)
    for row, group in zip(rows, groups, strict=True):
        text = _plain(row.text)
        labels[text].add(row.label)
        homes[text].add(group)
    if len(labels) < len(rows):
        remarks.append(
            f"{len(rows) - len(labels)} of {len(rows)} texts are copies of others: a text is left out of a fit together"
            " with its copies"
        )
    torn = [text for text, found in labels.items() if len(found) > 1]
    if torn:
        kind = "targets" if regression else "classes"
        some = "; ".join(_under(text, labels[text]) for text in sorted(torn)[:_SOME])
        more = "; ..." if len(torn) > _SOME else ""
        remarks.append(f"{len(torn)} texts stand under several {kind}, label errors perhaps: {some}{more}")
    apart = sum(len(found) > 1 for found in homes.values())
    if apart:
        remarks.append(f"{apart} texts stand in several groups, so that fits without one group still see them")


def _under(text: str, labels: Collection[Any]) -> str:
    shown = f"{text[:_SHOWN]!r}{' ...' if len(text) > _SHOWN else ''}"
    return f"{shown} is {' and '.join(repr(label) for label in sorted(labels))}"


def has_enough_groups(groups: Sequence[str]) -> bool:
    """Whether fits without one of them can be told from each other."""
    sizes = Counter(groups)
    return len(sizes) >= FEWEST_GROUPS and max(sizes.values()) <= len(groups) / 2


def _check_count(texts: Sequence[str], labels: Sequence[Any], groups: Sequence[str], name: str) -> None:
    """What held-out numbers need; who has none of these is told now."""
    found = defaultdict(set)
    for text, label in zip(texts, labels, strict=True):
        found[_plain(text)].add(label)
    different = sum(len(each) == 1 for each in found.values())
    if different < FEWEST_ROWS:
        raise SetupError(
            f"{name} has {different} different texts with one label each, at least {FEWEST_ROWS} are needed"
        )
    if has_enough_groups(groups):
        return
    sizes = Counter(groups)
    largest, _ = sizes.most_common(1)[0]
    if len(sizes) < FEWEST_GROUPS:
        raise SetupError(f"the texts of {name} are of {len(sizes)} groups, at least {FEWEST_GROUPS} are needed")
    raise SetupError(f"more than half of the {len(texts)} texts of {name} are of one group, {largest[:_SHOWN]!r}")


def _hash(seed: int, text: str) -> str:
    return blake2b(f"{seed} {text}".encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()
