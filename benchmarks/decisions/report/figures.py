"""The figures of STUDY.md, one per question."""

from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy

from benchmarks.decisions.analysis import course, labels, layer, samples
from benchmarks.decisions.analysis.candidates import OURS, series, shown, truth
from benchmarks.decisions.settings import CONFIRMATORY

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130}
COLORS = {"0% wrong": "#2e8b57", "20% wrong": "#e08e0b", "40% wrong": "#c1272d", "shuffled": "#888888"}
OURS_COLOR, OTHERS_COLOR = "#1f5fa8", "#888888"


def write(found: dict, bases: list[dict], runs: list[dict], folder: Path) -> None:
    """All figures whose chapters were found, on confirmatory sets."""
    folder.mkdir(parents=True, exist_ok=True)
    bases = [base for base in bases if base["base"]["data"] in CONFIRMATORY]
    runs = [run for run in runs if run["run"]["data"] in CONFIRMATORY]
    if runs and "stop" in found:
        _save(course_of(runs), folder / "course.png")
        columns = ("minus validation accuracy", "minus best fixed epoch")
        _save(dots(found["stop"], columns, "test accuracy, ", 0), folder / "stop.png")
        _save(dots(found["alarm"], ("balanced accuracy", "found", "silent where fine"), "", 0.5), folder / "alarm.png")
        columns = ("test accuracy", "test R² of the probe")
        _save(dots(found["clock"], columns, "variance explained beyond the clock: ", 0), folder / "clock.png")
    if bases:
        _save(layers(bases), folder / "layers.png")
        _save(label_counts(bases), folder / "labels.png")
        _save(order({name: rows for name, rows in found.items() if name.startswith("order")}), folder / "order.png")
    if "samples" in found:
        _save(sample_counts(found["samples"]), folder / "samples.png")


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def course_of(runs: list[dict]):
    """Numbers over epochs relative to the baseline, means over sets, by how many training labels are wrong."""
    reads = {
        "test accuracy, finetuned head": truth,
        "probe R² held out": lambda run: series(run, "probe_r2") - series(run, "probe_r2")[0],
        "captured R² held out": lambda run: series(run, "captured_r2") - series(run, "captured_r2")[0],
        "captured, in-sample": lambda run: series(run, "captured_in_sample") - series(run, "captured_in_sample")[0],
        "score": lambda run: series(run, "score") - series(run, "score")[0],
    }
    figure, axes = plt.subplots(1, len(reads), figsize=(2.6 * len(reads), 2.4))
    epochs = [stage["epoch"] for stage in runs[0]["stages"]]
    for axis, (title, read) in zip(axes, reads.items(), strict=True):
        first = 1 if read is truth else 0
        for name, of_group in course.groups(runs).items():
            if any(of_group.values()):
                means = [numpy.mean([read(run) for run in of_set], 0) for of_set in of_group.values() if of_set]
                axis.plot(epochs[first:], numpy.mean(means, 0)[first:], marker=".", color=COLORS[name], label=name)
        axis.set_title(title if first else f"{title}, change", fontsize=8)
        axis.set_xlabel("epoch")
        if not first:
            axis.axhline(0, color="black", lw=0.5)
    axes[0].legend(title="training labels", frameon=False, fontsize=6, title_fontsize=6)
    return figure


def dots(rows: dict, columns, title: str, zero: float):
    """Intervals by candidate; ours in blue, what needs none of it in grey."""
    figure, axes = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 0.2 * len(rows) + 0.9), sharey=True)
    for axis, column in zip(axes, columns, strict=True):
        for at, (name, row) in enumerate(rows.items()):
            each = row[column]
            color = OURS_COLOR if name in OURS else OTHERS_COLOR
            axis.plot([each.low, each.high], [at, at], color=color, lw=1)
            axis.plot(each.value, at, "o", color=color, ms=3.5)
        axis.axvline(zero, color="black", lw=0.5)
        axis.set_xlabel(f"{title}{column}", fontsize=7)
    axes[0].set_yticks(range(len(rows)), [shown(name) if name in rows else name for name in rows], fontsize=6.5)
    axes[0].invert_yaxis()
    return figure


def layers(bases: list[dict]):
    """Held-out R² and captured R² by layer beside the R² on test windows, means over sets."""
    models = list(dict.fromkeys(base["base"]["model"] for base in bases))
    figure, axes = plt.subplots(1, len(models), figsize=(3.6 * len(models), 2.5), squeeze=False)
    for axis, model in zip(axes[0], models, strict=True):
        mine = [base for base in bases if base["base"]["model"] == model]
        lines = {
            "probe R², test windows": ([layer.layer_truth(base, "r2") for base in mine], "black"),
            "probe R², held out": ([layer.layer_values(base, "probe_r2") for base in mine], OURS_COLOR),
            "captured R²": ([layer.layer_values(base, "captured_r2") for base in mine], "#c1272d"),
            "captured, in-sample": ([layer.layer_values(base, "captured_in_sample") for base in mine], OTHERS_COLOR),
        }
        for name, (values, color) in lines.items():
            axis.plot(numpy.mean(values, 0), color=color, label=name)
        axis.set_title(f"{model}, mean of {len(mine)} sets")
        axis.set_xlabel("layer (0: embeddings; the last one is after the final norm)", fontsize=7)
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def label_counts(bases: list[dict]):
    """What was predicted of more labels, with its 95% interval, against what probes then read."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3))
    for axis, what in zip(axes, ("r2", "accuracy"), strict=True):
        points = defaultdict(list)
        for each in labels.predictions(bases):
            if each["what"] == what:
                points[each["size"]].append((each["true"], each["predicted"], 1.96 * each["error"]))
        ends = [value for of_size in points.values() for point in of_size for value in point[:2]]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", lw=0.5)
        for size, color in zip(sorted(points), (OURS_COLOR, "#c1272d"), strict=False):
            x, y, error = zip(*points[size], strict=True)
            axis.errorbar(x, y, yerr=error, fmt=".", ms=3, lw=0.4, color=color, label=f"{size} labels")
        axis.set_xlabel(f"{'R²' if what == 'r2' else what} on test windows")
        axis.set_ylabel("predicted from 270 labels")
    axes[0].legend(frameon=False)
    return figure


def order(chapters: dict):
    """Held-out R² of autoregressive directions minus that of others, by their number."""
    figure, axes = plt.subplots(1, len(chapters), figsize=(2.7 * len(chapters), 2.4), sharey=True, squeeze=False)
    for axis, (name, rows) in zip(axes[0], chapters.items(), strict=True):
        for other, color in (("minus bag_r2", OURS_COLOR), ("minus principal_r2", "#c1272d")):
            sizes = [size for size in rows if other in rows[size]]
            each = [rows[size][other] for size in sizes]
            axis.plot(sizes, [value.value for value in each], color=color, marker=".", label=other)
            axis.fill_between(sizes, [v.low for v in each], [v.high for v in each], color=color, alpha=0.15, lw=0)
        axis.axhline(0, color="black", lw=0.5)
        axis.set_xscale("log")
        axis.set_title(name.removeprefix("order, "), fontsize=8)
        axis.set_xlabel("directions k")
    axes[0, 0].set_ylabel("held-out R²")
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def sample_counts(found: dict):
    """How far the score ends above its null, and how it follows held-out R², by n/d."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
    ratios = [float(ratio) for ratio in found]
    for name in next(iter(found.values())):
        for axis, what in zip(axes, ("distance after", "rank correlation"), strict=True):
            axis.plot(ratios, [by_set[name][what] for by_set in found.values()], marker=".", label=name)
    axes[0].axhline(samples.CLEAR, color="black", lw=0.5)
    axes[0].set_ylabel("score above its null at the end, sd")
    axes[1].axhline(samples.FOLLOWS, color="black", lw=0.5)
    axes[1].set_ylabel("rank correlation with held-out R²")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axis.minorticks_off()
        axis.set_xlabel("samples per dimension n/d")
    axes[0].legend(frameon=False, fontsize=6)
    return figure
