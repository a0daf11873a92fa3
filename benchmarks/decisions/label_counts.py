"""How well a learning curve from few labels tells what more of them will give."""

import numpy
import torch

from benchmarks.agreement import ratio
from benchmarks.decisions.measures import details, losses, metric, ridge_probe
from benchmarks.decisions.windows import Labelled
from benchmarks.study.training.states import Ragged, by_length

FEW = 270  # windows of a draw; the largest of its probes is fitted on 200 or somewhat more
DRAWS = 4
MORE = (400, 800)
PROBES = 10


def label_counts(states: Ragged, pooled: dict, texts: Labelled, progress) -> dict:
    """Predictions of each draw, and what probes of as many labels read on test windows.

    Args:
        states: of the validation windows.
        pooled: of all splits.
        texts: windows and labels.
        progress: of an iterable and a name.

    """
    predicted = [_predictions(states, windows, texts) for windows in progress(draws(texts), "learning curves")]
    return {"predicted": predicted, "truth": {size: truth(size, pooled, texts) for size in progress(MORE, "probes")}}


def draws(texts: Labelled) -> list[list[int]]:
    """Disjoint samples of validation windows, whole texts each."""
    groups = torch.tensor(texts.windows.texts["val"])
    order = torch.randperm(int(groups.max()) + 1, generator=torch.Generator().manual_seed(0))
    windows = torch.argsort(order.argsort()[groups], stable=True).tolist()
    found = []
    while len(found) < DRAWS and windows:
        end = min(FEW, len(windows))
        while end < len(windows) and groups[windows[end]] == groups[windows[end - 1]]:
            end += 1
        found.append(windows[:end])
        windows = windows[end:]
    return found


def _predictions(states: Ragged, windows: list[int], texts: Labelled) -> dict:
    sums = metric(states.flat.shape[1], texts.windows.num_classes)
    labels = torch.tensor(texts.windows.labels["val"])
    groups = torch.tensor(texts.windows.texts["val"])
    for batch in by_length(states.lengths, windows):
        hidden, mask = states.batch(batch)
        sums.update(hidden, labels[batch], mask, sample_ids=torch.tensor(batch), group_ids=groups[batch])
    curve = details(sums, whole_curve=True).held_out.learning_curve
    reach = [size for size in MORE if size <= curve.farthest]
    return {
        "num_windows": len(windows),
        "curve": {size: [curve.r2[size], curve.accuracy[size]] for size in curve.r2},
        "r2": {size: curve.predict(size) for size in reach},
        "accuracy": {size: curve.predict_accuracy(size) for size in reach},
    }


def truth(size: int, pooled: dict, texts: Labelled) -> dict:
    """R² and accuracy on test windows, each with its standard error, means over probes of so many windows."""
    states = torch.cat([pooled["val"], pooled["train"]])
    labels = numpy.array(texts.windows.labels["val"] + texts.windows.labels["train"])
    test = (pooled["test"], texts.windows.labels["test"])
    generator = torch.Generator().manual_seed(size)
    parts = []
    for _ in range(PROBES):
        chosen = torch.randperm(len(states), generator=generator)[:size]
        train = (states[chosen], labels[chosen])
        parts.append(losses(ridge_probe(*train, texts.windows.num_classes), train, test, texts.windows.num_classes))
    errors, spread, hits = (torch.tensor(numpy.mean(each, 0)) for each in zip(*parts, strict=True))
    groups = torch.tensor(texts.windows.texts["test"])
    lost, error = ratio(errors, spread, groups)
    single = [[1 - e.sum() / s.sum(), h.mean()] for e, s, h in parts]
    return {
        "r2": [1 - lost, error],
        "accuracy": ratio(hits, torch.ones_like(hits), groups),
        "spread": numpy.std(single, 0, ddof=1).tolist(),
    }
