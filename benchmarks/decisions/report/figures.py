"""The figures of STUDY.md, one per question."""

from collections import defaultdict
from pathlib import Path

import matplotlib
import numpy

from benchmarks.decisions.analysis import course, labels, layer, samples, verdicts
from benchmarks.decisions.analysis.candidates import OURS, series, shown, truth
from benchmarks.decisions.settings import CONFIRMATORY

matplotlib.use("Agg")
import matplotlib.pyplot as plt

plt.rcParams |= {"font.size": 8, "axes.spines.top": False, "axes.spines.right": False, "figure.dpi": 130}
COLORS = {"0% wrong": "#2e8b57", "20% wrong": "#e08e0b", "40% wrong": "#c1272d", "shuffled": "#888888"}
OURS_COLOR, OTHERS_COLOR = "#1f5fa8", "#888888"
PRINCIPAL_COLOR = "#c1272d"
SIZE_COLORS = {400: OURS_COLOR, 800: PRINCIPAL_COLOR}
MARKS = {"smollm2": "o", "gemma3": "^"}
COMPARED = {"minus bag_r2": "directions without order", "minus principal_r2": "principal components"}
MODEL_NAMES = {"smollm2": "SmolLM2-135M", "gemma3": "Gemma 3 270M"}
COURSE = {
    "test accuracy, finetuned head": "",
    "probe R², change": "probe_r2",
    "captured R², change": "captured_r2",
    "principal R², change": "principal_r2",
    "probe accuracy, change": "probe_accuracy",
    "captured in-sample, change": "captured_in_sample",
    "score, change": "score",
    "RankMe, relative change": "rankme",
}
# By chapter: columns with their captions and bars, and who was named.
DOTS = {
    "stop": {
        "columns": {
            "minus validation accuracy": (
                "test accuracy where it stops, minus where\nvalidation accuracy does",
                verdicts.STOP_BAR,
            ),
            "minus best fixed epoch": ("minus that at the epoch that is best\non other sets", 0.0),
        },
        "named": verdicts.STOP,
    },
    "alarm": {
        "columns": {
            "balanced accuracy": ("balanced accuracy", verdicts.ALARM_BAR),
            "found": ("bad evaluations that were found", None),
            "silent where fine": ("fine ones where it was silent", None),
        },
        "named": verdicts.ALARM,
    },
    "clock": {
        "columns": {
            "test accuracy": ("variance explained beyond the clock,\nof test accuracy", 0.0),
            "test accuracy, all sets pooled": ("the same of all sets pooled\n(no verdict goes by it)", None),
            "test R² of the probe": ("of the probe's R² on test windows", 0.0),
        },
        "named": verdicts.CLOCK,
    },
}
LAYER_DOTS = {
    "columns": {
        "test r2, minus the last layer": (
            "R² on test windows where it picks the layer,\nminus that of the last one",
            0.0,
        ),
        "test r2, minus the best layer": ("minus that of the best one", None),
    },
    "named": verdicts.LAYER,
}


def write(found: dict, bases: list[dict], runs: list[dict], folder: Path) -> None:
    """All figures whose chapters were found, on confirmatory sets."""
    folder.mkdir(parents=True, exist_ok=True)
    bases = [base for base in bases if base["base"]["data"] in CONFIRMATORY]
    runs = [run for run in runs if run["run"]["data"] in CONFIRMATORY]
    if runs and "stop" in found:
        _save(course_of(runs), folder / "course.png")
        for name, drawn in DOTS.items():
            _save(dots(found[name], **drawn), folder / f"{name}.png")
    if bases:
        _save(layers(bases), folder / "layers.png")
        for model in dict.fromkeys(base["base"]["model"] for base in bases):
            _save(dots(found[f"layer, {model}"], **LAYER_DOTS), folder / f"layer_{model}.png")
        _save(label_counts(bases), folder / "labels.png")
        models = {base["base"]["model"] for base in bases}
        chapters = {
            name: rows for name, rows in found.items() if name.startswith("order") and name.split(", ")[1] in models
        }
        _save(order(chapters), folder / "order.png")
    if "samples" in found:
        _save(sample_counts(found["samples"]), folder / "samples.png")


def _save(figure, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, bbox_inches="tight")
    plt.close(figure)


def course_of(runs: list[dict]):
    """Numbers over epochs, ours relative to the baseline; means over sets, by how many training labels are wrong.
    Accuracy of the shuffled is of other sets, and left out.
    """
    figure, axes = plt.subplots(2, len(COURSE) // 2, figsize=(2.5 * len(COURSE) // 2, 4.4), sharex=True)
    epochs = [stage["epoch"] for stage in runs[0]["stages"]]
    for axis, (title, name) in zip(axes.flat, COURSE.items(), strict=True):
        first = 0 if name else 1
        for group, of_group in course.groups(runs).items():
            if any(of_group.values()) and (name or group != "shuffled"):
                means = [numpy.mean([_course(run, name) for run in each], 0) for each in of_group.values() if each]
                axis.plot(epochs[first:], numpy.mean(means, 0)[first:], marker=".", color=COLORS[group], label=group)
        axis.set_title(title, fontsize=8)
        if name:
            axis.axhline(0, color="black", lw=0.5)
    for axis in axes[1]:
        axis.set_xlabel("epoch")
    axes[0, -1].legend(title="training labels", loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    return figure


def _course(run: dict, name: str) -> numpy.ndarray:
    if not name:
        return truth(run)
    values = series(run, name)
    return values / values[0] - 1 if name == "rankme" else values - values[0]


def dots(rows: dict, columns: dict, named: str):
    """Intervals by candidate; ours in blue, what needs none of it in grey, who was named in bold, bars dashed."""
    figure, axes = plt.subplots(1, len(columns), figsize=(3.4 * len(columns), 0.2 * len(rows) + 0.9), sharey=True)
    for axis, (column, (caption, bar)) in zip(axes, columns.items(), strict=True):
        for at, (name, row) in enumerate(rows.items()):
            each = row[column]
            look = {"color": OURS_COLOR if name in OURS else OTHERS_COLOR, "lw": 2 if name == named else 1}
            axis.plot([each.low, each.high], [at, at], **look)
            axis.plot(each.value, at, "o", color=look["color"], ms=3.5)
        if bar is not None:
            axis.axvline(bar, color="black", lw=0.6, ls="--")
        axis.set_xlabel(caption, fontsize=7)
    axes[0].set_yticks(range(len(rows)), [shown(name).strip("`") for name in rows], fontsize=6.5)
    for label, name in zip(axes[0].get_yticklabels(), rows, strict=True):
        label.set_fontweight("bold" if name == named else "normal")
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
            "captured R²": ([layer.layer_values(base, "captured_r2") for base in mine], PRINCIPAL_COLOR),
            "captured, in-sample": ([layer.layer_values(base, "captured_in_sample") for base in mine], OTHERS_COLOR),
        }
        for name, (values, color) in lines.items():
            axis.plot(numpy.mean(values, 0), color=color, label=name)
        axis.set_title(f"{MODEL_NAMES[model]}, mean of {len(mine)} sets")
        axis.set_xlabel("layer (0: embeddings; the last one is after the final norm)", fontsize=7)
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def label_counts(bases: list[dict]):
    """What was predicted of more labels against what probes then read, with the 95% interval of the difference."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 3))
    for axis, what in zip(axes, ("r2", "accuracy"), strict=True):
        points = defaultdict(list)
        for each in labels.predictions(bases):
            if each["what"] == what:
                error = 1.96 * numpy.hypot(each["error"], each["test_error"])
                points[each["size"], each["model"]].append((each["true"], each["predicted"], error))
        ends = [value for of_size in points.values() for point in of_size for value in point[:2]]
        axis.plot([min(ends), max(ends)], [min(ends), max(ends)], color="black", lw=0.5)
        for size, model in sorted(points):
            x, y, error = zip(*points[size, model], strict=True)
            look = {"color": SIZE_COLORS[size], "fmt": MARKS[model], "ms": 3, "lw": 0.4, "alpha": 0.6}
            axis.errorbar(x, y, yerr=error, label=f"{size} labels, {MODEL_NAMES[model]}", **look)
        axis.set_xlabel(f"{'R²' if what == 'r2' else what} on test windows")
        axis.set_ylabel("predicted from 270 labels")
    axes[0].legend(frameon=False, loc="lower right", fontsize=6)
    return figure


def order(chapters: dict):
    """Held-out R² of autoregressive directions minus that of others, by their number."""
    figure, axes = plt.subplots(1, len(chapters), figsize=(2.7 * len(chapters), 2.4), sharey=True, squeeze=False)
    for axis, (name, rows) in zip(axes[0], chapters.items(), strict=True):
        for other, color in (("minus bag_r2", OURS_COLOR), ("minus principal_r2", PRINCIPAL_COLOR)):
            sizes = [size for size in rows if other in rows[size]]
            each = [rows[size][other] for size in sizes]
            axis.plot(sizes, [value.value for value in each], color=color, marker=".", label=COMPARED[other])
            axis.fill_between(sizes, [v.low for v in each], [v.high for v in each], color=color, alpha=0.15, lw=0)
        axis.axhline(0, color="black", lw=0.5)
        axis.set_xscale("log")
        _, model, depth = name.split(", ")
        axis.set_title(f"{MODEL_NAMES[model]}, {depth}", fontsize=8)
        axis.set_xlabel("directions k")
    axes[0, 0].set_ylabel("held-out R² of k autoregressive directions,\nminus that of", fontsize=7)
    axes[0, 0].legend(frameon=False, fontsize=6)
    return figure


def sample_counts(found: dict):
    """How far the score ends above its null, and how it follows held-out R², by n/d."""
    figure, axes = plt.subplots(1, 2, figsize=(6.4, 2.6))
    ratios = [float(ratio) for ratio in found]
    for name in next(iter(found.values())):
        for axis, what in zip(axes, ("distance after", "rank correlation"), strict=True):
            axis.plot(ratios, [by_set[name][what] for by_set in found.values()], marker=".", label=name)
    others = [samples.mean(by_set, "captured_r2") for by_set in found.values()]
    mean = axes[1].plot(ratios, others, color="black", ls="--", lw=1, label="captured R² of as many, mean")
    axes[1].legend(handles=mean, frameon=False, fontsize=6, loc="center right")
    axes[0].axhline(samples.CLEAR, color="black", lw=0.5)
    axes[0].set_ylabel("score above its null at the end, sd")
    axes[1].axhline(samples.FOLLOWS, color="black", lw=0.5)
    axes[1].set_ylabel("rank correlation with held-out R²\nof all 10,000 windows")
    for axis in axes:
        axis.set_xscale("log")
        axis.set_xticks(ratios, [f"{ratio:g}" for ratio in ratios])
        axis.minorticks_off()
        axis.set_xlabel("samples per dimension n/d")
    axes[0].legend(frameon=False, fontsize=6)
    return figure
