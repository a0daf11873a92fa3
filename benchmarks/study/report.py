"""From rows to results.json, tables and the figures of STUDY.md: nothing is run here."""

import json
from collections import defaultdict
from dataclasses import replace
from functools import partial
from pathlib import Path

import figures
import numpy
import tables
from candidate import SHARES, Candidate, bootstrap, spearman, tracking
from sweep import KS
from texts import READERS

# Settings were chosen on the first five data sets; what is reported is measured on the other five.
CHOOSE, REPORT = list(READERS)[:5], list(READERS)[5:]
BEFORE = Candidate("ntps", k="2%", ridge="0.01")  # the package's defaults
LOG_FAMILIES = ("ntps_log", "ortho_log", "captured_log")
K_FAMILIES = ("ntps", "ntps_lift", "ortho", "ortho_lift", "captured", "captured_lift", "captured_dof")


def read(file: Path) -> list[dict]:
    """The rows of a results file, none where there is no file yet."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def usual(rows: list[dict], data=READERS) -> list[dict]:
    """The runs with real labels, pretrained weights and the usual protocol, seed 0."""
    return [r for r in rows if "layers" in r and r["job"]["data"] in data]


def by_data(runs: list[dict], value) -> dict[str, list[float]]:
    """``value(run)`` grouped by data set, missing ones dropped."""
    groups = defaultdict(list)
    for run in runs:
        found = value(run)
        if found is not None:
            groups[run["job"]["data"]].append(found)
    return dict(groups)


def interval(runs: list[dict], value) -> dict:
    """Mean over data sets with a 95% bootstrap interval over data sets."""
    groups = by_data(runs, value)
    if not groups:
        return {}
    mean, low, high = bootstrap(groups)
    return {"mean": mean, "low": low, "high": high, "data_sets": len(groups)}


def grid() -> list[Candidate]:
    """Every candidate of the choice: geometry, k, ridge and centring of the last layer."""
    found = []
    for center, ridges in ((True, ("0", "0.01", "0.1", "1")), (False, ("0.01", "0.1"))):
        for ridge in ridges:
            found += [Candidate(f, k, ridge, center) for f in K_FAMILIES for k in (*KS, "mean")]
            found += [Candidate(f, "mean", ridge, center) for f in LOG_FAMILIES]
    return found


def follows(candidate: Candidate, few: bool = False):
    """A run's rank correlation over evaluations of the candidate with the held-out R² of the probe.

    ``few``: at the evaluations alone where every view was computed, so that views compare.

    """

    def read(stage):
        skipped = few and not any(key.startswith("pre|") for key in stage["sweep"])
        return None if skipped else candidate.of(stage["sweep"])

    return lambda run: tracking(run, read)


def choice(rows: list[dict]) -> dict:
    """All candidates ranked on the choosing half, with what they reach on the reporting half."""
    choosing, reporting = usual(rows, CHOOSE), usual(rows, REPORT)
    ranked = []
    for candidate in grid():
        chosen = interval(choosing, follows(candidate))
        if chosen:
            ranked.append((chosen["mean"], candidate, chosen, interval(reporting, follows(candidate))))
    ranked.sort(key=lambda entry: -entry[0])
    return {str(c): {"candidate": c, "choose": a, "report": b} for _, c, a, b in ranked}


def axes(rows: list[dict], center: Candidate) -> dict[str, dict]:
    """One axis varied at a time around ``center``."""
    sizes = sample_views(rows)
    varied = {
        "geometry": [replace(center, family=f) for f in (*K_FAMILIES, *LOG_FAMILIES)],
        "k": [replace(center, k=k) for k in (*KS, "mean")],
        "ridge": [replace(center, ridge=r) for r in ("0", "0.01", "0.1", "1")],
        "centring": [replace(center, center=c) for c in (True, False)],
        "pooling and tokens": [replace(center, ridge="0.01", view=v) for v in ("mean", "last", "no_first")],
        "layer": [replace(center, ridge="0.01", view=v) for v in ("mean", "pre", "block -1", "block -2")],
        "samples": [replace(center, ridge="0.01", view=v) for v in (*sizes, "mean")],
    }
    found = {}
    for axis, candidates in varied.items():
        few = axis in ("pooling and tokens", "layer", "samples")
        found[axis] = {
            str(c): {
                half: interval(usual(rows, data), follows(c, few))
                for half, data in (("choose", CHOOSE), ("report", REPORT))
            }
            for c in candidates
        }
    return found


def sample_views(rows: list[dict]) -> list[str]:
    """The views of fewer samples that every evaluation has."""
    views = {key.split("|")[0] for run in usual(rows) for key in run["stages"][-1]["sweep"]}
    return sorted((v for v in views if v[1:].isdigit()), key=lambda v: int(v[1:]))


# --- claims ----------------------------------------------------------------------------------------------------------


def best_test_accuracy(run: dict) -> float:
    """Test accuracy at the evaluation with the lowest validation loss, but for the first: its head is untrained."""
    return min(run["stages"][1:], key=lambda s: s["val_loss"])["test_accuracy"]


def gain(run: dict) -> float:
    """What LoRA adds, in test accuracy, to a linear probe of the base model that is fitted on the same texts."""
    return best_test_accuracy(run) - run["stages"][0]["training_probe"]


def across_data(runs: list[dict], read, target) -> dict:
    """Rank correlation over runs, with a bootstrap interval over data sets."""
    data = list(dict.fromkeys(r["job"]["data"] for r in runs))
    pairs = {d: [(read(r), target(r)) for r in runs if r["job"]["data"] == d] for d in data}
    draws = numpy.random.default_rng(0).choice(data, (500, len(data)))
    found = [spearman(*zip(*(pair for d in draw for pair in pairs[d]), strict=True)) for draw in (data, *draws)]
    low, high = map(float, numpy.quantile(found[1:], (0.025, 0.975)))
    return {"mean": found[0], "low": low, "high": high, "data_sets": len(data)}


def rises(rows: list[dict], named: dict[str, Candidate]) -> dict:
    """Does a number rise under LoRA, and more than its null, over all data sets?"""
    asked = {
        "share of runs where it rises": lambda c: lambda run: float(_change(reader(c), run) > 0),
        "mean rise": lambda c: lambda run: _change(reader(c), run),
        "mean rise minus its null's": lambda c: (
            lambda run: _change(reader(c), run) - c.null(run["stages"][-1]["sweep"]) + c.null(run["stages"][0]["sweep"])
        ),
    }
    return {
        claim: {name: interval(usual(rows), measure(c)) for name, c in named.items()}
        for claim, measure in asked.items()
    }


def stop(run: dict, read, patience: int = 1) -> tuple[float, float]:
    """Early stopping on a number (higher is better) from the first evaluation on: test accuracy where it was best,
    and epochs spent until ``patience`` evaluations brought no improvement.
    """
    stages = run["stages"][1:]  # early stopping never sees the sanity check
    best, value, waited = 0, -numpy.inf, 0
    for at, stage in enumerate(stages):
        if read(stage) > value:
            best, value, waited = at, read(stage), 0
        else:
            waited += 1
            if waited >= patience:
                break
    return stages[best]["test_accuracy"], stages[at]["epoch"]


def monitors(candidates: list[Candidate]) -> dict:
    """What can be stopped on, as functions of an evaluation, higher is better."""
    named = {str(c): reader(c) for c in candidates}
    return named | {
        "validation loss": lambda stage: -stage["val_loss"],
        "validation accuracy": lambda stage: stage["val_accuracy"],
        "in-sample R² of the probe": lambda stage: stage["in_sample_r2"],
        "H-score": lambda stage: stage["h_score"],
        "RankMe": lambda stage: stage["rankme"],
        "never (last epoch)": lambda stage: stage["epoch"],
    }


def principal(k: str):
    """What the leading k principal components carry of the same linear probe: the line to beat for captured."""
    return lambda stage: stage["principal"][KS.index(k)] * SHARES


BESIDE = ["principal components", "in-sample R² of the probe", "H-score", "RankMe", "validation loss (minus)"]


def baselines(k: str) -> dict:
    """Numbers that need no autoregressive subspace, higher is better."""
    return {
        "probe accuracy (held out)": lambda s: s["probe_accuracy"],
        "in-sample R² of the probe": lambda s: s["in_sample_r2"],
        "H-score": lambda s: s["h_score"],
        "RankMe": lambda s: s["rankme"],
        "validation loss (minus)": lambda s: -s["val_loss"] if "val_loss" in s else None,
        "principal components": principal(k),
    }


# --- what is written -------------------------------------------------------------------------------------------------


def chosen_setting(ranked: dict) -> Candidate:
    """The setting of ntps and captured: at one k, ridge and origin, the best mean of the two on the choosing half.

    Centred moments alone: uncentred scores change when the hidden space is shifted, which no probe notices.

    """

    def worth(candidate: Candidate) -> float:
        both = (candidate, replace(candidate, family="captured"))
        return sum(ranked[str(c)]["choose"]["mean"] for c in both) / 2

    candidates = [e["candidate"] for e in ranked.values()]
    return max((c for c in candidates if c.family == "ntps" and c.center and c.k in KS), key=worth)


def claims(rows: list[dict], named: dict[str, Candidate]) -> dict:
    """Every claim with its figure, for every candidate and every baseline."""
    readers = {name: reader(c) for name, c in named.items()} | baselines(next(iter(named.values())).k)
    return {
        claim: {name: measure(read) for name, read in readers.items()} for claim, measure in questions(rows).items()
    }


def reader(candidate: Candidate):
    """The candidate as a function of an evaluation or layer."""
    return lambda stage: candidate.of(stage["sweep"])


def questions(rows: list[dict]) -> dict:
    """What is asked of a number: claims within a run on the reporting half, across data sets on all of them."""
    reporting = usual(rows, REPORT)
    asked = {
        "over training, with the probe's held-out R²": lambda read: interval(reporting, lambda r: tracking(r, read)),
        "over training, with test accuracy": lambda read: interval(
            reporting, lambda r: tracking({"stages": r["stages"][1:]}, read, "test_accuracy")
        ),
        "over layers, with probe accuracy": lambda read: interval(reporting, lambda r: _layers(r, read)),
    }
    asked["over runs, change with change of the probe's held-out R²"] = lambda read: across_data(
        usual(rows), partial(_change, read), partial(_change, _probe_r2)
    )
    for model in dict.fromkeys(r["job"]["model"] for r in usual(rows)):
        runs = [r for r in usual(rows) if r["job"]["model"] == model]
        for what, target in TARGETS.items():
            asked[f"over data sets before training, with {what}, {model}"] = partial(_across, runs, target)
    return asked


def _probe_before(run: dict) -> float:
    return run["stages"][0]["probe_accuracy"]


def _change(read, run: dict) -> float:
    return read(run["stages"][-1]) - read(run["stages"][0])


def _probe_r2(stage: dict) -> float:
    return stage["probe_r2"]


# What a number from before training may say of a data set.
TARGETS = {
    "probe accuracy": _probe_before,
    "LoRA's gain in accuracy": gain,
    "the rise of held-out R²": partial(_change, _probe_r2),
}


def _across(runs, target, read) -> dict:
    return across_data(runs, lambda run: read(run["stages"][0]), target)


def _layers(run: dict, read) -> float | None:
    layers = [layer for name, layer in run["layers"].items() if name != "pre"]
    if None in map(read, layers):
        return None
    return spearman([read(layer) for layer in layers], [layer["probe_accuracy"] for layer in layers])


def stopping(rows: list[dict], candidates: list[Candidate], patience: int) -> dict:
    """Test accuracy and epochs of early stopping, per monitor, over all seeds of the usual protocol."""
    runs = [r for r in rows if _protocol(r)]
    return {name: _stopping(runs, read, patience) for name, read in monitors(candidates).items()}


def _stopping(runs: list[dict], read, patience: int) -> dict:
    def against_loss(run):
        return stop(run, read, patience)[0] - stop(run, lambda stage: -stage["val_loss"], patience)[0]

    return {
        "test accuracy": interval(runs, lambda run: stop(run, read, patience)[0]),
        "against validation loss": interval(runs, against_loss),
        "epochs": interval(runs, lambda run: stop(run, read, patience)[1]),
    }


def _protocol(run: dict) -> bool:
    job = run["job"]
    usual_job = job["labelling"] == "real" and job["weights"] == "pretrained" and job["trained"] == "lora"
    return usual_job and job["learning_rate"] == 5e-4


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
        "runs": {_name(r): summary(r, chosen, captured) for r in rows},
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


def _name(run: dict) -> str:
    usual_values = {"seed": 0, "labelling": "real", "weights": "pretrained", "trained": "lora", "learning_rate": 5e-4}
    job = run["job"]
    extra = [f"{k} {job[k]}" for k, v in usual_values.items() if job[k] != v]
    return ", ".join([job["model"], job["data"], *extra])


def write(rows: list[dict], folder: Path, pictures: Path, document: Path | None = None) -> None:
    """results.json and tables.md into ``folder``, figures into ``pictures``, tables between ``document``'s marks."""
    found = study(rows)
    named, runs = found["named"], usual(rows)
    folder.mkdir(parents=True, exist_ok=True)
    pictures.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(found, default=str, indent=1) + "\n")
    chapters = {
        "runs": tables.runs(found["runs"]),
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
    figures.controls({_name(r): r for r in rows if _is_control(r)}, both, pictures / "controls.png")
    figures.stopping(found["stopping"][1], pictures / "stopping.png")


def _on_layers(candidate: Candidate) -> Candidate:
    """The candidate at a setting that was swept for every layer."""
    return replace(candidate, center=True, ridge=candidate.ridge if candidate.ridge in ("0.01", "0.1") else "0.01")


def _is_control(run: dict) -> bool:
    job = run["job"]
    usual_twin = job["data"] == "bbc" and job["model"] == "smollm2" and _protocol(run) and job["seed"] == 0
    return usual_twin or job["labelling"] != "real" or job["weights"] != "pretrained"
