"""The windows of a task: tokens of all texts of a set, kept in build/gain/texts, and which of them train and test."""

import gzip
import json
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from benchmarks.gain.settings import USUAL, Scale, Task
from benchmarks.study.texts import archives
from benchmarks.study.texts.readers import read
from benchmarks.study.training.backbones import tokenizer
from benchmarks.study.training.states import DEVICE

FOLDER = Path(__file__).parents[2] / "build" / "gain" / "texts"
SHORTEST = 4


@dataclass(frozen=True)
class Tokens:
    """Windows, padded on the right: ``ids`` and ``mask`` are ``(n, T)``, ``labels`` ``(n,)``."""

    ids: Tensor
    mask: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, indices) -> tuple[Tensor, Tensor]:
        """Ids and mask of some."""
        return self.ids[indices], self.mask[indices]

    def of(self, indices) -> "Tokens":
        """Some of them."""
        return Tokens(self.ids[indices], self.mask[indices], self.labels[indices])


@dataclass(frozen=True)
class Texts:
    """The windows of a task, one a text; classes are ``0 .. num_classes - 1``."""

    train: Tokens
    test: Tokens
    num_classes: int

    def held_back(self, scale: Scale) -> tuple[Tokens, Tokens]:
        """Training windows in whole batches, and validation windows: the rest."""
        least = min(scale.validation, len(self.train) // 4)
        count = (len(self.train) - least) // scale.batch_size * scale.batch_size
        if count == 0:
            raise ValueError(f"{len(self.train)} training texts do not fill a batch of {scale.batch_size}")
        order = torch.arange(len(self.train))
        return self.train.of(order[:count]), self.train.of(order[count:])


def file(data: str, model: str) -> Path:
    """Where the tokens of a set are kept."""
    return FOLDER / f"{model}-{data}.json.gz"


def prepare(data: str, model: str) -> None:
    """Keep the tokens of a set, which are then all that is needed of it."""
    path = file(data, model)
    if path.exists():
        return
    pairs = read(data)
    encoded = tokenizer(model)([text for text, _ in pairs], truncation=True, max_length=USUAL.length)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with gzip.open(partial, "wt") as out:
        json.dump({"ids": encoded["input_ids"], "labels": [label for _, label in pairs]}, out, separators=(",", ":"))
    partial.rename(path)


def missing(tasks: list[Task], model: str) -> list[str]:
    """Files that are not at hand: none if the tokens of every set are, or all archives."""
    sets = dict.fromkeys(task.data for task in tasks)
    tokens = [str(file(data, model)) for data in sets if not file(data, model).exists()]
    return tokens and [
        str(archives.FOLDER / name) for name in archives.ARCHIVES if not (archives.FOLDER / name).exists()
    ]


def texts(task: Task, model: str, scale: Scale) -> Texts:
    """The windows of a task, no two alike."""
    prepare(task.data, model)
    with gzip.open(file(task.data, model), "rt") as kept:
        found = json.load(kept)
    windows: dict[tuple[int, ...], str] = {}
    for ids, label in zip(found["ids"], found["labels"], strict=True):
        window = tuple(ids[: scale.length])
        if len(window) >= SHORTEST and (not task.classes or label in task.classes):
            windows.setdefault(window, label)
    return split(list(windows.items()), scale)


def split(pairs: list[tuple[tuple[int, ...], str]], scale: Scale) -> Texts:
    """Half of them train and half test, at most ``scale.texts`` each, at random but always the same."""
    classes = sorted({label for _, label in pairs})
    chance = random.Random(0)
    chance.shuffle(pairs)
    size = min(scale.texts, len(pairs) // 2)
    parts = (pairs[:size], pairs[size : 2 * size])
    train, test = (_tokens([(window, classes.index(label)) for window, label in part]) for part in parts)
    return Texts(train, test, len(classes))


def _tokens(pairs: list[tuple[tuple[int, ...], int]]) -> Tokens:
    ids = pad_sequence([torch.tensor(window) for window, _ in pairs], batch_first=True)
    mask = pad_sequence([torch.ones(len(window), dtype=torch.long) for window, _ in pairs], batch_first=True)
    return Tokens(ids.to(DEVICE), mask.to(DEVICE), torch.tensor([label for _, label in pairs], device=DEVICE))
