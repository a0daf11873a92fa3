"""From rows to results.json, tables and the figures of docs/FIRST_STUDY.md: nothing is run here."""

import json
from dataclasses import replace
from pathlib import Path

from benchmarks.study.analysis.candidate import Candidate
from benchmarks.study.analysis.claims import BESIDE
from benchmarks.study.analysis.findings import findings
from benchmarks.study.analysis.runs import gain, is_control, run_name, usual
from benchmarks.study.report import figures, tables


def write(rows: list[dict], folder: Path, pictures: Path, document: Path | None = None) -> None:
    """results.json and tables.md into ``folder``, figures into ``pictures``, tables between ``document``'s marks."""
    found = findings(rows)
    named = found["named"]
    runs = usual(rows)
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
    chosen = named["ntps"]
    captured = named["captured"]
    both = {"ntps": chosen, "captured": captured}
    figures.training(runs, chosen, captured, pictures / "training.png")
    figures.choice(found["choice"], pictures / "choice.png")
    figures.layers(runs, _on_layers(chosen), _on_layers(captured), pictures / "layers.png")
    figures.gains(runs, both, gain, pictures / "gain.png")
    figures.controls({run_name(r): r for r in rows if is_control(r)}, both, pictures / "controls.png")
    figures.stopping(found["stopping"][1], pictures / "stopping.png")


def _on_layers(candidate: Candidate) -> Candidate:
    """The candidate at a setting that was swept for every layer."""
    return replace(candidate, center=True, ridge=candidate.ridge if candidate.ridge in ("0.01", "0.1") else "0.01")
