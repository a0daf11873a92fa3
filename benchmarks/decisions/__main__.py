"""Can a user decide by it? Everything that STUDY.md reports, from packages alone.

python -m benchmarks.decisions                       # what is not run yet, hours of it; then tables and figures
python -m benchmarks.decisions --stage exploratory   # a part of it: exploratory, confirmatory, gemma3 or many
python -m benchmarks.decisions --stage report        # tables and figures alone
python -m benchmarks.decisions --toy                 # all stages, small, into build/decisions/toy

A second process with --backwards begins at the other end; on two cores two of them, with OMP_NUM_THREADS=1 each, take a
fifth less time than one with two threads.
"""

import argparse
import sys
import time
from functools import partial
from pathlib import Path

import transformers

from benchmarks.decisions.bases import base_pass, base_row
from benchmarks.decisions.measures import versions
from benchmarks.decisions.report.write import write
from benchmarks.decisions.rows import FOLDER, Rows
from benchmarks.decisions.settings import (
    CONFIRMATORY,
    EXPLORATORY,
    LARGE,
    MANY,
    TOY,
    TOY_MANY,
    USUAL,
    Base,
    Run,
    runs,
)
from benchmarks.decisions.training import MODEL, run_row
from benchmarks.study.__main__ import ROOT, bar, cached

BUILD = ROOT / "build" / "decisions"


class Study:
    """Runs what has no row yet.

    Args:
        results: where rows are kept.
        cache: where states are kept.
        scales: of the usual runs, and of those with many validation windows.
        backwards: whether to begin at the end.

    """

    def __init__(self, results: Path, cache: Path, scales, *, backwards: bool = False):
        self._results = results
        self._cache = cache
        self._step = -1 if backwards else 1
        self._usual, self._many = scales

    def sets(self, names) -> None:
        """The base model and all runs on each set."""
        for data in names[:: self._step]:
            self.bases(MODEL, [data])
            for run in runs([data])[:: self._step]:
                self._row("runs", run.name, lambda run=run, data=data: self._run(run, data, self._usual))

    def bases(self, model: str, names) -> None:
        """A base model on each set."""
        for data in names[:: self._step]:
            base = Base(model, data)
            self._row("bases", base.name, lambda base=base: self._base(base))

    def many(self, names) -> None:
        """Runs with many validation windows."""
        for data in names[:: self._step]:
            run = Run(data)
            self._row("many", run.name, lambda run=run, data=data: self._run(run, data, self._many))

    def _row(self, kind: str, name: str, make) -> None:
        rows = Rows(kind, self._results)
        if name in rows:
            return
        started = time.perf_counter()
        row = make()
        seconds = time.perf_counter() - started
        rows = Rows(kind, self._results)
        if name not in rows:
            rows.add(name, row | {"seconds": seconds, "versions": versions()})
        print(f"{kind} {name}: row written, {seconds:.0f} s", flush=True)

    def _base(self, base: Base) -> dict:
        progress = bar("bases")
        found = base_pass(base, self._usual, progress)
        if base.model == MODEL:
            cached(self._trunk(base.data, self._usual), lambda: found["trunk"])
        return base_row(base, self._usual, found, progress)

    def _run(self, run: Run, data: str, scale) -> dict:
        collect = partial(base_pass, Base(MODEL, data), scale, bar("trunk"), every_layer=False)
        trunk = cached(self._trunk(data, scale), lambda: collect()["trunk"])
        return run_row(run, scale, trunk, bar("runs"))

    def _trunk(self, data: str, scale) -> Path:
        return self._cache / f"{data}-{scale.val}.trunk.pt"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stage", choices=["exploratory", "confirmatory", "gemma3", "many", "report"])
    parser.add_argument("--backwards", action="store_true", help="begin at the end")
    parser.add_argument("--toy", action="store_true", help="two sets, small")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    results, cache, scales = (
        (BUILD / "toy", BUILD / "toy", (TOY, TOY_MANY)) if args.toy else (FOLDER, BUILD, (USUAL, MANY))
    )
    study = Study(results, cache, scales, backwards=args.backwards)
    count = 1 if args.toy else None
    stages = {
        "exploratory": lambda: study.sets(EXPLORATORY[:count]),
        "confirmatory": lambda: study.sets(CONFIRMATORY[:count]),
        "gemma3": lambda: study.bases("gemma3", (EXPLORATORY + CONFIRMATORY)[:count]),
        "many": lambda: study.many(LARGE[:count]),
    }
    for name, stage in stages.items():
        if args.stage in (None, name):
            stage()
    if args.toy:
        write(results, cache)
    else:
        write(results, ROOT / "docs" / "decisions", ROOT / "STUDY.md")


if __name__ == "__main__":
    sys.exit(main())
