"""LoRA on a classification task, evaluated as it goes."""

from functools import partial

import torch

from benchmarks.study.settings import Job, Scale
from benchmarks.study.texts.windows import SPLITS
from benchmarks.study.training.classifier import Classifier
from benchmarks.study.training.data import data
from benchmarks.study.training.evaluate import evaluate
from benchmarks.study.training.states import DEVICE, Ragged
from benchmarks.study.training.steps import stages


def finetune(job: Job, scale: Scale, trunk: dict, progress) -> list[dict]:
    """Train and evaluate; one dictionary per evaluation, the first from before the first step."""
    texts = data(job, scale)
    states = {split: Ragged(*trunk[split]) for split in SPLITS}
    labels = {split: torch.tensor(texts.labels[split], device=DEVICE) for split in SPLITS}
    model = Classifier(job, scale, texts.num_classes).to(DEVICE)
    return stages(
        model,
        states["train"],
        labels["train"],
        partial(evaluate, model, states, labels, scale, texts.num_classes),
        scale.evaluations,
        learning_rate=job.learning_rate,
        batch_size=scale.batch_size,
        seed=job.seed,
        progress=lambda steps: progress(steps, job.name),
    )
