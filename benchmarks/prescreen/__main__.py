"""Prescreening beside transformer-ranker 0.2.0: the same models, texts, tokens and threads, all layers.

1. Seconds of the processor, and peak memory beyond the loaded model, of 250 to 4,000 texts of 32 tokens of BBC news on
   SmolLM2-135M: of all our numbers, and of one of its three estimators (H-score; each needs a run of its own, or the
   embeddings at hand). It keeps an embedding a text and layer, n L d numbers; we keep sums, and the states of 2,048
   texts, so that memory is also measured of 8,000. The pass is the model's calls with the
   sums or embeddings that are made of them; the rest, of ours, is mostly the hash that tells the model apart.
2. Over the layers of SmolLM2-135M and Gemma 3 270M on twelve packaged sets: how each number, of 700 texts of at most
   32 tokens, follows a ridge probe that is trained on the same texts and read on up to 800 others, and how much
   accuracy is lost by the layer where it is highest. The probe reads means over all tokens, as ours does. The peer
   leaves out special tokens, splits at punctuation first and averages over words; it has no layer 0, the embeddings:
   the layers are compared that both have. With fewer texts than dimensions its LogME would lack d - n terms of the
   determinant, log(alpha) each, and our H-score be the same in all layers, so there are more.
3. Which of the two models, each at its layer: whether the number is higher for the one whose probe reads the test texts
   better. Ours also says a tie where paired errors cannot tell.

python -m benchmarks.prescreen               # what has no row yet, three hours of one core; then the tables
python -m benchmarks.prescreen --part cost   # a part of it: cost, memory, layers, choice or report
python -m benchmarks.prescreen --toy         # all parts, small, into build/prescreen/toy

Rows are added to benchmarks/prescreen/results as they come, and are not made again. The peer is installed, without what
it depends on, into build/prescreen; both models and the texts are those of `make study`, whose environment has them.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

from benchmarks.decisions.measures import versions
from benchmarks.decisions.rows import Rows
from benchmarks.helpers.progress import doing
from benchmarks.prescreen import peer, report
from benchmarks.prescreen.child import measure
from benchmarks.prescreen.settings import (
    BUILD,
    COST_DATA,
    COST_MODEL,
    LENGTH,
    MODELS,
    PARTIES,
    RESULTS,
    SEED,
    TEXTS_A_CALL,
    TOY,
    USUAL,
    Scale,
)

PARTS = ("cost", "memory", "layers", "choice")
COMMON = {"seed": SEED, "length": LENGTH}


class Benchmark:
    """Measures what has no row yet.

    Args:
        folder: of the rows.
        scale: how much.

    """

    def __init__(self, folder: Path, scale: Scale) -> None:
        self._folder = folder
        self._scale = scale

    def cost(self) -> None:
        """Libraries in turn, in the other order every other round."""
        for number in range(self._scale.rounds):
            for n in self._scale.sizes:
                for party in list(PARTIES)[:: -1 if number % 2 else 1]:
                    about = {"model": COST_MODEL, "data": COST_DATA, "n": n, "party": party, "round": number}
                    self._row("cost", f"n={n} {party} round {number}", about, partial(cost, party, n))

    def memory(self) -> None:
        """Of more texts, whatever else the machine does."""
        n = self._scale.many
        for party in PARTIES:
            self._row("memory", f"n={n} {party}", {"n": n, "party": party}, partial(memory, party, n))

    def layers(self) -> None:
        """Each model on each set."""
        for data in self._scale.sets:
            for model in MODELS:
                about = {"model": model, "data": data}
                self._row("layers", f"{model}-{data}", about, partial(layers, options=about | self._sizes))

    def choice(self) -> None:
        """Both models on each set."""
        for data in self._scale.sets:
            about = {"data": data}
            self._row("choice", data, about, partial(measure, "ours", "choice", **about, **self._sizes))

    def report(self) -> None:
        """The tables of all rows."""
        costs, memories, rows, choices = (list(self._rows(kind).all.values()) for kind in PARTS)
        report.cost_table(costs, memories)
        report.layer_tables(rows)
        report.choice_tables(rows, choices)
        print("\n".join(report.constant_lines(rows)))

    @property
    def _sizes(self) -> dict[str, int]:
        return {"measured": self._scale.measured, "tested": self._scale.tested}

    def _rows(self, kind: str) -> Rows:
        return Rows(kind, self._folder)

    def _row(self, kind: str, name: str, about: dict, make: Callable[[], dict]) -> None:
        if name in self._rows(kind):
            return
        doing(f"{kind}: {name}")
        begin = time.perf_counter()
        found = make()
        made = {"took": time.perf_counter() - begin, "versions": versions() | more_versions()}
        self._rows(kind).add(name, about | COMMON | found | made)


def cost(party: str, n: int) -> dict:
    """What a party takes for n texts."""
    return measure(PARTIES[party], "cost", model=COST_MODEL, data=COST_DATA, n=n, texts_a_call=TEXTS_A_CALL)


def memory(party: str, n: int) -> dict:
    """What a party takes beyond the model for n texts."""
    return {"peak_bytes": cost(party, n)["peak_bytes"]}


def layers(options: dict) -> dict:
    """The numbers of both libraries by layer, and what is true."""
    test = measure("truth", "layers", **options)
    ours, theirs = (measure(party, "layers", **options) for party in ("ours", "peer"))
    seconds = {"ours": ours["seconds"], "peer": theirs["seconds"]}
    return {"test": test.pop("layers"), **test, "ours": ours["layers"], "peer": theirs["layers"], "seconds": seconds}


def more_versions() -> dict[str, str]:
    """Of what :func:`versions` leaves out."""
    found = {name: version(name) for name in ("ntps-lightning", "datasets", "scipy")}
    return found | {"transformer-ranker": peer.VERSION}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=[*PARTS, "report"])
    parser.add_argument("--toy", action="store_true", help="a set, and few texts")
    args = parser.parse_args()
    benchmark = Benchmark(BUILD / "toy", TOY) if args.toy else Benchmark(RESULTS, USUAL)
    try:
        if args.part != "report":
            peer.install()
        for name in PARTS:
            if args.part in (None, name):
                getattr(benchmark, name)()
    except RuntimeError as error:
        sys.exit(str(error))
    benchmark.report()


if __name__ == "__main__":
    main()
