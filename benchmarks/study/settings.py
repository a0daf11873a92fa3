"""What is run: the jobs, in the order in which they are run, and everything that was scaled down."""

from dataclasses import asdict, dataclass, replace

from benchmarks.study.texts.readers import READERS


@dataclass(frozen=True)
class Job:
    """One finetuning run: a row of the results."""

    model: str
    data: str
    seed: int = 0
    labelling: str = "real"  # or "shuffled", "parity": labels that mean nothing, or cannot be learned
    weights: str = "pretrained"  # or "random"
    trained: str = "lora"  # in the top blocks; or "full": every weight of every block
    learning_rate: float = 5e-4

    @property
    def unusual(self) -> dict:
        """What differs from the main protocol."""
        usual = Job(self.model, self.data)
        return {k: v for k, v in asdict(self).items() if v != getattr(usual, k)}

    @property
    def name(self) -> str:
        """A readable key; what is usual is left out."""
        return "-".join([self.model, self.data, *(f"{k}={v}" for k, v in self.unusual.items())])

    @property
    def top_blocks(self) -> int | None:
        """Number of blocks that are trained, from the top; ``None``: all."""
        return {"smollm2": 4, "gemma3": 3}[self.model] if self.trained == "lora" else None


@dataclass(frozen=True)
class Scale:
    """How large a run is."""

    train: int = 750
    val: int = 1100
    test: int = 600
    length: int = 20  # tokens of a window
    batch_size: int = 16
    evaluations: tuple[float, ...] = (0, 0.5, 1, 1.5, 2, 3, 4, 6)  # in epochs; the last one ends the run
    val_parts: tuple[int, ...] = (300, 300, 500)  # moments are kept apart for these, for the axis n/d
    lora_rank: int = 32


# Epochs at which the other views (layers, pooling, fewer samples) are measured, beside the last layer's states.
VIEWED = (0, 1, 2, 4, 6)
MODELS = ("smollm2", "gemma3")
FULL = Scale()
SMOKE = Scale(train=64, val=96, test=64, evaluations=(0, 1, 2), val_parts=(32, 32, 32))
# Training all blocks costs a pass through the whole model per step and evaluation.
WHOLE = replace(FULL, evaluations=(0, 2))


def jobs(smoke: bool) -> list[Job]:
    """All jobs; a smoke run has one and a control."""
    if smoke:
        return [Job("smollm2", "bbc"), Job("smollm2", "bbc", labelling="shuffled")]
    return [
        *(Job(model, data) for data in READERS for model in MODELS),
        Job("smollm2", "bbc", labelling="shuffled"),
        Job("smollm2", "rt_polarity", labelling="parity"),
        Job("smollm2", "rt_polarity", learning_rate=1e-4),
        Job("smollm2", "bbc", weights="random", trained="full"),
        *(Job("smollm2", data, seed=1) for data in ("r8", "airline3", "rt_polarity")),
    ]


def scale(job: Job, smoke: bool) -> Scale:
    """The scale of a job."""
    if smoke:
        return SMOKE
    return FULL if job.top_blocks else WHOLE
