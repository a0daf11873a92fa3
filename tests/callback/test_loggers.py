"""Loggers that people use, together in one run: every number and picture, each at the logger's own step."""

from __future__ import annotations

import csv
import json
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from wandb.proto import wandb_internal_pb2

from ntps_lightning import NTPSCallback
from tests.support.models import LoraModule, loader, make_trainer

Points = dict[str, list[tuple[int, float]]]


class TwoOptimizers(LoraModule):
    """Takes two steps of optimizers a batch, so that ``trainer.global_step`` is twice the step of its loggers."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
            optimizer.zero_grad()
        self.log("train_loss", loss.detach(), on_step=True)
        return loss

    def configure_optimizers(self):
        weights = [p for p in self.parameters() if p.requires_grad]
        return [torch.optim.Adam(weights[::2], lr=0.01), torch.optim.Adam(weights[1::2], lr=0.01)]


class ByEpoch(LoraModule):
    """Has its loggers count epochs."""

    def on_validation_epoch_end(self):
        self.log("step", float(self.current_epoch + 1))


def of_tensorboard(folder: Path) -> tuple[Points, list[int]]:
    events = EventAccumulator(str(folder), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    points = {tag: [(p.step, p.value) for p in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    return points, [image.step for image in events.Images("ntps/curves")]


def of_csv(logger: CSVLogger) -> Points:
    points: Points = {}
    with Path(logger.log_dir, "metrics.csv").open() as file:
        for row in csv.DictReader(file):
            for key, value in row.items():
                if value:
                    points.setdefault(key, []).append((int(row["step"]), float(value)))
    return points


def of_mlflow(logger: Any) -> tuple[Points, list[int]]:
    client, run = logger.experiment, logger.run_id
    keys = client.get_run(run).data.metrics
    points = {key: sorted((m.step, m.value) for m in client.get_metric_history(run, key)) for key in keys}
    pictures = client.list_artifacts(run, "ntps/curves")
    return points, sorted(int(Path(each.path).stem) for each in pictures)


def records_of_wandb(path: Path) -> Iterator[bytes]:
    """LevelDB's log: blocks of 32 KiB, in them chunks of a checksum, a length and a kind (1: whole, 4: the last)."""
    data = path.read_bytes()
    position, record = 7, b""  # after the file's own header
    while position < len(data):
        if 2**15 - position % 2**15 < 7:
            position += 2**15 - position % 2**15
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield record
            record = b""


def of_wandb(folder: Path, step_key: str = "trainer/global_step") -> tuple[Points, list[int]]:
    points: Points = {}
    pictures = []
    for data in records_of_wandb(next(folder.glob("*.wandb"))):
        record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
        record.ParseFromString(data)
        values = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
        step = values.pop(step_key, 0)
        if "ntps/curves/count" in values:
            pictures.append(step)
        for key, value in values.items():
            if isinstance(value, (int, float)) and not key.startswith("ntps/curves/"):
                points.setdefault(key, []).append((step, value))
    return points, pictures


def ours(points: Points) -> Points:
    return {key: values for key, values in points.items() if key.startswith("ntps")}


@pytest.mark.compatibility(
    "Lifecycle", "MLflow (files and SQLite), CSV, TensorBoard and W&B together",
    "every number and picture in each, the baseline first, at the logger's own step",
)  # fmt: skip
@pytest.mark.slow
def test_loggers_together(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    callback = NTPSCallback(layers="all")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what these packages say of each other
        files = MLFlowLogger("ntps", tracking_uri=f"file:{tmp_path}/mlruns")
        database = MLFlowLogger(
            "ntps", tracking_uri=f"sqlite:///{tmp_path}/mlflow.db", artifact_location=f"file:{tmp_path}/artifacts"
        )
        table, board = CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "board", name="", version="")
        wandb = WandbLogger(save_dir=str(tmp_path), offline=True)
        loggers: list[Logger] = [files, database, table, board, wandb]
        trainer = make_trainer(tmp_path, callbacks=[callback], logger=loggers, log_every_n_steps=1)
        trainer.fit(TwoOptimizers(), loader(), loader(60, seed=1))
        folder = Path(wandb.experiment.dir).parent
        wandb.experiment.finish()
    wanted, pictures = of_tensorboard(tmp_path / "board")
    assert trainer.global_step == 36
    assert [step for step, _ in wanted["ntps/score"]] == pictures == [0, 5, 11, 17]
    assert [step for step, _ in wanted["train_loss"]] == list(range(18))
    keys = [key for key in callback.history[0] if key.startswith("ntps")]
    assert all(len(wanted[key]) == 4 for key in keys)
    for row, (_, score) in zip(callback.history, wanted["ntps/score"], strict=True):
        assert score == pytest.approx(row["ntps/score"], rel=1e-6)
    for points in (of_mlflow(files)[0], of_mlflow(database)[0], of_csv(table), of_wandb(folder)[0]):
        assert ours(points).keys() == ours(wanted).keys()
        for key, values in ours(wanted).items():
            assert [step for step, _ in points[key]] == [step for step, _ in values]
            assert [value for _, value in points[key]] == pytest.approx([v for _, v in values], rel=1e-6)
    assert of_mlflow(files)[1] == of_mlflow(database)[1] == of_wandb(folder)[1] == pictures


class Elsewhere(LoraModule):
    """Logs a `step` that loggers get under other names: of several loaders, or of steps and epochs."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx, dataloader_idx)
        self.log("step", 3.0, on_step=dataloader_idx == 0, on_epoch=True, batch_size=16)


@pytest.mark.parametrize("loaders", [1, 2])
def test_a_step_of_another_name_is_none(tmp_path, loaders):
    board = TensorBoardLogger(tmp_path, name="", version="")
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback()], logger=board, max_epochs=1)
    trainer.fit(Elsewhere(), loader(), [loader(60, seed=seed) for seed in range(loaders)])
    points, pictures = of_tensorboard(tmp_path)
    assert [step for step, _ in points["ntps/score"]] == pictures == [0, 5]


@pytest.mark.compatibility("Lifecycle", "a `step` that the module logs", "numbers and pictures at that step")
def test_a_step_of_the_modules_own(tmp_path):
    board = TensorBoardLogger(tmp_path, name="", version="")
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback()], logger=board)
    trainer.fit(ByEpoch(), loader(), loader(60, seed=1))
    points, pictures = of_tensorboard(tmp_path)
    assert [step for step, _ in points["ntps/score"]] == pictures == [0, 1, 2, 3]
