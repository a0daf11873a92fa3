"""A labelled side set beside a run: its numbers, when they come, and that the run does not notice."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from ntps_lightning import NTPSCallback, NTPSMonitor
from ntps_lightning.errors import SetupError
from tests.callback.kinds import KINDS
from tests.callback.side_set_run import ROWS
from tests.callback.test_strategies import start
from tests.support.models import EncoderModule, LoraModule, Padding, Seen, loader, make_trainer, samples

NAMES = ("score", "null", "probe_accuracy", "probe_r2", "captured_r2", "principal_r2")


def measured(module: Any, rows: list[Any] = ROWS, **options: Any) -> dict[str, float]:
    """By a monitor alone, a row at a time."""
    model = copy.deepcopy(module.model).eval()
    monitor = NTPSMonitor(model, **options)
    for row in rows:
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad(), monitor.batch(["abc".index(row["label"])], input_ids=ids):
            model(input_ids=ids)
    details = monitor.compute()[max(monitor.layers)]
    held_out = {name: getattr(details.held_out, name).value for name in NAMES[2:]}
    return {"score": details.score, "null": details.null} | held_out


def shown(row: dict[str, float], prefix: str = "ntps") -> dict[str, float]:
    return {name: row[f"{prefix}/{name}"] for name in NAMES}


@pytest.mark.parametrize("data", [ROWS, DataLoader([(r["input_ids"], "abc".index(r["label"])) for r in ROWS], 16,
                                                    collate_fn=Padding("left"))], ids=["rows", "loader"])  # fmt: skip
def test_numbers_are_those_of_a_monitor_before_and_after_training(tmp_path, data):
    callback = NTPSCallback(data=data, **({} if data is ROWS else {"labels": "labels"}))
    module = LoraModule()
    before = measured(module)
    make_trainer(tmp_path, callbacks=[callback]).fit(module, loader(), loader(60, seed=1))
    steps = [row["step"] for row in callback.history]
    assert steps == [0, 6, 12, 18]
    assert shown(callback.history[0]) == pytest.approx(before, abs=1e-5)
    assert shown(callback.history[-1]) == pytest.approx(measured(module), abs=1e-5)
    assert callback.history[0]["ntps/gain"] == 0
    assert callback.class_names == (["a", "b", "c"] if data is ROWS else [])


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_the_run_is_the_same_bits(tmp_path, name):
    kind = KINDS[name]
    callback = NTPSCallback(data=ROWS, layers="all")
    without, with_it = kind.fit(tmp_path, [], kind.module()), kind.fit(tmp_path, [callback], kind.module())
    assert all(torch.equal(a, b) for a, b in zip(without.trained, with_it.trained, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(without.validated, with_it.validated, strict=True))
    assert callback.history[0]["step"] == 0
    assert all(row["ntps_info/valid"] == 1 for row in callback.history)


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "tensor_parallel"])
@pytest.mark.slow
def test_two_processes_find_what_one_does(tmp_path, strategy):
    notes = []
    for each, ranks in (("one", 1), (strategy, 2)):
        run = start(tmp_path, each, script="side_set_run")
        assert run.returncode == 0, run.stderr[-3000:]
        notes += [json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in range(ranks)]
    one, first, second = notes
    assert first == second
    assert first["same"]
    assert one["same"]
    # What the ranks have trained on differs after the first step; before it nothing does.
    assert shown(first["history"][0]) == pytest.approx(shown(one["history"][0]), abs=1e-6)
    assert first["history"][0]["ntps_info/samples"] == len(ROWS)
    assert [row["step"] for row in first["history"]] == [
        0,
        *([3, 6, 9] if strategy != "tensor_parallel" else [6, 12, 18]),
    ]


def test_without_validation_epochs_end_and_stop_on_it(tmp_path):
    seen = NTPSCallback(data=ROWS)
    stopping = EarlyStopping("ntps/probe_accuracy", mode="max", patience=1, min_delta=2.0)  # no improvement is enough
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(tmp_path, callbacks=[stopping, seen], max_epochs=9, logger=logger, log_every_n_steps=1)
    trainer.fit(LoraModule(), loader())
    assert [row["step"] for row in seen.history] == [0, 6, 12]
    assert trainer.current_epoch == 2
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    points = {event.step: event.value for event in events.Scalars("ntps/score")}
    assert list(points.values()) == pytest.approx([row["ntps/score"] for row in seen.history])


def test_every_n_steps_and_monitors_that_look_between(tmp_path):
    callback, seen = NTPSCallback(data=ROWS, every_n_steps=4), Seen()
    stopping = EarlyStopping("ntps/score", mode="max", patience=1, min_delta=9.0)
    options = {"every_n_train_steps": 4, "auto_insert_metric_name": False}
    best = ModelCheckpoint(tmp_path / "best", monitor="ntps/score", mode="max", **options)
    logger = TensorBoardLogger(tmp_path)
    trainer = make_trainer(
        tmp_path, callbacks=[stopping, callback, best, seen], logger=logger, enable_checkpointing=True, max_epochs=9
    )
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    history = callback.history
    assert [row["step"] for row in history] == [0, 4, 8, 12]
    # Epochs end at 6 and 12: the first look finds step 4, the second 12, of which neither is better than by 9.
    assert [epoch["ntps/score"] for epoch in seen.epochs] == pytest.approx(
        [history[1]["ntps/score"], history[3]["ntps/score"]]
    )
    assert trainer.current_epoch == 2
    assert float(best.best_model_score) == pytest.approx(max(row["ntps/score"] for row in history[1:]))
    events = EventAccumulator(logger.log_dir)
    events.Reload()
    # Where Lightning puts what a module logs of that batch, the first of which is 0.
    assert [event.step for event in events.Scalars("ntps/score")] == [0, 3, 7, 11]


def test_several_sets_have_a_prefix_each(tmp_path):
    callback = NTPSCallback(data={"all": ROWS, "few": ROWS[:60]})
    make_trainer(tmp_path, callbacks=[callback, EarlyStopping("ntps_few/score", mode="max")]).fit(
        LoraModule(), loader()
    )
    whole, few = (callback.records[f"ntps_{name}"].history for name in ("all", "few"))
    assert whole[-1]["ntps_all_info/samples"] == 85
    assert few[-1]["ntps_few_info/samples"] == 60
    assert shown(few[0], "ntps_few") == pytest.approx(measured(LoraModule(), ROWS[:60]), abs=1e-5)
    with pytest.raises(ValueError, match="NTPSCallback does not log it"):
        make_trainer(tmp_path, callbacks=[NTPSCallback(data={"a": ROWS}), EarlyStopping("ntps_a/scor")]).fit(
            LoraModule(), loader()
        )


def test_the_model_may_be_named(tmp_path):
    callback = NTPSCallback(data=ROWS, model="model")
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(LoraModule(), loader())
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1]


def test_validate_measures_and_serves_as_the_baseline(tmp_path):
    callback, module = NTPSCallback(data=ROWS), LoraModule()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    trainer.validate(module, loader(60, seed=1), verbose=False)
    assert len(callback.history) == 1
    trainer.fit(module, loader())
    assert [row["step"] for row in callback.history] == [0, 6, 12, 18]


def test_resuming_goes_on_unless_the_set_changed(tmp_path):
    def fit(data, epochs, checkpoint=None):
        callback = NTPSCallback(data=data)
        trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=epochs)
        trainer.fit(LoraModule(), loader(), ckpt_path=checkpoint)
        trainer.save_checkpoint(tmp_path / "last.ckpt")
        return callback

    whole = fit(ROWS, 3)
    fit(ROWS, 1)
    assert fit(ROWS, 3, tmp_path / "last.ckpt").history == whole.history
    with (
        pytest.warns(UserWarning, match="history was measured on other data: it starts anew"),
        pytest.warns(UserWarning, match="counts from step 24"),
    ):
        other = fit(ROWS[:60], 4, tmp_path / "last.ckpt")
    assert [row["step"] for row in other.history] == [24]
    assert "ntps/gain" not in other.history[0] or other.history[0]["ntps/gain"] == 0


def test_a_fault_on_the_way_is_flagged_and_the_run_goes_on(tmp_path):
    class Breaking(LoraModule):
        def on_train_epoch_start(self):
            if self.current_epoch == 1:
                self.handle = self.model.get_input_embeddings().register_forward_hook(
                    lambda module, args, output: output if module.training else output * float("nan")
                )
            elif self.current_epoch == 2:
                self.handle.remove()

    callback = NTPSCallback(data=ROWS)
    stopping = EarlyStopping("ntps/score", mode="max", patience=1, min_delta=-9.0)
    with pytest.warns(UserWarning, match="NTPS, step 12"):
        make_trainer(tmp_path, callbacks=[callback, stopping]).fit(Breaking(), loader())
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1, 0, 1]
    assert stopping.wait_count == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"data": []}, "empty|holds nothing|no rows"),
        ({"data": [row for row in ROWS if row["label"] == "a"]}, "one class|same label|all"),
        ({"data": [{"text": "so good", "label": "a"}] * 3}, "tokenizer"),
        ({"data": ROWS, "labels": "topic"}, "topic"),
        ({"data": [{"input_ids": ids, "label": ids} for ids, _ in samples(30)]}, "label"),
        ({"data": ROWS, "model": "head"}, "head"),
    ],
)
def test_what_cannot_work_is_said_before_the_first_step(tmp_path, options, said):
    class Untrained(LoraModule):
        def training_step(self, batch, batch_idx):
            raise AssertionError("a step was made")

    with pytest.raises(ValueError, match=said):
        make_trainer(tmp_path, callbacks=[NTPSCallback(**options)]).fit(Untrained(), loader())


@pytest.mark.parametrize("options", [{"tokenizer": object()}, {"every_n_steps": 3}, {"data": ROWS, "every_n_steps": 0}])
def test_options_of_a_side_set_need_one(options):
    with pytest.raises(ValueError, match="every_n_steps"):
        NTPSCallback(**options)


def test_token_labels_name_the_way_out(tmp_path):
    class Causal(LoraModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])

    def collate(rows):
        batch = Padding()(rows)
        return batch | {"labels": batch["input_ids"]}

    data = DataLoader(samples(60), 16, collate_fn=collate)
    with pytest.raises(SetupError, match=r"data=\.\.\."):
        make_trainer(tmp_path, callbacks=[NTPSCallback()]).fit(Causal(), loader(), data)


def test_copies_go_on_without_the_data():
    callback = NTPSCallback(data=ROWS)
    for other in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert other.history == []


def test_an_index_of_zero_is_a_place(tmp_path):
    rows = [("abc".index(row["label"]), row["input_ids"]) for row in ROWS]
    callback = NTPSCallback(data=rows, labels=0, text=1)
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(LoraModule(), loader())
    assert callback.history[0]["ntps_info/k"] == 3
    assert shown(callback.history[0]) == pytest.approx(measured(LoraModule()), abs=1e-5)


def test_a_model_that_looks_ahead_is_refused_in_validate_too(tmp_path):
    with pytest.raises(SetupError, match=r"later tokens|looks ahead|bidirectional"):
        make_trainer(tmp_path, callbacks=[NTPSCallback(data=ROWS)]).validate(EncoderModule(), loader(60), verbose=False)


def test_a_monitor_between_two_steps_outlives_failed_measurements(tmp_path):
    class Broken(LoraModule):
        def on_train_start(self):
            self.model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output if module.training else output * float("nan")
            )

    callback = NTPSCallback(data=ROWS, every_n_steps=4, baseline=False)
    stopping = EarlyStopping("ntps/captured_r2", mode="max", patience=1)
    with pytest.warns(UserWarning, match="NTPS, step 4"):
        make_trainer(tmp_path, callbacks=[callback, stopping]).fit(Broken(), loader())
    assert [row["ntps_info/valid"] for row in callback.history] == [0, 0, 0, 0]
