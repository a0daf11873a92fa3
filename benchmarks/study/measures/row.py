"""One row of results: everything that the report needs of a run, small enough to keep under version control."""

from dataclasses import asdict

from benchmarks.study.measures.probe import probe, training_probe
from benchmarks.study.measures.sweep import baselines, candidates
from benchmarks.study.settings import VIEWED, Job, Scale

ONE_RIDGE = (1e-2,)
TWO_RIDGES = (1e-2, 1e-1)


def row(job: Job, scale: Scale, states: dict, stages: list[dict], labels: dict, progress) -> dict:
    """The row of a run; shares are in units of 1e-4, so that they are short integers."""
    num_classes = max(max(y) for y in labels.values()) + 1
    found = {
        "job": asdict(job),
        "scale": asdict(scale),
        "num_classes": num_classes,
        "hidden_size": stages[0]["pooled"]["val"][-1].shape[1],
        "split_at": states["split_at"],
        "tokens": sum(sum(lengths) for _, lengths in states["trunk"].values()),
        "majority": max(labels["test"].count(c) for c in set(labels["test"])) / len(labels["test"]),
        "stages": [_stage(s, labels, num_classes) for s in progress(stages, f"{job.name} sweep")],
    }
    if job == Job(job.model, job.data):
        layers = progress(list(states["moments"].items()), f"{job.name} layers")
        found["layers"] = {
            str(layer): _layer(sums, layer, states["pooled"], labels, num_classes) for layer, sums in layers
        }
    return _rounded(found)


def _layer(sums, layer, pooled, labels, num_classes) -> dict:
    return {
        **probe(pooled["val"][layer], labels["val"], pooled["test"][layer], labels["test"], num_classes),
        **baselines(sums),
        "sweep": {f"mean|1|{ridge:g}": found for ridge, found in candidates(sums, True, TWO_RIDGES).items()},
    }


def _stage(stage: dict, labels: dict, num_classes: int) -> dict:
    pooled = stage["pooled"]
    extra = {}
    validation = [sums for split, sums in stage["parts"] if split == "val"]
    first, second, *_ = validation
    whole = sum(validation[1:], start=first)
    views = {
        ("mean", True): (whole, (0.0, 1e-2, 1e-1, 1.0)),
        ("mean", False): (whole, TWO_RIDGES),
    }
    if stage["epoch"] in VIEWED:
        views |= {
            ("no_first", True): (stage["moments"]["no_first"], ONE_RIDGE),
            ("last", True): (_last_token(stage, whole), ONE_RIDGE),
            ("pre", True): (stage["moments"]["pre"], ONE_RIDGE),
            (f"n{int(first.num_samples)}", True): (first, ONE_RIDGE),
            (f"n{int((first + second).num_samples)}", True): (first + second, ONE_RIDGE),
        }
        views |= {(f"layer{k}", True): (m, ONE_RIDGE) for k, m in stage["moments"].items() if isinstance(k, int)}
    if stage["step"] == 0:
        everything = sum((sums for split, sums in stage["parts"] if split != "val"), start=whole)
        views[f"n{int(everything.num_samples)}", True] = (everything, ONE_RIDGE)
        (training,) = (sums for split, sums in stage["parts"] if split == "train")
        extra["training_probe"] = training_probe(
            training, *(x for s in ("val", "test") for x in (pooled[s][-1], labels[s]))
        )
    kept = ("step", "epoch", "seconds", "train_loss", "val_loss", "val_accuracy", "test_loss", "test_accuracy")
    return {
        **extra,
        **{key: stage[key] for key in kept},
        **probe(pooled["val"][-1], labels["val"], pooled["test"][-1], labels["test"], num_classes),
        **baselines(whole),
        "sweep": {
            f"{view}|{center:d}|{ridge:g}": measures
            for (view, center), (sums, ridges) in views.items()
            for ridge, measures in candidates(sums, center, ridges, null_of_ortho=view == "mean" and center).items()
        },
    }


def _last_token(stage: dict, whole):
    """Last-token pooling: its pooled moments, and the prefix moments of all tokens."""
    pooled = stage["moments"]["last"]
    names = ("num_samples", "pooled_sum", "target_sum", "target_gram", "pooled_gram", "pooled_target")
    return type(whole)(**{name: getattr(pooled if name in names else whole, name) for name in vars(whole)})


def _rounded(value, share=False):
    if isinstance(value, dict):
        return {k: _rounded(v, share or k in ("sweep", "principal")) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(v, share) for v in value]
    if isinstance(value, float):
        return round(value * 1e4) if share else float(f"{value:.5g}")
    return value
