"""What is run, in the order in which it is run."""

from dataclasses import dataclass
from itertools import pairwise

MODELS = ("smollm2", "gemma3")
SEEDS = (0, 1)

SETS = (
    "bbc",
    "brown_genre",
    "vader_tweets",
    "spam",
    "uncertainty",
    "r8",
    "ng20",
    "airline3",
    "rt_polarity",
    "trump_device",
    "finefoods",
    "pl_movies_long",
    "drugs2",
)
# The rule: of a set with more than two classes the four with the most distinct texts, the alphabet deciding between
# equals; the first against the second, the second against the third, the third against the fourth.
FREQUENT = {
    "bbc": ("business", "sports", "politics", "entertainment"),
    "brown_genre": ("news", "belles_lettres", "learned", "lore"),
    "r8": ("earn", "acq", "crude", "trade"),
    "ng20": ("rec.sport.hockey", "soc.religion.christian", "rec.sport.baseball", "rec.motorcycles"),
    "airline3": ("negative", "neutral", "positive"),
}


@dataclass(frozen=True)
class Task:
    """A set, or two classes of it."""

    data: str
    classes: tuple[str, ...] = ()  # none: all

    @property
    def name(self) -> str:
        return ":".join([self.data, *filter(None, ["-".join(self.classes)])])


@dataclass(frozen=True)
class Scale:
    """How large a task and a run are."""

    texts: int = 4000  # at most so many for training, and for test; half of those there are in smaller sets
    length: int = 64  # tokens, of which a text's first are taken
    validation: int = 500  # of the training texts, to choose an evaluation by; a quarter of fewer than 2,000
    steps: int = 1500
    batch_size: int = 32
    evaluations: int = 5  # evenly spread, the last one at the end
    # That of the LoRA paper for all blocks of GPT-2, and QLoRA's; alpha = r, so that updates are not scaled. The second
    # study's 1e-3 is for four blocks and few texts, and is meant to overfit.
    learning_rate: float = 2e-4
    lora_rank: int = 32


USUAL = Scale()
TOY = Scale(texts=48, length=12, validation=12, steps=4, batch_size=8, evaluations=2)


def tasks() -> list[Task]:
    """Every whole set, then the splits."""
    splits = [Task(data, pair) for data, classes in FREQUENT.items() for pair in pairwise(classes)]
    return [*map(Task, SETS), *splits]


def toy_tasks() -> list[Task]:
    """Two sets and a split."""
    return [Task("bbc"), Task("drugs2"), Task("bbc", FREQUENT["bbc"][:2])]
