"""Real Trainer runs, one for each promise."""

from __future__ import annotations

import copy
import logging
import pickle
from importlib.metadata import PackageNotFoundError

import lightning.pytorch as pl
import pytest
import pytorch_lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.data import DataLoader

from ntps_lightning import NTPSCallback, versions
from tests.support.models import (
    CLASSES,
    LAYERS,
    SAFELY,
    LoraModule,
    Padding,
    Recording,
    Seen,
    hooks_on,
    loader,
    make_trainer,
    samples,
)

NAMES = ("score", "captured_in_sample", "null", "lift", "gain")
INFO = ("valid", "chance", "k", "ridge", "samples", "samples_per_dim")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run with a baseline, three epochs and TensorBoard."""
    folder = tmp_path_factory.mktemp("run")
    module, callback, seen = Recording(), NTPSCallback(layers="all"), Seen()
    logger = TensorBoardLogger(folder, name="", version="")
    # The module records the whole validation set before the first step: what the baseline is compared with.
    trainer = make_trainer(folder, callbacks=[seen, callback], logger=logger, num_sanity_val_steps=-1)
    trainer.fit(module, loader(), loader(60, seed=1))
    events = EventAccumulator(str(folder), size_guidance={"images": 0})
    events.Reload()
    return module, callback, seen, trainer, events


def test_what_is_logged_each_epoch_equals_the_oracle(finished):
    module, callback, seen, *_ = finished
    assert len(module.epochs) == len(callback.history) == 4
    for epoch in range(4):
        row = callback.history[epoch]
        assert row["ntps/score"] == pytest.approx(module.score(epoch), rel=1e-5)
        for layer in range(LAYERS + 1):
            assert row[f"ntps_layers/{layer:02d}/score"] == pytest.approx(module.score(epoch, layer), rel=1e-5)
        assert row["ntps/gain"] == pytest.approx(row["ntps/score"] - callback.history[0]["ntps/score"])
    for logged, row in zip(seen.epochs, callback.history[1:], strict=True):
        assert {k: logged[k] for k in row if k.startswith("ntps")} == pytest.approx(
            {k: v for k, v in row.items() if k.startswith("ntps")}, rel=1e-5
        )
    assert [row["step"] for row in callback.history] == [0, 6, 12, 18]


def test_tensorboard_has_every_key_from_before_the_first_step(finished):
    _, callback, *_, events = finished
    layers = [f"ntps_layers/{i:02d}/score" for i in range(LAYERS + 1)]
    for key in (*(f"ntps/{name}" for name in NAMES), *(f"ntps_info/{name}" for name in INFO), *layers):
        points = events.Scalars(key)
        assert [p.step for p in points] == [0, 5, 11, 17]
        assert [p.value for p in points] == pytest.approx([row[key] for row in callback.history], rel=1e-5)
    assert len(events.Images("ntps/curves")) == 4


def test_details_are_at_hand(finished):
    _, callback, *_ = finished
    assert set(callback.details) == set(callback.baseline_details) == {0, 1, 2}
    assert callback.details[2].score == callback.history[-1]["ntps/score"]
    assert callback.baseline_details[2].score == callback.history[0]["ntps/score"]


@pytest.mark.compatibility("Lifecycle", "sanity check", "no trace in what monitors see, and as long as the user has it")
def test_the_sanity_check_leaves_no_trace(finished, tmp_path):
    _, _, seen, *_ = finished
    assert seen.at_train_start == {}
    module, callback = Recording(), NTPSCallback(baseline=False)
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader(), loader(60, seed=1))
    assert [len(epoch) for epoch in module.epochs] == [32, 60]
    assert len(callback.history) == 1
    assert "ntps/gain" not in callback.history[0]
    assert callback.history[0]["ntps_info/samples_per_dim"] == 60 / 16


@pytest.mark.compatibility("Lifecycle", "EarlyStopping", "stops when it should, wherever it stands in the list")
@pytest.mark.parametrize("first", ["callback", "stopping"])
def test_early_stopping_stops_when_it_should_in_either_order(tmp_path, first):
    free = NTPSCallback()
    make_trainer(tmp_path, callbacks=[free], max_epochs=12).fit(LoraModule(0.05), loader(), loader(60, seed=1))
    scores = [row["ntps/score"] for row in free.history[1:]]
    best, waited, expected = -1.0, 0, len(scores) - 1
    for epoch, score in enumerate(scores):
        best, waited = (score, 0) if score > best else (best, waited + 1)
        if waited == 1:
            expected = epoch
            break
    assert 0 < expected < 11, "the data must make the score turn within the run"

    stopping = EarlyStopping("ntps/score", mode="max", patience=1)
    callbacks = [NTPSCallback(), stopping]
    trainer = make_trainer(tmp_path, callbacks=callbacks[:: 1 if first == "callback" else -1], max_epochs=12)
    trainer.fit(LoraModule(0.05), loader(), loader(60, seed=1))
    assert stopping.stopped_epoch == expected
    assert stopping.best_score == pytest.approx(max(scores[: expected + 1]), rel=1e-5)


@pytest.mark.compatibility("Lifecycle", "ModelCheckpoint", "keeps the best score")
def test_checkpoints_keep_the_best_score(tmp_path):
    checkpoint, callback = ModelCheckpoint(tmp_path, monitor="ntps/score", mode="max", save_top_k=1), NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[checkpoint, callback], enable_checkpointing=True)
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    assert float(checkpoint.best_model_score) == pytest.approx(
        max(r["ntps/score"] for r in callback.history[1:]), rel=1e-5
    )


@pytest.mark.compatibility("Lifecycle", "checkpoint and resume", "the history and baseline of an uninterrupted run")
def test_resuming_keeps_history_and_baseline(tmp_path):
    whole = NTPSCallback(layers=range(LAYERS + 1))
    make_trainer(tmp_path, callbacks=[whole]).fit(LoraModule(), loader(), loader(60, seed=1))
    first = make_trainer(tmp_path, callbacks=[NTPSCallback(layers=range(LAYERS + 1))], max_epochs=2)
    first.fit(LoraModule(), loader(), loader(60, seed=1))
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    resumed = NTPSCallback(layers=range(LAYERS + 1))
    second = make_trainer(tmp_path, callbacks=[resumed])
    second.fit(LoraModule(), loader(), loader(60, seed=1), ckpt_path=tmp_path / "stopped.ckpt", **SAFELY)
    assert resumed.history == whole.history


@pytest.mark.compatibility(
    "Lifecycle", "`validate()` before `fit()`", "the first is the baseline of the second; inference mode does no harm"
)
def test_validate_then_fit(tmp_path):
    """The first is the baseline of the second; validate() runs in inference mode, which fit must survive."""
    module, callback = Recording(), NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    (validated,) = trainer.validate(module, loader(60, seed=1), verbose=False)
    assert validated["ntps/score"] == pytest.approx(module.score(0), rel=1e-5)
    assert validated["ntps/gain"] == 0
    trainer.fit(module, loader(), loader(60, seed=1))
    assert len(callback.history) == 4
    last = callback.history[-1]
    assert last["ntps/gain"] == pytest.approx(last["ntps/score"] - validated["ntps/score"], abs=1e-6)
    (again,) = trainer.validate(module, loader(60, seed=1), verbose=False)
    assert again["ntps/score"] == pytest.approx(callback.history[-2]["ntps/score"], rel=1e-5)


class Failing(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        super().validation_step(batch, batch_idx)
        if not self.trainer.sanity_checking:
            raise ZeroDivisionError


def test_no_hooks_stay_after_success_exception_and_teardown(tmp_path):
    for module in (LoraModule(), Failing()):
        before = hooks_on(module)
        trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(layers="all")], max_epochs=1)
        try:
            trainer.fit(module, loader(), loader(60, seed=1))
        except ZeroDivisionError:
            assert isinstance(module, Failing)
        assert hooks_on(module) == before
    module, callback = LoraModule(), NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[callback])
    trainer.strategy.connect(module)
    trainer.state.fn = "validate"
    callback.on_validation_epoch_start(trainer, module)
    assert hooks_on(module) == before
    callback.on_validation_batch_start(trainer, module, next(iter(loader())), 0)
    assert hooks_on(module) > before
    callback.teardown(trainer, module, "fit")
    assert hooks_on(module) == before


def test_one_line_goes_through_lightnings_logger(tmp_path, capsys):
    lines: list[str] = []
    logger, handler = logging.getLogger("lightning.pytorch"), logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    logger.addHandler(handler)
    make_trainer(tmp_path, callbacks=[NTPSCallback()]).fit(LoraModule(), loader(), loader(60, seed=1))
    logger.removeHandler(handler)
    lines = [line for line in lines if line.startswith("ntps probe ")]
    assert len(lines) == 4
    for word in ("±", "captured R²", "score", "null", "lift", "captured R²", "k 3", "n/d 3.8"):
        assert word in lines[0]
    assert "ntps" not in capsys.readouterr().out


def test_or_through_the_progress_bar(tmp_path, capsys):
    bar = pl.callbacks.TQDMProgressBar()
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(), bar], enable_progress_bar=True, max_epochs=1)
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    captured = capsys.readouterr()
    assert (captured.out + captured.err).count("lift") == 2


def test_every_n_epochs_repeats_for_monitors_and_skips_the_loggers(tmp_path):
    callback, seen = NTPSCallback(every_n_epochs=2), Seen()
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer = make_trainer(tmp_path, callbacks=[callback, seen], logger=logger, max_epochs=4)
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    first, second, third, fourth = (row["ntps/score"] for row in seen.epochs)
    assert [row["epoch"] for row in callback.history[1:]] == [0, 1, 3], "the first, so that monitors find a value"
    assert first == pytest.approx(callback.history[1]["ntps/score"])
    assert second == third == pytest.approx(callback.history[2]["ntps/score"])
    assert fourth == pytest.approx(callback.history[3]["ntps/score"])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert len(events.Scalars("ntps/score")) == 4


def test_classes_are_found_as_they_appear(tmp_path):
    rows = sorted(samples(60, seed=1), key=lambda row: row[1])
    data = DataLoader(rows, batch_size=16, collate_fn=Padding())
    module, callback = Recording(), NTPSCallback()
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(module, loader(), data)
    assert callback.history[1]["ntps/score"] == pytest.approx(module.score(1), rel=1e-5)
    wide = NTPSCallback(num_classes=CLASSES)
    make_trainer(tmp_path, callbacks=[wide], max_epochs=1).fit(LoraModule(), loader(), data)
    for row, other in zip(wide.history, callback.history, strict=True):
        assert row == pytest.approx(other, rel=1e-5)


@pytest.mark.compatibility("Lifecycle", "several validation dataloaders", "the one that is named counts")
def test_several_dataloaders_and_callbacks_side_by_side(tmp_path):
    module = LoraModule()
    callbacks = [NTPSCallback(prefix="a"), NTPSCallback(prefix="b", dataloader_idx=1, layers=1)]
    trainer = make_trainer(tmp_path, callbacks=callbacks, max_epochs=1)
    trainer.fit(module, loader(), [loader(60, seed=1), loader(40, seed=2)])
    assert callbacks[0].history[-1]["a_info/samples_per_dim"] == 60 / 16
    assert callbacks[1].history[-1]["b_info/samples_per_dim"] == 40 / 16
    assert len({c.state_key for c in callbacks}) == 2
    assert trainer.num_sanity_val_steps == 2


class Generating(LoraModule):
    """Generates, and makes a reference pass, before the pass that counts."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        with self.model.disable_adapter():
            self.model(**batch)
        self.model(input_ids=batch["input_ids"].flip(1), attention_mask=batch["attention_mask"])
        self.model(input_ids=batch["input_ids"][:1])
        super().validation_step(batch, batch_idx)
        self.model(**batch)


def test_other_passes_are_not_ours(tmp_path):
    histories = []
    for module in (LoraModule(), Generating()):
        callback = NTPSCallback()
        make_trainer(tmp_path, callbacks=[callback]).fit(module, loader(), loader(60, seed=1))
        histories.append(callback.history)
    assert histories[0] == histories[1]


class Deaf(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        pass


class OtherBatch(LoraModule):
    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model(input_ids=batch["input_ids"][:3])


class NoLanguageModel(LoraModule):
    def __init__(self):
        super().__init__()
        self.model = nn.Linear(2, 2)


def unlabelled(n=20):
    return DataLoader(samples(n), batch_size=4, collate_fn=lambda rows: {"input_ids": torch.ones(4, 3).long()})


@pytest.mark.parametrize(
    ("module", "data", "options", "error", "message"),
    [
        (Deaf, loader, {}, ValueError, "no forward pass of LlamaModel.*was not called"),
        (OtherBatch, loader, {}, ValueError, "a call over 3 sequences was left out"),
        (LoraModule, unlabelled, {}, ValueError, r"no labels at 'labels' in a batch that is a dict.*\['input_ids'\]"),
        (LoraModule, loader, {"labels": "input_ids"}, ValueError, "next-token targets"),
        (LoraModule, loader, {"labels": lambda b: b["labels"] * 5000}, ValueError, "looks like token ids"),
        (LoraModule, loader, {"attention_mask": "mask"}, ValueError, "no attention_mask at 'mask'"),
        (
            LoraModule,
            loader,
            {"num_classes": 3, "labels": lambda b: b["labels"].float()},
            ValueError,
            "num_classes = 3",
        ),
        (LoraModule, loader, {"layers": 7}, ValueError, r"indices in \[-3, 2\]"),
        (LoraModule, loader, {"model": "head"}, ValueError, r"names no submodule of the module, which has \['model'\]"),
        (NoLanguageModel, loader, {}, ValueError, "holds none"),
    ],
)
def test_what_cannot_work_fails_before_the_first_step(tmp_path, module, data, options, error, message):
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(**options)])
    with pytest.raises(error, match=message):
        trainer.fit(module(), data(), data())
    assert trainer.global_step == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 0}, "k must be"),
        ({"ridge": -1.0}, "ridge"),
        ({"pooling": "max"}, "pooling"),
        ({"every_n_epochs": 0}, "every_n_epochs"),
    ],
)
def test_bad_options_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        NTPSCallback(**options)


def test_monitors_are_checked_before_the_first_step(tmp_path):
    wrong = EarlyStopping("ntps/captures", mode="max")
    with pytest.raises(ValueError, match=r"does not log it, only \['ntps/captured', 'ntps/captured_in_sample', "):
        make_trainer(tmp_path, callbacks=[NTPSCallback(), wrong]).fit(LoraModule(), loader(), loader())
    wrong = EarlyStopping("val/ntps/captures", mode="max")
    with pytest.raises(ValueError, match=r"only \['val/ntps/captured', "):
        make_trainer(tmp_path, callbacks=[NTPSCallback(prefix="val/ntps"), wrong]).fit(LoraModule(), loader(), loader())
    with pytest.warns(UserWarning, match='did you mean mode="max"'):
        trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(), EarlyStopping("ntps/score")], max_epochs=1)
        trainer.fit(LoraModule(), loader(), loader())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("ntps", "ntps/score"),
        ("ntps/valid", "ntps_info/valid"),
        ("ntps/layer_01", "ntps_layers/01/score"),
    ],
)
def test_a_monitor_of_an_old_key_is_told_the_new_name(tmp_path, old, new):
    callbacks = [NTPSCallback(layers="all"), ModelCheckpoint(monitor=old, mode="max")]
    message = rf"ModelCheckpoint\(monitor='{old}'\): this key is called '{new}' now"
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, callbacks=callbacks, enable_checkpointing=True).fit(LoraModule(), loader(), loader())


def test_monitors_of_layers_and_constants_are_checked_too(tmp_path):
    for wrong in ("ntps_layers/07/score", "ntps_info/rank"):
        callbacks = [NTPSCallback(layers="all"), EarlyStopping(wrong, mode="max")]
        with pytest.raises(ValueError, match="does not log it, only"):
            make_trainer(tmp_path, callbacks=callbacks).fit(LoraModule(), loader(), loader())
    stopping = EarlyStopping("ntps_layers/01/score", mode="max")
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(layers="all"), stopping], max_epochs=1)
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    assert stopping.best_score == trainer.callback_metrics["ntps_layers/01/score"]


def test_a_scheduler_on_an_old_key_is_refused_before_the_first_step(tmp_path):
    class Scheduled(LoraModule):
        def configure_optimizers(self):
            optimizer = super().configure_optimizers()
            scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, mode="max")
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "ntps"}}

    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(baseline=False)])
    with pytest.raises(ValueError, match=r"ReduceLROnPlateau\(monitor='ntps'\): this key is called 'ntps/score' now"):
        trainer.fit(Scheduled(), loader(), loader(60, seed=1))
    assert trainer.global_step == 0


def test_nothing_logged_is_both_a_name_and_a_folder(finished):
    *_, trainer, events = finished
    keys = {*trainer.callback_metrics, *events.Tags()["scalars"], *events.Tags()["images"]}
    assert not [key for key in keys if any(other.startswith(f"{key}/") for other in keys)]


def test_a_checkpoint_of_another_format_starts_anew_and_says_so():
    callback = NTPSCallback()
    with pytest.warns(UserWarning, match=r"was kept by another version of ntps_lightning: it starts anew"):
        callback.load_state_dict({"history": [{"ntps": 0.1}], "baseline_score": 0.1, "baseline_details": {}})
    assert callback.history == []


def test_a_changed_definition_starts_a_new_history_and_says_so(tmp_path):
    first = make_trainer(tmp_path, callbacks=[NTPSCallback(ridge=0.1)], max_epochs=1)
    first.fit(LoraModule(), loader(), loader(60, seed=1))
    first.save_checkpoint(tmp_path / "stopped.ckpt")
    changed = NTPSCallback(ridge=0.2, layers=1)
    trainer = make_trainer(tmp_path, callbacks=[changed], max_epochs=2)
    warned = pytest.warns(
        UserWarning, match=r"measured with ridge=0.1 \(now 0.2\), layers=-1 \(now 1\): it starts anew"
    )
    with warned, pytest.warns(UserWarning, match="counts from step 12"):
        trainer.fit(LoraModule(), loader(), loader(60, seed=1), ckpt_path=tmp_path / "stopped.ckpt", **SAFELY)
    assert [row["step"] for row in changed.history] == [12]


def test_a_field_that_is_not_known_is_left_out_with_a_warning(finished):
    _, callback, *_ = finished
    state = copy.deepcopy(callback.state_dict())
    state["sets"]["ntps"]["baseline"][1]["from_the_future"] = 1.0
    resumed = NTPSCallback(layers="all")
    with pytest.warns(UserWarning, match=r"does not know: \['from_the_future'\]"):
        resumed.load_state_dict(state)
    assert resumed.history == callback.history
    assert resumed.baseline_details[1].score == callback.baseline_details[1].score


def test_a_baseline_of_before_fields_said_to_be_in_sample_is_read(finished):
    _, callback, *_ = finished
    state = copy.deepcopy(callback.state_dict())
    layer = state["sets"]["ntps"]["baseline"][1]
    layer["captured"], layer["probe_r2"] = layer.pop("captured_in_sample"), layer.pop("in_sample_r2")
    resumed = NTPSCallback(layers="all")
    resumed.load_state_dict(state)
    assert resumed.baseline_details[1].captured_in_sample == callback.baseline_details[1].captured_in_sample
    assert resumed.baseline_details[1].in_sample_r2 == callback.baseline_details[1].in_sample_r2


def test_copies_carry_no_trainer(finished):
    _, callback, *_ = finished
    assert callback._run is not None
    for twin in (copy.deepcopy(callback), pickle.loads(pickle.dumps(callback))):
        assert not [name for name, value in vars(twin).items() if isinstance(value, (nn.Module, pl.Trainer))]
        assert not {"log", "log_dict"} & vars(twin).keys()
        assert twin.history == callback.history


def test_a_run_without_validation_is_told_so(tmp_path):
    with pytest.warns(UserWarning, match="this run has none"):
        make_trainer(tmp_path, callbacks=[NTPSCallback()], max_epochs=1).fit(LoraModule(), loader())


@pytest.mark.compatibility("Lifecycle", "`fast_dev_run=2`", "measured without a baseline")
@pytest.mark.filterwarnings("ignore")
def test_fast_dev_run(tmp_path):
    callback = NTPSCallback()
    make_trainer(tmp_path, callbacks=[callback], fast_dev_run=2).fit(LoraModule(), loader(), loader(60, seed=1))
    (row,) = callback.history
    assert row["ntps_info/samples_per_dim"] == 2 * 16 / 16


def test_regression_targets_and_tuple_batches(tmp_path):
    class Tuples(LoraModule):
        def training_step(self, batch, batch_idx):
            return self.model(input_ids=batch[0], attention_mask=batch[1]).logits.square().sum()

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            self.model(input_ids=batch[0], attention_mask=batch[1])

    def collate(rows):
        batch = Padding()(rows)
        return batch["input_ids"], batch["attention_mask"], batch["labels"].float() + torch.rand(len(rows))

    data = DataLoader(samples(60), batch_size=16, collate_fn=collate)
    callback = NTPSCallback(labels=2, attention_mask=1)
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(Tuples(), data, data)
    assert callback.details[LAYERS].rank == 1


@pytest.mark.parametrize(
    "package",
    [
        pytest.param(p, id=p.__name__, marks=pytest.mark.compatibility("Lifecycle", f"`{p.__name__}`", "takes it"))
        for p in (pl, pytorch_lightning)
    ],
)
def test_both_trainers_take_it(tmp_path, package):
    class Module(package.LightningModule):  # type: ignore[name-defined]
        training_step, validation_step = LoraModule.training_step, LoraModule.validation_step
        configure_optimizers = LoraModule.configure_optimizers

        def __init__(self):
            super().__init__()
            self.learning_rate, self.model = 0.02, LoraModule().model

    callback = NTPSCallback()
    stopping = package.callbacks.EarlyStopping("ntps/score", mode="max")
    options = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False, "accelerator": "cpu"}
    trainer = package.Trainer(max_epochs=1, callbacks=[callback, stopping], default_root_dir=tmp_path, **options)
    trainer.fit(Module(), loader(), loader(60, seed=1))
    assert float(trainer.callback_metrics["ntps/score"]) == pytest.approx(callback.history[-1]["ntps/score"], rel=1e-5)


def test_before_lightning_2_6_a_callback_is_of_both_packages(monkeypatch):
    monkeypatch.setattr(versions, "version", lambda package: "2.5.6.post0")
    both = versions.callback_base()
    assert issubclass(both, pl.Callback)
    assert issubclass(both, pytorch_lightning.Callback)
    for found in ("2.6.0rc1", "3.0"):
        monkeypatch.setattr(versions, "version", lambda package, found=found: found)
        assert versions.callback_base() is pl.Callback

    def missing(package):
        raise PackageNotFoundError(package)

    monkeypatch.setattr(versions, "version", missing)
    assert versions.callback_base() is pl.Callback
