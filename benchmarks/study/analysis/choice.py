"""Which settings: every candidate on the choosing half of the data sets, and what it reaches on the other."""

from dataclasses import replace

from benchmarks.study.analysis.candidate import Candidate, tracking
from benchmarks.study.analysis.runs import CHOOSE, REPORT, interval, usual
from benchmarks.study.measures.sweep import KS

LOG_FAMILIES = ("ntps_log", "ortho_log", "captured_log")
K_FAMILIES = ("ntps", "ntps_lift", "ortho", "ortho_lift", "captured", "captured_lift", "captured_dof")


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
    choosing = usual(rows, CHOOSE)
    reporting = usual(rows, REPORT)
    ranked = []
    for candidate in grid():
        chosen = interval(choosing, follows(candidate))
        if chosen:
            ranked.append((chosen["mean"], candidate, chosen, interval(reporting, follows(candidate))))
    ranked.sort(key=lambda entry: -entry[0])
    return {str(c): {"candidate": c, "choose": a, "report": b} for _, c, a, b in ranked}


def chosen_setting(ranked: dict) -> Candidate:
    """The setting of ntps and captured: at one k, ridge and origin, the best mean of the two on the choosing half.

    Centred moments alone: uncentred scores change when the hidden space is shifted, which no probe notices.

    """

    def worth(candidate: Candidate) -> float:
        both = (candidate, replace(candidate, family="captured"))
        return sum(ranked[str(c)]["choose"]["mean"] for c in both) / 2

    candidates = [e["candidate"] for e in ranked.values()]
    return max((c for c in candidates if c.family == "ntps" and c.center and c.k in KS), key=worth)


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
