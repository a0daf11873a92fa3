"""One finetuning run, and what is measured of it as it goes."""

from dataclasses import asdict
from functools import partial

import torch

from benchmarks.decisions.measures import candidates, details, head_numbers, metric, paired_errors, tested
from benchmarks.decisions.settings import Run, Scale
from benchmarks.decisions.windows import Labelled, labelled, training_labels
from benchmarks.score_error import Fixed
from benchmarks.study.settings import Job
from benchmarks.study.training.classifier import Classifier
from benchmarks.study.training.states import Ragged, by_length, masked_mean
from benchmarks.study.training.steps import stages

MODEL = "smollm2"
NULL_DRAWS = 200


def run_row(run: Run, scale: Scale, trunk: dict, progress) -> dict:
    """Numbers of all evaluations of a run."""
    texts = labelled(run.data, MODEL, scale)
    num_classes = texts.windows.num_classes
    states = {split: Ragged(*part) for split, part in trunk.items()}
    trained = training_labels(run, texts.windows.labels["train"], num_classes)
    model = Classifier(Job(MODEL, run.data, seed=run.seed), scale, num_classes)
    found = stages(
        model,
        states["train"],
        torch.tensor(trained),
        partial(evaluate, model, states, texts, scale, trained),
        scale.evaluations,
        learning_rate=scale.learning_rate,
        batch_size=scale.batch_size,
        seed=run.seed,
        progress=lambda steps: progress(steps, run.name),
    )
    errors = paired_errors(found)
    for stage in found:
        for name in ("held_out", "head", "num_windows"):
            del stage[name]
    wrong = sum(a != b for a, b in zip(trained, texts.windows.labels["train"], strict=True))
    return {
        "run": asdict(run),
        "scale": asdict(scale),
        "num_classes": num_classes,
        "wrong": wrong,
        "stages": found,
        "paired_errors": errors,
    }


@torch.no_grad()
def evaluate(model, states: dict, texts: Labelled, scale: Scale, trained: list[int], epoch: float) -> dict:
    """Candidates of both labellings on validation windows, and what is true on test windows."""
    model.eval()
    sums = Sums(model.head.in_features, texts, scale.cuts)
    pooled = {split: torch.zeros(len(states[split].lengths), model.head.in_features) for split in states}
    for split, batch in _batches(states, scale, epoch):
        trunk, mask = states[split].batch(batch)
        hidden = model.last(trunk, mask)
        pooled[split][batch] = masked_mean(hidden, mask)
        if split == "val":
            sums.add(batch, hidden, mask)
    logits = {split: model.head(each) for split, each in pooled.items()}
    groups = torch.tensor(texts.windows.texts["val"])
    head = head_numbers(logits["val"], torch.tensor(texts.labels["true"]["val"]), groups)
    on_test = head_numbers(logits["test"], torch.tensor(texts.labels["true"]["test"]), torch.arange(scale.test))
    said = sums.said("true")
    stage = {
        "held_out": said.held_out,
        "head": head,
        "num_windows": scale.val,
        "val_loss": head["loss"][0],
        "val_accuracy": head["accuracy"][0],
        "test_loss": on_test["loss"][0],
        "test_accuracy": on_test["accuracy"][0],
        **sums.numbers(),
    }
    for labelling, labels in texts.labels.items():
        val, test = ((pooled[split], labels[split]) for split in ("val", "test"))
        stage[f"test_probe_{labelling}"] = tested(val, test, texts.num_classes(labelling))
    if epoch == 0:
        train = (pooled["train"], trained)
        stage["training_probe"] = tested(
            train, (pooled["test"], texts.labels["true"]["test"]), texts.windows.num_classes
        )
    return stage


def _batches(states: dict, scale: Scale, epoch: float):
    """Validation windows up to each cut first, so that they can be read alone; in the end those of training."""
    ends = [*(round(cut * states["val"].flat.shape[1]) for cut in scale.cuts), scale.val]
    for start, end in zip([0, *ends], ends, strict=False):
        yield from (("val", batch) for batch in by_length(states["val"].lengths, range(start, end)))
    for split in ("test", "train") if epoch == 0 else ("test",):
        yield from ((split, batch) for batch in by_length(states[split].lengths, range(len(states[split].lengths))))


class Sums:
    """The metrics of one evaluation."""

    def __init__(self, hidden_size: int, texts: Labelled, cuts):
        self._texts = texts
        self._ends = {round(cut * hidden_size): cut for cut in cuts}
        self._at: dict[float, dict] = {}
        self._metrics = {name: metric(hidden_size, texts.num_classes(name)) for name in texts.labels}
        self._said: dict = {}

    def add(self, batch: list[int], hidden, mask) -> None:
        """A batch of validation windows."""
        groups = torch.tensor(self._texts.windows.texts["val"])[batch]
        for name, sums in self._metrics.items():
            labels = torch.tensor(self._texts.labels[name]["val"])[batch]
            sums.update(hidden, labels, mask, sample_ids=torch.tensor(batch), group_ids=groups)
        seen = int(self._metrics["true"].num_samples)
        if seen in self._ends:
            self._at[self._ends[seen]] = score_numbers(self._metrics["true"])

    def said(self, labelling: str):
        """The details of all windows."""
        if labelling not in self._said:
            self._said[labelling] = details(self._metrics[labelling])
        return self._said[labelling]

    def numbers(self) -> dict:
        """Candidates by labelling, and the score by n/d."""
        found = {name: candidates(sums, self.said(name)) for name, sums in self._metrics.items()}
        if self._ends:
            found["cuts"] = self._at | {"all": score_numbers(self._metrics["true"])}
        return found


def score_numbers(sums) -> dict:
    """The score, and mean and standard deviation of what shuffled labels score."""
    found = details(sums)
    drawn = Fixed(sums._moments(), found.ridge).null(NULL_DRAWS)
    numbers = candidates(sums, found)
    names = ("score", "null", "lift", "captured_in_sample", "probe_r2", "captured_r2")
    return {name: numbers[name] for name in names} | {"drawn": [float(drawn.mean()), float(drawn.std())]}
