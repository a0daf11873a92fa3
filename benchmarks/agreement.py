"""Leave-one-out R² and accuracy against a probe that is fitted on the same windows and read on windows of other texts.

Per packaged set and layer of SmolLM2-135M: what a metric says of 1,200 validation windows, left out by text; and
scikit-learn's Ridge, fitted on exactly those windows with the ridges that the metric chose (the mean of both halves'),
read on 1,800 windows of other texts. The error of the difference has the error of the test in it, by text.

python -m benchmarks.agreement      # ten minutes or more; resumable: build/agreement.jsonl
"""

import argparse
import logging
import warnings

import torch
from sklearn.linear_model import Ridge
from torch.nn.functional import one_hot

from benchmarks.helpers.store import Store
from benchmarks.helpers.timing import table
from benchmarks.helpers.windows import batches, pooled, smollm2, split
from ntps_lightning import NextTokenPerceptionScore

SETS = ("bbc", "brown_genre", "r8", "airline3", "rt_polarity")
LAYERS = (10, 20, 30)
VALIDATION, TEST = 1200, 1800
GOAL = 0.9


def by_text(values, texts):
    """Sums over the windows of each text."""
    _, index = texts.unique(return_inverse=True)
    return values.new_zeros(int(index.max()) + 1).index_add_(0, index, values)


def ratio(top, bottom, texts):
    """Sum of ``top`` over that of ``bottom``, and its standard error where texts are independent."""
    value = top.sum() / bottom.sum()
    parts = by_text(top - value * bottom, texts) / bottom.sum()
    count = len(parts)
    return float(value), float(parts.square().sum().mul(count / (count - 1)).sqrt())


def tested(train, test, num_classes, ridges):
    """R² and accuracy on ``test`` of probes fitted on ``train``, each with its standard error.

    Args:
        train: ``(n, d)`` states, ``(n,)`` labels and texts.
        test: likewise.
        num_classes: C.
        ridges: relative to tr(B)/d; errors and hits of their probes are averaged.

    """
    states, labels, _ = train
    fresh, truth, texts = test
    targets = one_hot(labels, num_classes).double()
    wanted = one_hot(truth, num_classes).double()
    states = states.double().numpy()
    total = ((states - states.mean(0)) ** 2).sum() / states.shape[1]
    errors = []
    hits = []
    for ridge in ridges:
        probe = Ridge(alpha=ridge * total).fit(states, targets.numpy())
        predicted = torch.from_numpy(probe.predict(fresh.double().numpy()))
        errors.append((predicted - wanted).square().sum(1))
        hits.append((predicted.argmax(1) == truth).double())
    spread = (wanted - targets.mean(0)).square().sum(1)
    lost, se = ratio(torch.stack(errors).mean(0), spread, texts)
    return (1 - lost, se), ratio(torch.stack(hits).mean(0), torch.ones_like(spread), texts)


def compare(held_out, train, test, num_classes):
    """Rows of number, value left out, value tested, and standard errors of both."""
    found = tested(train, test, num_classes, held_out.ridges)
    names = ("probe_r2", "probe_accuracy")
    for name, (value, se) in zip(names, found, strict=True):
        estimate = getattr(held_out, name)
        yield name, estimate.value, value, estimate.se, se


def measure(name):
    """Rows of every layer of a set."""
    parts, num_classes = split(name, (VALIDATION, TEST))
    model = smollm2()
    metrics = {layer: NextTokenPerceptionScore(model.config.hidden_size, num_classes) for layer in LAYERS}
    seen = []
    for part, data in zip(("validation", "test"), parts, strict=True):
        rows = []
        for states, mask, labels, texts in batches(model, data, LAYERS, f"{name}, {part}"):
            for layer, metric in metrics.items() if part == "validation" else ():
                metric.update(states[layer], labels, mask, group_ids=texts)
            rows.append((torch.stack([pooled(states[layer], mask) for layer in LAYERS], 1), labels, texts))
        seen.append([torch.cat(column) for column in zip(*rows, strict=True)])
    found = []
    for i, layer in enumerate(LAYERS):
        held_out = metrics[layer].details(whole_curve=False).held_out
        train, test = [(states[:, i], labels, texts) for states, labels, texts in seen]
        found += [[layer, held_out.num_groups, *row] for row in compare(held_out, train, test, num_classes)]
    return found


def rows_of(name, found):
    """Lines of the table."""
    for layer, groups, number, left_out, tested_value, se, test_se in found:
        error = (se**2 + test_se**2) ** 0.5
        off = left_out - tested_value
        cells = (f"{value:.4f}" for value in (left_out, tested_value, off, se, test_se, error))
        yield [f"{name}, layer {layer}, {number}", groups, *cells, "yes" if abs(off) <= 2 * error else "NO"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", default=SETS)
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    store = Store("agreement")
    if args.again:
        store.forget()
    found = {name: store.get((name, VALIDATION, TEST), lambda name=name: measure(name)) for name in args.sets}
    rows = [row for name, lines in found.items() for row in rows_of(name, lines)]
    columns = ["set", "texts", "left out", "tested", "difference", "se", "test's se", "se of difference", "within 2 se"]
    table(f"{VALIDATION} windows left out, {TEST} tested", columns, rows)
    share = sum(row[-1] == "yes" for row in rows) / len(rows)
    print(f"{share:.0%} within two standard errors, goal >= {GOAL:.0%}: {'met' if share >= GOAL else 'MISSED'}")


if __name__ == "__main__":
    main()
