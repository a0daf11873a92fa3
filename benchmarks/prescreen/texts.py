"""Texts to measure on and others to test on; and texts of one length."""

import random
from collections import Counter
from dataclasses import dataclass

from benchmarks.prescreen.settings import LENGTH, SEED
from benchmarks.study.texts.readers import read

Pairs = list[tuple[str, int]]


@dataclass(frozen=True)
class Split:
    """Pairs of a text and its class, ``0 .. num_classes - 1``."""

    measured: Pairs
    tested: Pairs
    num_classes: int


def split(data: str, measured: int, tested: int) -> Split:
    """The texts of a set in a random order, without classes that have a single text among those to measure on."""
    pairs = shuffled(data)
    first, second = pairs[:measured], pairs[measured : measured + tested]
    counts = Counter(label for _, label in first)
    classes = sorted(label for label, count in counts.items() if count > 1)
    known = [[(text, classes.index(label)) for text, label in part if label in classes] for part in (first, second)]
    return Split(known[0], known[1], len(classes))


def same_length(data: str, count: int, tokenizer) -> Pairs:
    """Texts that have at least ``LENGTH`` tokens, and few words beyond: the beginning of each, then what follows.

    Raises:
        ValueError: If there are not so many.

    """
    every = [(text.split(), label) for text, label in shuffled(data)]
    starts = range(0, max(len(words) for words, _ in every), 2 * LENGTH)
    pairs = {" ".join(words[i : i + 2 * LENGTH]): y for i in starts for words, y in every if i < len(words)}
    classes = sorted(set(pairs.values()))
    ids = tokenizer(list(pairs))["input_ids"]
    found = [(text, classes.index(y)) for (text, y), row in zip(pairs.items(), ids, strict=True) if len(row) >= LENGTH]
    if len(found) < count:
        raise ValueError(f"{data} has {len(found)} texts of {LENGTH} tokens, {count} are asked for")
    return found[:count]


def shuffled(data: str) -> list[tuple[str, str]]:
    pairs = read(data)
    random.Random(SEED).shuffle(pairs)
    return pairs
