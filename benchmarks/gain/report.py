"""The table of STUDY.md and its figure, from rows: nothing is run here."""

from pathlib import Path

import matplotlib

from benchmarks.gain.analysis import NAMED, Outcome, correlations, outcomes
from benchmarks.gain.settings import MODELS, SEEDS
from benchmarks.study.report.figures import BLUE, GREY, RED
from benchmarks.study.report.tables import fill, table, verdict, with_interval

matplotlib.use("Agg")
import matplotlib.pyplot as plt

FEWEST = 25  # tasks, as the protocol says


def write(rows: list[dict], pictures: Path, document: Path | None = None) -> str:
    """Tables, which are returned, and the figure; between the marks of ``document`` too, if there are enough tasks."""
    found = {model: outcomes(rows, model, SEEDS) for model in MODELS}
    found = {model: tasks for model, tasks in found.items() if tasks}
    if not found:
        return "not run"
    text = "\n\n".join(chapter(model, tasks, _made_on(rows, model)) for model, tasks in found.items())
    few = [model for model, tasks in found.items() if len(tasks) < FEWEST]
    if few and document:
        short = f"fewer than {FEWEST} tasks of {', '.join(few)} have all their rows"
        return f"{text}\n\n{document.name} is left alone: {short}"
    pictures.mkdir(parents=True, exist_ok=True)
    figure(found, pictures / "gain.png")
    if document:
        picture = (
            f"![Gains by score and by the probe's accuracy]({(pictures / 'gain.png').relative_to(document.parent)})"
        )
        document.write_text(fill(document.read_text(), {"gain": f"{text}\n\n{picture}"}))
    return text


def chapter(model: str, found: list[Outcome], made_on: str) -> str:
    """The claim, the table of numbers and that of tasks."""
    numbers = correlations(found)
    named = numbers[NAMED]["gain"]
    sets = len({each.data for each in found})
    said = f"{model}, {len(found)} tasks of {sets} sets, {made_on}. The lower the score, the higher the gain:"
    said += f" **{verdict(named, negative=True)}**, rank correlation {with_interval(named)}."
    return "\n\n".join([said, _numbers(numbers), _tasks(found)])


def _made_on(rows: list[dict], model: str) -> str:
    return " and ".join(sorted({row["device"] for row in rows if row["model"] == model}))


def _numbers(numbers: dict) -> str:
    columns = ("gain", "gain given the probe", "LoRA's accuracy")
    rows = [
        [name, found.get("num_tasks", 0), *(with_interval(found.get(column, {})) for column in columns)]
        for name, found in numbers.items()
    ]
    return table(
        ["rank correlation over tasks of", "tasks", "with the gain", "given the probe", "with LoRA's accuracy"], rows
    )


def _tasks(found: list[Outcome]) -> str:
    header = ["task", "training texts", "test texts", "score", "probe", "LoRA", "at the end", "gain"]
    return table(header, [_task(each) for each in found])


def _task(each: Outcome) -> list:
    gain = f"{each.gain:.2f} ± {each.gain_error:.2f}"
    return [each.name, each.num_train, each.num_test, each.numbers[NAMED], each.probe, each.lora, each.last, gain]


def figure(found: dict[str, list[Outcome]], path: Path) -> None:
    """The score and the probe's accuracy against the gain."""
    sides = {
        "score of the base model": lambda each: each.numbers[NAMED],
        "accuracy of the probe": lambda each: each.probe,
    }
    drawn, axes = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
    for axis, (label, read) in zip(axes, sides.items(), strict=True):
        for (model, tasks), color in zip(found.items(), (RED, BLUE), strict=False):
            points = [(read(each), each.gain, 1.96 * each.gain_error) for each in tasks]
            x, y, error = zip(*points, strict=True)
            axis.errorbar(x, y, yerr=error, fmt="o", ms=3, lw=0.6, color=color, ecolor=GREY, label=model)
        axis.axhline(0, color="black", lw=0.5)
        axis.set_xlabel(label)
    axes[0].set_ylabel("gain: share of the probe's\nerrors that LoRA does not make")
    axes[0].legend(frameon=False, fontsize=6)
    drawn.tight_layout()
    drawn.savefig(path, bbox_inches="tight")
    plt.close(drawn)
