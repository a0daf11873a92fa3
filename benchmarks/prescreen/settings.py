"""What is run, in the order in which it is run."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent / "results"
BUILD = ROOT / "build" / "prescreen"

MODELS = ("smollm2", "gemma3")
SETS = (
    "bbc",
    "r8",
    "ng20",
    "airline3",
    "rt_polarity",
    "vader_tweets",
    "brown_genre",
    "spam",
    "finefoods",
    "uncertainty",
    "trump_device",
    "drugs2",  # has 883 texts: fewer to test on
)
LENGTH = 32  # tokens of a text, at most
SEED = 0  # of the order of texts

COST_MODEL, COST_DATA = "smollm2", "bbc"
# By name, who measures; both call the model over 32 texts of 32 tokens at a time, as each does by itself.
TEXTS_A_CALL = 32
PARTIES = {"ours": "ours", "transformer-ranker": "peer"}


@dataclass(frozen=True)
class Scale:
    """How much."""

    measured: int = 700  # texts that numbers are measured on: more than there are dimensions, as H-score and LogME need
    tested: int = 800  # other texts, at most
    sizes: tuple[int, ...] = (250, 500, 1000, 2000, 4000)  # whose cost is measured
    rounds: int = 2  # of those
    many: int = 8000  # whose memory is measured
    sets: tuple[str, ...] = SETS


USUAL = Scale()
TOY = Scale(measured=80, tested=60, sizes=(40, 80), rounds=1, many=120, sets=("vader_tweets",))
