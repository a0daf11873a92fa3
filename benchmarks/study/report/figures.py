"""The figures of docs/FIRST_STUDY.md."""

from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy

from benchmarks.study.measures.sweep import KS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130}
RED = "#c1272d"
GREY = "#888888"
BLUE = "#1f5fa8"
GREEN = "#2e8b57"


def _save(figure, path: Path) -> None:
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def training(runs: list[dict], candidate, captured, path: Path) -> None:
    """Score and null, captured and held-out R² over the epochs of every run."""
    models = sorted({r["job"]["model"] for r in runs}, reverse=True)
    data = list(dict.fromkeys(r["job"]["data"] for r in runs))
    figure, axes = plt.subplots(
        2 * len(models), len(data), figsize=(1.5 * len(data), 2.3 * len(models)), squeeze=False, sharex=True
    )
    for run in runs:
        row = 2 * models.index(run["job"]["model"])
        column = data.index(run["job"]["data"])
        top, bottom = axes[row : row + 2, column]
        epochs = [s["epoch"] for s in run["stages"]]
        top.plot(epochs, [candidate.of(s["sweep"]) for s in run["stages"]], color=RED, marker=".", label="ntps")
        top.plot(epochs, [candidate.null(s["sweep"]) for s in run["stages"]], "--", color=GREY, label="null")
        bottom.plot(epochs, [captured.of(s["sweep"]) for s in run["stages"]], color=BLUE, marker=".", label="captured")
        bottom.plot(epochs, [s["probe_r2"] for s in run["stages"]], color=GREEN, marker=".", label="probe R², held out")
        top.set_title(run["job"]["data"], fontsize=8)
        top.set_ylim(bottom=0)
        if column == 0:
            top.set_ylabel(run["job"]["model"])
            bottom.set_xlabel("epoch")
    axes[0, 0].legend(frameon=False, fontsize=6)
    axes[1, 0].legend(frameon=False, fontsize=6)
    figure.tight_layout()
    _save(figure, path)


def choice(ranked: dict, path: Path) -> None:
    """Mean rank correlation with the probe's held-out R² over training, by k, on both halves of the data sets."""
    families = ("ntps", "ntps_lift", "ortho", "captured", "captured_dof")
    figure, axes = plt.subplots(2, len(families), figsize=(11, 4.2), sharex=True, sharey=True)
    for column, family in enumerate(families):
        for row, half in enumerate(("choose", "report")):
            axis = axes[row, column]
            for ridge, color in zip(("0", "0.01", "0.1", "1"), (GREY, RED, BLUE, GREEN), strict=True):
                values = {
                    e["candidate"].k: e[half].get("mean", numpy.nan)
                    for e in ranked.values()
                    if (e["candidate"].family, e["candidate"].ridge, e["candidate"].center) == (family, ridge, True)
                }
                axis.plot([*KS, "mean"], [values.get(k, numpy.nan) for k in (*KS, "mean")], color=color, label=ridge)
            axis.axhline(0, color="black", lw=0.5)
            axis.tick_params(axis="x", rotation=90)
            if row == 0:
                axis.set_title(family)
            if column == 0:
                axis.set_ylabel(f"{'chosen on' if half == 'choose' else 'reported on'}\nrank correlation")
    axes[1, 2].set_xlabel("k (C: number of classes; percentages of d)")
    axes[0, 0].legend(title="ridge", frameon=False, fontsize=6)
    figure.tight_layout()
    _save(figure, path)


def layers(runs: list[dict], candidate, captured, path: Path) -> None:
    """Probe accuracy, captured, and score over null by layer before training, means over data sets."""
    models = sorted({r["job"]["model"] for r in runs}, reverse=True)
    lines = {
        "probe accuracy, held out": (lambda v: v["probe_accuracy"], GREEN),
        "captured": (lambda v: captured.of(v["sweep"]), BLUE),
        "ntps minus null": (lambda v: candidate.of(v["sweep"]) - candidate.null(v["sweep"]), RED),
    }
    figure, axes = plt.subplots(len(lines), len(models), figsize=(4 * len(models), 4.2), squeeze=False, sharex="col")
    for column, model in enumerate(models):
        mine = [[v for k, v in r["layers"].items() if k != "pre"] for r in runs if r["job"]["model"] == model]
        for axis, (name, (read, color)) in zip(axes[:, column], lines.items(), strict=True):
            axis.plot(numpy.mean([[read(layer) for layer in run] for run in mine], 0), color=color)
            axis.set_ylabel(name if column == 0 else "", fontsize=7)
        axes[0, column].set_title(f"{model}, mean of {len(mine)} data sets")
        axes[-1, column].set_xlabel("layer (the last one is after the final norm)")
    figure.tight_layout()
    _save(figure, path)


def gains(runs: list[dict], named: dict, gain, path: Path) -> None:
    """Scores before training against what LoRA adds to the probe."""
    readers = {name: (lambda s, c=c: c.of(s["sweep"])) for name, c in named.items()}
    readers["probe accuracy (held out)"] = lambda s: s["probe_accuracy"]
    figure, axes = plt.subplots(1, len(readers), figsize=(3 * len(readers), 2.6), sharey=True)
    for axis, (name, read) in zip(axes, readers.items(), strict=True):
        for model, color in (("smollm2", RED), ("gemma3", BLUE)):
            mine = [r for r in runs if r["job"]["model"] == model]
            x = [read(r["stages"][0]) for r in mine]
            y = [gain(r) for r in mine]
            axis.scatter(x, y, color=color, s=12, label=model)
            for r, a, b in zip(mine, x, y, strict=True):
                axis.annotate(r["job"]["data"], (a, b), fontsize=4, xytext=(2, 2), textcoords="offset points")
        axis.set_xlabel(f"{name}, before training")
        axis.axhline(0, color="black", lw=0.5)
    axes[0].set_ylabel("gain in test accuracy\n(LoRA minus probe)")
    axes[0].legend(frameon=False, fontsize=6)
    figure.tight_layout()
    _save(figure, path)


def controls(runs: dict[str, dict], named: dict, path: Path) -> None:
    """Scores and their nulls through training, of meaningless labels and random weights beside a real run."""
    figure, axes = plt.subplots(
        len(named), len(runs), figsize=(2.2 * len(runs), 2 * len(named)), squeeze=False, sharex=True, sharey="row"
    )
    for column, (title, run) in enumerate(runs.items()):
        for row, (name, candidate) in enumerate(named.items()):
            axis = axes[row, column]
            epochs = [s["epoch"] for s in run["stages"]]
            axis.plot(epochs, [candidate.of(s["sweep"]) for s in run["stages"]], color=RED, marker=".")
            axis.plot(epochs, [candidate.null(s["sweep"]) for s in run["stages"]], "--", color=GREY)
            axis.set_ylim(bottom=0)
            if row == 0:
                axis.set_title(title, fontsize=7)
            if column == 0:
                axis.set_ylabel(f"{name} (null dashed)", fontsize=7)
    axes[-1, 0].set_xlabel("epoch")
    figure.tight_layout()
    _save(figure, path)


def stopping(found: dict, path: Path) -> None:
    """Test accuracy against stopping on the validation loss, and epochs spent, with 95% intervals over data sets."""
    figure, axes = plt.subplots(1, 2, figsize=(8, 0.28 * len(found) + 0.9), sharey=True)
    names = list(found)
    for axis, key in zip(axes, ("against validation loss", "epochs"), strict=True):
        values = defaultdict(list)
        for name in names:
            for part in ("mean", "low", "high"):
                values[part].append(found[name][key][part])
        mean = numpy.array(values["mean"])
        spread = numpy.abs(numpy.array([mean - values["low"], values["high"] - mean]))
        axis.errorbar(mean, range(len(names)), xerr=spread, fmt="o", color=BLUE, ms=3, lw=1)
        axis.set_xlabel({"epochs": "epochs spent"}.get(key, "test accuracy, minus that of stopping on validation loss"))
    axes[0].axvline(0, color="black", lw=0.5)
    axes[0].set_yticks(range(len(names)), names, fontsize=6)
    axes[0].invert_yaxis()
    figure.tight_layout()
    _save(figure, path)
