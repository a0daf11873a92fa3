"""What Hugging Face's Trainer is told before its first step, because it could not work later."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Any

from ntps_lightning.batch_items import read_item
from ntps_lightning.capture.own_pass import own_pass
from ntps_lightning.errors import SetupError
from ntps_lightning.huggingface.trainer import WatchedTrainer
from ntps_lightning.watch.batch import input_ids
from ntps_lightning.watch.names import is_ours
from ntps_lightning.watch.watch import Watch


def refuse_twice(names: Set[str], watched: Iterable[Set[str]]) -> None:
    """Two of one prefix on a Trainer.

    Args:
        names: what keys are to start with.
        watched: what those of others do.

    Raises:
        SetupError: If any is there already.

    """
    twice = sorted({name for each in watched for name in each} & names)
    if twice:
        raise SetupError(f"this Trainer is watched under {twice} already: give the second watch() another prefix=")


def check_best_key(best: str | None, prefixes: Iterable[str], keys: Set[str], *, every_n_steps: int | None) -> None:
    """What the best model is told by, where that is of ours.

    Args:
        best: its key, as it is logged.
        prefixes: what ours start with.
        keys: all of ours.
        every_n_steps: between measurements that are no evaluations.

    Raises:
        SetupError: If it is not logged, or not in evaluations.

    """
    if best is None or not any(is_ours(prefix, best) for prefix in prefixes):
        return
    if best not in keys:
        raise SetupError(f"metric_for_best_model={best!r} is none of what is logged: {sorted(keys)}")
    if every_n_steps is not None:
        raise SetupError(
            f"metric_for_best_model={best!r} is looked for in evaluations, which measure nothing beside"
            " every_n_steps=...; leave that out"
        )


def check_first_rows(trainer: WatchedTrainer, watch: Watch, kind: str) -> None:
    """Whether the first rows of an evaluation set have labels that are classes, or targets.

    Args:
        trainer: has the set.
        watch: what is to measure on it.
        kind: what Trainer calls its metrics.

    Raises:
        SetupError: If they have none.

    """
    try:
        with own_pass(trainer.model):
            rows = trainer.first_rows(kind)
    except SetupError:
        raise
    except Exception:  # a collator that wants a whole batch, say: the first evaluation will tell
        return
    if rows is not None:
        _check_labels(rows, trainer, watch)


def _check_labels(rows: Any, trainer: WatchedTrainer, watch: Watch) -> None:
    where = watch.settings.labels
    if isinstance(where, str) and isinstance(rows, Mapping) and where not in rows:
        raise SetupError(
            f"a batch of the evaluation set has no {where!r}, only {sorted(rows)}: Trainer drops columns that the"
            " model does not take (remove_unused_columns=False keeps them, if the collator does); or give watch()"
            " a labelled side set (data=...)"
        )
    try:
        labels = read_item(rows, where, "labels")
        watch.new_monitor(trainer.model).batch(labels, input_ids=input_ids(rows))
    except SetupError as error:
        raise SetupError(
            f"the evaluation set cannot be listened to: {error}. Name its labels (labels=...), or give watch() a"
            " labelled side set (data=...)"
        ) from error
