"""Does the score mean what it says? Everything that docs/FIRST_STUDY.md reports, from packages alone.

python -m benchmarks.study            # resumes where it stopped; a run whose row is in results/rows.jsonl is done
python -m benchmarks.study --smoke    # two small runs, in minutes, reported in build/study/smoke
"""

import argparse
import json
import os
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch
import transformers

from benchmarks.study.analysis import runs
from benchmarks.study.measures.row import row
from benchmarks.study.report.write import write
from benchmarks.study.settings import jobs, scale
from benchmarks.study.training.collect import collect
from benchmarks.study.training.data import data
from benchmarks.study.training.finetune import finetune

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
BUILD = ROOT / "build" / "study"


def bar(label):
    """Progress, a line every ten seconds."""

    def progress(items, name):
        started = printed = time.perf_counter()
        for number, item in enumerate(items):
            if time.perf_counter() - printed > 10:
                printed = time.perf_counter()
                print(f"{label} {name}: {number} of {len(items)}, {printed - started:.0f} s", flush=True)
            yield item

    return progress


def cached(path: Path, make):
    """``make()``, or what it returned before."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        started = time.perf_counter()
        result = make()
        partial = path.with_suffix(f".{os.getpid()}.partial")
        torch.save(result, partial)
        partial.rename(path)
        print(f"{path.name}: {time.perf_counter() - started:.0f} s", flush=True)
    return torch.load(path, weights_only=False)


def run(job, smoke: bool, cache: Path, progress) -> dict:
    """The row of a job. Its states and its stages are kept in ``cache``."""
    size = scale(job, smoke)
    # Labels do not change states, and the moments per layer are for real ones.
    states = f"{job.model}-{job.data}-{job.weights}-{job.top_blocks or 'all'}.states.pt"
    base = cached(cache / states, lambda: collect(replace(job, labelling="real"), size, progress))
    stages = cached(cache / f"{job.name}.pt", lambda: finetune(job, size, base["trunk"], progress))
    return row(job, size, base, stages, data(job, size).labels, progress)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    cache = BUILD / ("smoke" if args.smoke else "cache")
    file = cache / "rows.jsonl" if args.smoke else HERE / "results" / "rows.jsonl"
    file.parent.mkdir(parents=True, exist_ok=True)
    todo = jobs(args.smoke)
    done = [entry["job"] for entry in runs.read(file)]
    for number, job in enumerate(todo, 1):
        if asdict(job) not in done:
            found = run(job, args.smoke, cache, bar(f"[{number}/{len(todo)}]"))
            with file.open("a") as rows:
                rows.write(json.dumps(found, separators=(",", ":")) + "\n")
            print(f"[{number}/{len(todo)}] {job.name}: row written", flush=True)
    if args.smoke:
        write(runs.read(file), cache, cache)
    else:
        write(runs.read(file), file.parent, ROOT / "docs" / "study", ROOT / "docs" / "FIRST_STUDY.md")


if __name__ == "__main__":
    sys.exit(main())
