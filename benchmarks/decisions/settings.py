"""What is run, in the order in which it is run."""

from dataclasses import dataclass

EXPLORATORY = ("rt_polarity", "airline3", "ng20")
CONFIRMATORY = (
    "uncertainty",
    "brown_genre",
    "trump_device",
    "r8",
    "bbc",
    "spam",
    "finefoods",
    "pl_movies_long",
    "drugs2",
)
LARGE = ("airline3", "rt_polarity", "ng20", "brown_genre", "r8")
MODELS = ("smollm2", "gemma3")
TOP_BLOCKS = {"smollm2": 4, "gemma3": 3}
NOISES = (0.0, 0.2, 0.4)
SEEDS = (0, 1)
SHUFFLED = ("rt_polarity", "bbc", "spam")


@dataclass(frozen=True)
class Scale:
    """How large the splits and runs are."""

    train: int = 320
    val: int = 1200
    test: int = 1800
    length: int = 20  # tokens of a window
    batch_size: int = 16
    learning_rate: float = 1e-3
    evaluations: tuple[float, ...] = (0, 1, 2, 3, 4, 6, 8, 12, 16, 20)  # in epochs; the last one ends the run
    cuts: tuple[float, ...] = ()  # n/d of validation windows that are read alone as well
    lora_rank: int = 32

    @property
    def sizes(self) -> tuple[int, int, int]:
        """Windows of training, validation and test."""
        return self.train, self.val, self.test


USUAL = Scale()
MANY = Scale(train=1500, val=10_000, learning_rate=5e-4, evaluations=(0, 0.5, 1, 2, 3, 4, 6), cuts=(1, 2, 5, 10))
TOY = Scale(train=32, val=120, test=60, evaluations=(0, 1, 2))
TOY_MANY = Scale(train=32, val=700, test=60, evaluations=(0, 1), cuts=(1,))


@dataclass(frozen=True)
class Base:
    """A model before any training, on a set: a row of ``bases.jsonl``."""

    model: str
    data: str

    @property
    def name(self) -> str:
        return f"{self.model}-{self.data}"


@dataclass(frozen=True)
class Run:
    """One finetuning run of SmolLM2: a row of ``runs.jsonl``, or with many validation windows of ``many.jsonl``."""

    data: str
    noise: float = 0.0  # share of training labels that are wrong
    shuffled: bool = False
    seed: int = 0

    @property
    def name(self) -> str:
        labels = "shuffled" if self.shuffled else f"noise{self.noise:g}"
        return f"{self.data}-{labels}-seed{self.seed}"


def runs(sets) -> list[Run]:
    """The runs of some sets, a set at a time."""
    found = []
    for data in sets:
        found += [Run(data, noise, seed=seed) for seed in SEEDS for noise in NOISES]
        found += [Run(data, shuffled=True)] if data in SHUFFLED else []
    return found
