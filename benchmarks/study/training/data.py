"""The windows of a job."""

from benchmarks.study.settings import Job, Scale
from benchmarks.study.texts.windows import Windows, windows
from benchmarks.study.training.backbones import tokenizer


def data(job: Job, scale: Scale) -> Windows:
    """The windows of a job."""
    sizes = (scale.train, scale.val, scale.test)
    return windows(job.data, tokenizer(job.model), sizes, scale.length, job.labelling)
