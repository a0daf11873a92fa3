"""Texts as tokenizers see them: which have no tokens, and which are equal where strings are not."""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

from transformers import PreTrainedTokenizerBase

from ntps_lightning.prescreening.texts import OWN_GROUP, TextSet, has_enough_groups

# Of texts; where more have no tokens, it is the tokenizer that is at fault.
_MOST_WITHOUT = 0.5


def read_tokens(
    texts: TextSet, tokenizers: Mapping[str, Any], max_length: int | None
) -> tuple[TextSet, dict[str, str]]:
    """The set that all models of a run are measured on alike, and what each of them sees of it.

    Texts that have no tokens for one of them are left out for all. Texts that are equal for one, such as those that
    differ past ``max_length`` alone, are left out of a fit together for all, unless too few groups were left: then that
    is up to the pass of that one model, which is not paired with others.

    Args:
        texts: as they were read.
        tokenizers: by the names of their models.
        max_length: tokens after which a text ends.

    Returns:
        The set, and for each tokenizer a hash of the tokens of all texts, in whatever order these stand; empty where it
        fails.

    """
    seen = {name: _digests(tokenizer, texts.texts, max_length) for name, tokenizer in tokenizers.items()}
    for name, digests in seen.items():
        without = [index for index, text in enumerate(texts.texts) if digests and not digests[text]]
        if 0 < len(without) <= _MOST_WITHOUT * len(texts):
            texts = texts.without(
                without,
                f"{len(without)} of {len(texts)} texts have no tokens for {name} and are left out for every model: the"
                f" first is {texts.places[without[0]]}",
            )
    before = len(set(texts.groups))
    for digests in seen.values():
        alike = _joined(texts, digests)
        texts = alike if has_enough_groups(alike.groups) else texts
    fewer = before - len(set(texts.groups))
    if fewer:
        texts = texts.with_remark(
            f"{fewer} of {len(texts)} texts are equal to others in the tokens that models read of them: a text is left"
            " out of a fit together with these"
        )
    return texts, {name: _digest(digests, texts) for name, digests in seen.items()}


def as_seen(texts: TextSet, tokenizer: Any, max_length: int | None) -> TextSet:
    """The set for one model alone: texts of equal tokens are of one group, however many groups that leaves."""
    return _joined(texts, _digests(tokenizer, texts.texts, max_length))


def _joined(texts: TextSet, digests: Mapping[str, bytes]) -> TextSet:
    """Groups of single texts, joined where texts are equal; groups of the user's stay as they are.

    A group that was joined has the lowest name of those that it was joined of.
    """
    parents = {group: group for group in texts.groups}

    def root(group: str) -> str:
        while parents[group] != group:
            parents[group] = parents[parents[group]]
            group = parents[group]
        return group

    first: dict[bytes, str] = {}
    for group, text in zip(texts.groups, texts.texts, strict=True):
        if digests and group.startswith(OWN_GROUP):
            low, high = sorted((root(group), root(first.setdefault(digests[text], group))))
            parents[high] = low
    return texts.with_groups(tuple(map(root, texts.groups)))


def _digests(tokenizer: Any, texts: Sequence[str], max_length: int | None) -> dict[str, bytes]:
    """Of the tokens of each text, empty where it has none; of none where the tokenizer fails."""
    try:
        if isinstance(tokenizer, PreTrainedTokenizerBase):
            rows = tokenizer(list(texts), verbose=False)["input_ids"]
        else:
            rows = [tokenizer(text, verbose=False)["input_ids"] for text in texts]
        cut = [array("q", row[:max_length]).tobytes() for row in rows]
    except Exception:  # whatever it raises costs this model alone, and is told when it is measured
        return {}
    return {text: blake2b(row, digest_size=16).digest() if row else b"" for text, row in zip(texts, cut, strict=True)}


def _digest(digests: Mapping[str, bytes], texts: TextSet) -> str:
    parts = sorted(blake2b(text.encode() + digests[text], digest_size=16).digest() for text in texts.texts if digests)
    return blake2b(b"".join(parts), digest_size=16).hexdigest() if parts else ""
