"""What `report_to` names gets our numbers beside Trainer's own, at the right steps, the baseline first."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ntps_lightning.huggingface import watch
from tests.callback.test_loggers import Points, of_wandb
from tests.huggingface.runs import BESIDE, make_trainer, ours

_SETS = pytest.mark.parametrize("data", [None, BESIDE], ids=["listening", "side set"])


def run(tmp_path: Path, report_to: str, data: Any, **arguments: Any) -> list[dict[str, float]]:
    """The history, of an evaluation every two steps."""
    trainer = make_trainer(tmp_path, report_to=report_to, eval_strategy="steps", eval_steps=2, **arguments)
    callback = watch(trainer, data=data)
    trainer.train()
    return callback.history


def check(points: Points, history: list[dict[str, float]]) -> None:
    """Trainer calls ``eval_loss`` ``eval/loss`` there."""
    assert [row["step"] for row in history] == [0, 2, 4, 6]
    wanted: Points = {}
    for row in history:
        for key, value in ours(row).items():
            wanted.setdefault(f"eval/{key.removeprefix('eval_')}", []).append((row["step"], value))
    found = {key: values for key, values in points.items() if key.startswith("eval/ntps")}
    assert found.keys() == wanted.keys()
    for key, values in wanted.items():
        assert [step for step, _ in found[key]] == [step for step, _ in values]
        assert [value for _, value in found[key]] == pytest.approx([value for _, value in values], rel=1e-6)
    assert [step for step, _ in points["eval/loss"]] == [2, 4, 6]
    assert [step for step, _ in points["train/loss"]] == [3, 6]


@_SETS
def test_tensorboard(tmp_path, data, monkeypatch):
    monkeypatch.chdir(tmp_path)
    history = run(tmp_path, "tensorboard", data)
    (file,) = tmp_path.rglob("events.out.tfevents*")
    events = EventAccumulator(str(file), size_guidance={"scalars": 0})
    events.Reload()
    check({tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}, history)


@pytest.mark.slow
@_SETS
def test_mlflow(tmp_path, data, monkeypatch):
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these packages say of each other
        from mlflow import MlflowClient

        history = run(tmp_path, "mlflow", data)
        client = MlflowClient(tracking_uri=uri)
        (found,) = client.search_runs([each.experiment_id for each in client.search_experiments()])
        keys = found.data.metrics
        check(
            {
                _as_elsewhere(key): sorted((m.step, m.value) for m in client.get_metric_history(found.info.run_id, key))
                for key in keys
            },
            history,
        )


def _as_elsewhere(key: str) -> str:
    """MLflow gets the names that `log_history` has."""
    return f"eval/{key.removeprefix('eval_')}" if key.startswith("eval_") else f"train/{key}"


@pytest.mark.slow
@_SETS
def test_wandb(tmp_path, data, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_DIR": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import wandb

        history = run(tmp_path, "wandb", data)
        folder = Path(wandb.run.dir).parent
        wandb.finish()
    for _ in range(100):  # finish() does not wait until all is written
        found, _ = of_wandb(folder, "train/global_step")
        if len(found.get("train/loss", ())) == 2:
            break
        time.sleep(0.1)
    check(found, history)
