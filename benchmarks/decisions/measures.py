"""The numbers of a row: what the package says of validation windows, and what is true on test windows."""

import warnings

import numpy
import sklearn
import torch
import transformers
from sklearn.linear_model import RidgeCV
from torch.nn.functional import cross_entropy

from ntps_lightning import NextTokenPerceptionScore
from ntps_lightning.functional.details import NTPSDetails
from ntps_lightning.functional.estimators import rankme

# Relative to the mean variance of the states.
PENALTIES = numpy.logspace(-6, 2, 17)
HELD_OUT = ("probe_r2", "probe_accuracy", "captured_r2", "captured", "principal_r2")


def metric(hidden_size: int, num_classes: int, *, controls: bool = False) -> NextTokenPerceptionScore:
    """With the package's defaults."""
    return NextTokenPerceptionScore(hidden_size, num_classes, controls=controls)


def details(of: NextTokenPerceptionScore, *, whole_curve: bool = False) -> NTPSDetails:
    """What it says; few samples are meant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return of.details(whole_curve=whole_curve)


def candidates(of: NextTokenPerceptionScore, found: NTPSDetails) -> dict:
    """Numbers by name; held-out ones with their standard errors, ``None`` where there is none."""
    held_out = found.held_out
    if held_out is None:
        raise RuntimeError(f"no held-out numbers: {found.not_held_out}")
    estimates = {name: getattr(held_out, name) for name in HELD_OUT}
    return {
        **{name: estimate and [estimate.value, estimate.se] for name, estimate in estimates.items()},
        "score": found.score,
        "null": found.null,
        "lift": found.lift,
        "captured_in_sample": found.captured_in_sample,
        "in_sample_r2": found.in_sample_r2,
        "rankme": float(rankme(of._moments())),
    }


def head_numbers(logits, truth, texts) -> dict:
    """Loss and accuracy of the finetuned head, and of each text what it adds to their sums."""
    losses = cross_entropy(logits, truth, reduction="none").double()
    hits = (logits.argmax(1) == truth).double()
    return {
        "loss": (float(losses.mean()), by_text(losses, texts)),
        "accuracy": (float(hits.mean()), by_text(hits, texts)),
    }


def by_text(values, texts):
    """Sums over the windows of each text, of deviations from the mean."""
    sums = values.new_zeros(int(texts.max()) + 1)
    return sums.index_add_(0, texts, values - values.mean())


def paired_errors(stages: list[dict]) -> dict[str, list[list[float | None]]]:
    """Per number, evaluation and each earlier one the standard error of the difference.

    ``stages`` have ``held_out``, the package's object, and ``head``, see :func:`head_numbers`.

    """
    found: dict[str, list] = {name: [] for name in (*HELD_OUT, "val_accuracy", "val_loss")}
    for now, stage in enumerate(stages):
        before = [earlier["held_out"] for earlier in stages[:now]]
        changes = [stage["held_out"].since(earlier) for earlier in before]
        for name in HELD_OUT:
            found[name].append([change[name].se if name in change else None for change in changes])
        for name in ("accuracy", "loss"):
            found[f"val_{name}"].append([head_error(stage, earlier, name) for earlier in stages[:now]])
    return found


def head_error(now: dict, earlier: dict, name: str) -> float:
    """Standard error of the difference of two evaluations, where texts are independent."""
    sums = now["head"][name][1] - earlier["head"][name][1]
    count = len(sums)
    return float(sums.square().sum().mul(count / (count - 1)).sqrt()) / now["num_windows"]


def ridge_probe(states, labels, num_classes: int):
    """scikit-learn's ridge regression on one-hot labels, its penalty chosen by leave-one-out on the same windows."""
    states = states.double().numpy()
    total = states.var(0).sum() * len(states) / states.shape[1]
    model = RidgeCV(alphas=total * PENALTIES)
    return model.fit(states, numpy.eye(num_classes)[labels])


def tested(train: tuple, test: tuple, num_classes: int) -> dict[str, float]:
    """R² and accuracy on windows that a probe was not fitted on; both sides are states and labels."""
    states, labels = train
    errors, spread, hits = losses(ridge_probe(states, labels, num_classes), train, test, num_classes)
    return {"r2": float(1 - errors.sum() / spread.sum()), "accuracy": float(hits.mean())}


def losses(model, train: tuple, test: tuple, num_classes: int):
    """Of each test window the squared error of a probe and of the mean, and whether its class is right."""
    onehot = numpy.eye(num_classes)
    predicted = model.predict(test[0].double().numpy())
    errors = ((predicted - onehot[test[1]]) ** 2).sum(1)
    spread = ((onehot[train[1]].mean(0) - onehot[test[1]]) ** 2).sum(1)
    return errors, spread, (predicted.argmax(1) == numpy.asarray(test[1])).astype(float)


def versions() -> dict[str, str]:
    """Of what made a row, and its number of threads."""
    numbers = {module.__name__: module.__version__ for module in (torch, transformers, sklearn)}
    return numbers | {"threads": str(torch.get_num_threads())}
