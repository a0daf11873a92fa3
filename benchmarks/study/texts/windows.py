"""Token windows of a labelled text set, split into training, validation and test by text."""

import random
from dataclasses import dataclass

from benchmarks.study.texts.readers import read

SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Windows:
    """Token windows of one data set: ``ids[split]``, ``labels[split]``; classes are ``0 .. num_classes - 1``.

    ``texts[split]`` says which text each window is of, by its number among those of the split.

    """

    ids: dict[str, list[list[int]]]
    labels: dict[str, list[int]]
    texts: dict[str, list[int]]
    num_classes: int


def windows(name: str, tokenizer, sizes: tuple[int, int, int], length: int, labelling: str = "real") -> Windows:
    """Train, validation and test windows of at most ``length`` tokens, split by text, the first window of each first.

    ``labelling``: ``"real"``; ``"shuffled"`` permutes the labels of all windows; ``"parity"`` labels a text by whether
    its number of characters is odd.

    """
    pairs = read(name)
    random.Random(0).shuffle(pairs)
    classes = sorted({label for _, label in pairs})
    total = sum(sizes)
    ids = {}
    labels = {}
    texts = {}
    start = 0
    for split, size in zip(SPLITS, sizes, strict=True):
        stop = start + round(len(pairs) * size / total)
        chosen = _cut(pairs[start:stop], tokenizer, size, length)
        ids[split] = [window for window, _, _ in chosen]
        labels[split] = [len(text) % 2 if labelling == "parity" else classes.index(y) for _, y, text in chosen]
        numbers = {text: number for number, text in enumerate(dict.fromkeys(text for _, _, text in chosen))}
        texts[split] = [numbers[text] for _, _, text in chosen]
        start = stop
    if labelling == "shuffled":
        for split in SPLITS:
            random.Random(1).shuffle(labels[split])
    return Windows(ids, labels, texts, 2 if labelling == "parity" else len(classes))


def _cut(pairs, tokenizer, size, length):
    """``size`` windows: first windows of all texts, then second ones and so on where there are too few texts."""
    pairs = pairs[: 2 * size]
    encoded = tokenizer([text for text, _ in pairs])["input_ids"]
    chosen = []
    for number in range(max(map(len, encoded)) // length + 1):
        for (text, label), ids in zip(pairs, encoded, strict=True):
            window = ids[number * length : (number + 1) * length]
            if len(window) >= (4 if number == 0 else length) and len(chosen) < size:
                chosen.append((window, label, text))
    if len(chosen) < size:
        raise ValueError(f"{len(pairs)} texts give {len(chosen)} windows of {length} tokens, {size} are asked for")
    return chosen
