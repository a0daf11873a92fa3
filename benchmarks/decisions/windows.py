"""The windows of a set with their labellings: the true one, one that nobody trains on, and wrong ones for training."""

import random
import statistics
from dataclasses import dataclass

from benchmarks.decisions.settings import Run, Scale
from benchmarks.study.texts import windows as texts
from benchmarks.study.training.backbones import tokenizer


@dataclass(frozen=True)
class Labelled:
    """Windows, and labels of each labelling: ``"true"``, and ``"length"``, which training never sees."""

    windows: texts.Windows
    labels: dict[str, dict[str, list[int]]]

    def num_classes(self, labelling: str) -> int:
        return self.windows.num_classes if labelling == "true" else 2


def labelled(data: str, model: str, scale: Scale) -> Labelled:
    """The windows of a set as a model's tokenizer cuts them."""
    reader = tokenizer(model)
    found = texts.windows(data, reader, scale.sizes, scale.length)
    lengths = {split: [len(text) for text in reader.batch_decode(found.ids[split])] for split in texts.SPLITS}
    middle = statistics.median(lengths["val"])
    longer = {split: [int(length > middle) for length in lengths[split]] for split in texts.SPLITS}
    return Labelled(found, {"true": found.labels, "length": longer})


def training_labels(run: Run, right: list[int], num_classes: int) -> list[int]:
    """Labels of the training windows: some wrong, or all shuffled, the same whenever they are asked for."""
    chance = random.Random(f"{run.noise} {run.seed}")
    if run.shuffled:
        return chance.sample(right, len(right))
    labels = list(right)
    for i in chance.sample(range(len(right)), round(run.noise * len(right))):
        labels[i] = chance.choice([label for label in range(num_classes) if label != right[i]])
    return labels
