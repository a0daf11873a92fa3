"""Everything that is reported, from the rows of all runs."""

from dataclasses import replace

from benchmarks.study.analysis.candidate import Candidate
from benchmarks.study.analysis.choice import axes, choice, chosen_setting
from benchmarks.study.analysis.claims import claims, principal, rises
from benchmarks.study.analysis.runs import best_test_accuracy, gain, run_name
from benchmarks.study.analysis.stopping import stopping

BEFORE = Candidate("ntps", k="2%", ridge="0.01")  # the defaults before the study


def findings(rows: list[dict]) -> dict:
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
    first = run["stages"][0]
    last = run["stages"][-1]
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
