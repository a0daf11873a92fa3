"""From rows to results.json, tables and the figures of STUDY.md: nothing is run here."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.study.analysis.candidate import Candidate
from benchmarks.study.analysis.choice import axes, choice, chosen_setting
from benchmarks.study.analysis.claims import BESIDE, claims, principal, rises
from benchmarks.study.analysis.runs import best_test_accuracy, gain, is_control, run_name, usual
from benchmarks.study.analysis.stopping import stopping
from benchmarks.study.report import figures, tables

BEFORE = Candidate("ntps", k="2%", ridge="0.01")  # the defaults before the study


def study(rows: list[dict]) -> dict:
    """Everything that is reported."""
    ranked = choice(rows)
    chosen = chosen_setting(ranked)
    captured = replace(chosen, family="captured")
    named = {"ntps": chosen, "ntps, lift": replace(chosen, family="ntps_lift"), "captured": captured}
    named |= {"best of all": next(iter(ranked.values()))["candidate"], "ntps before the study": BEFORE}
    named["captured before the study"] = replace(BEFORE, family="captured")
    return {
        "named": named,
        "runs": {run_name(r): summary(r, chosen, captured) for r in rows},
        "beside": {run_name(r): beside(r, chosen) for r in rows},
        "choice": ranked,
        "axes": {name: axes(rows, named[name]) for name in ("ntps", "captured")},
        "claims": claims(rows, named),
        "rises": rises(rows, {"ntps": chosen, "captured": captured}),
        "stopping": {p: stopping(rows, list(dict.fromkeys(named.values())), p) for p in (1, 2)},
    }


def summary(run: dict, chosen: Candidate, captured: Candidate) -> dict:
    """What a run did to accuracy and scores."""
    first, last = run["stages"][0], run["stages"][-1]
    return {
        "majority": run["majority"],
        "probe": first["training_probe"],
        "LoRA": best_test_accuracy(run),
        "gain": gain(run),
        "ntps before": chosen.of(first["sweep"]),
        "after": chosen.of(last["sweep"]),
        "null before": chosen.null(first["sweep"]),
        "null after": chosen.null(last["sweep"]),
        "captured before": captured.of(first["sweep"]),
        "captured after": captured.of(last["sweep"]),
        "R² before": first["probe_r2"],
        "R² after": last["probe_r2"],
    }


def beside(run: dict, chosen: Candidate) -> dict:
    """What else a run did, by numbers that need no autoregressive subspace."""
    ends = {"before": run["stages"][0], "after": run["stages"][-1]}
    share = principal(chosen.k)
    return {
        "test accuracy at the end": run["stages"][-1]["test_accuracy"],
        **{f"RankMe {when}": stage["rankme"] for when, stage in ends.items()},
        **{f"principal components {when}": share(stage) for when, stage in ends.items()},
        **{f"in-sample R² {when}": stage["in_sample_r2"] for when, stage in ends.items()},
    }


def write(rows: list[dict], folder: Path, pictures: Path, document: Path | None = None) -> None:
    """results.json and tables.md into ``folder``, figures into ``pictures``, tables between ``document``'s marks."""
    found = study(rows)
    named, runs = found["named"], usual(rows)
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, default=str, indent=1) + "\n")
    chapters = {
        "runs": tables.runs(found["runs"]),
        "beside": tables.runs(found["beside"]),
        "choice": tables.choice(found["choice"], named),
        "axes of ntps": tables.axes(found["axes"]["ntps"]),
        "axes of captured": tables.axes(found["axes"]["captured"]),
        "claims": tables.claims(found["claims"]),
        "answers": tables.answers(found["claims"], ["ntps", "captured"], BESIDE),
        "rises": tables.claims(found["rises"], "over all data sets", 3),
        **{f"stopping, patience {p}": tables.stopping(s) for p, s in found["stopping"].items()},
    }
    (folder / "tables.md").write_text("\n\n".join(f"## {title}\n\n{text}" for title, text in chapters.items()) + "\n")
    if document:
        document.write_text(tables.fill(document.read_text(), chapters))
    chosen, captured = named["ntps"], named["captured"]
    both = {"ntps": chosen, "captured": captured}
    figures.training(runs, chosen, captured, pictures / "training.png")
    figures.choice(found["choice"], pictures / "choice.png")
    figures.layers(runs, *(_on_layers(c) for c in (chosen, captured)), pictures / "layers.png")
    figures.gains(runs, both, gain, pictures / "gain.png")
    figures.controls({run_name(r): r for r in rows if is_control(r)}, both, pictures / "controls.png")
    figures.stopping(found["stopping"][1], pictures / "stopping.png")


def _on_layers(candidate: Candidate) -> Candidate:
    """The candidate at a setting that was swept for every layer."""
    return replace(candidate, center=True, ridge=candidate.ridge if candidate.ridge in ("0.01", "0.1") else "0.01")
