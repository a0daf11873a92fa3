"""Bad days: the run goes on, or stops with one clear error before it has cost anything."""

from __future__ import annotations

import errno
import math
import shutil
import warnings
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.utils.data import DataLoader

from ntps_lightning import NTPSCallback
from ntps_lightning.memory import scratch_bytes, state_bytes
from tests.support.models import (
    CLASSES,
    HIDDEN,
    LAYERS,
    LoraModule,
    Padding,
    Recording,
    Seen,
    loader,
    make_trainer,
    samples,
)


def fault(row: str, note: str = "warned of once, `ntps_info/valid` = 0, the run goes on") -> Any:
    return pytest.mark.compatibility("Faults", row, note)


class Poisoned(LoraModule):
    """Its hidden states hold a bad value in the validations that are named (0: as it was before the first step)."""

    def __init__(self, value: float, when: set[int]) -> None:
        super().__init__()
        self.value, self.when, self.validations, self.batch_idx = value, when, -1, 0
        self.model.get_input_embeddings().register_forward_hook(self.poison)

    def poison(self, module, args, output):
        bad = not self.training and (0 if self.trainer.sanity_checking else self.validations) in self.when
        return output + (self.value if bad and self.batch_idx == 1 else 0.0)

    def on_validation_epoch_start(self):
        self.validations += 1

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.batch_idx = batch_idx
        self.model(**batch)


def fit(tmp_path, module, callback, *others, data=None, **options):
    trainer = make_trainer(tmp_path, callbacks=[callback, *others], **options)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(module, loader(), data if data is not None else loader(60, seed=1))
    messages = [str(w.message) for w in caught if "NTPS, step" in str(w.message)]
    return trainer, messages


@pytest.mark.parametrize(
    "value", [pytest.param(v, marks=fault(f"{v} in the hidden states")) for v in (math.nan, math.inf)]
)
def test_a_bad_value_costs_one_score_and_nothing_else(tmp_path, value):
    callback, seen = NTPSCallback(), Seen()
    stopping = EarlyStopping("ntps/score", mode="max", patience=2, min_delta=1.0)  # nothing is ever an improvement
    checkpoint = ModelCheckpoint(tmp_path / "best", monitor="ntps/score", mode="max")
    logger = TensorBoardLogger(tmp_path, name="", version="")
    trainer, messages = fit(
        tmp_path, Poisoned(value, {2, 3}), callback, seen, stopping, checkpoint,
        logger=logger, max_epochs=9, enable_checkpointing=True,
    )  # fmt: skip
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1, 0, 0, 1, 1]
    assert (len(messages), "NaN or Inf at valid tokens" in messages[0]) == (1, True)
    # Epochs 1 and 2 have no score: they cost no patience, which the two after them use up.
    assert trainer.current_epoch == 5
    assert stopping.wait_count == 2
    first = callback.history[1]["ntps/score"]
    assert [row["ntps/score"] for row in seen.epochs] == pytest.approx(
        [first, first, first, *(row["ntps/score"] for row in callback.history[4:])], rel=1e-5
    )
    assert [row["ntps_info/valid"] for row in seen.epochs] == [1, 0, 0, 1, 1]
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    scores = [point.value for point in events.Scalars("ntps/score")]
    assert len(scores) == 6
    assert scores[1] == scores[2] == scores[3], "held, and flagged by the next line"
    assert [point.value for point in events.Scalars("ntps_info/valid")] == [1, 1, 0, 0, 1, 1]


@fault("no baseline (NaN before the first step)", "`ntps/gain` counts from the first score, with a warning")
def test_monitors_live_without_a_baseline(tmp_path):
    callback, seen = NTPSCallback(), Seen()
    stopping = EarlyStopping("ntps/gain", mode="max", patience=1)
    counted = pytest.warns(UserWarning, match="`ntps/gain` counts from step 12: there is no score from before")
    with counted, pytest.warns(UserWarning, match="NaN or Inf at valid tokens"):
        make_trainer(tmp_path, callbacks=[callback, stopping, seen], max_epochs=3).fit(
            Poisoned(math.nan, {0, 1}), loader(), loader(60, seed=1)
        )
    assert [row["ntps_info/valid"] for row in callback.history] == [0, 1, 1]
    assert seen.epochs[0]["ntps/gain"] == -1e9, "worse than any"
    assert "ntps/score" not in seen.epochs[0], "nobody asks for it"
    assert seen.epochs[1]["ntps/gain"] == 0


@pytest.mark.parametrize(("monitor", "threshold"), [("ntps/score", 0.0), ("ntps_layers/01/score", -1e12)])
def test_no_value_is_invented_that_a_run_stops_on(tmp_path, monitor, threshold):
    callback = NTPSCallback(baseline=False, layers=[1, 2])
    stopping = EarlyStopping(monitor, mode="max", patience=1, divergence_threshold=threshold)
    with pytest.warns(UserWarning, match="NaN or Inf at valid tokens"):
        make_trainer(tmp_path, callbacks=[callback, stopping], max_epochs=4, num_sanity_val_steps=0).fit(
            Poisoned(math.nan, {0, 1, 2}), loader(), loader(60, seed=1)
        )
    assert [row["ntps_info/valid"] for row in callback.history] == [0, 0, 0, 1]
    assert stopping.wait_count == 0
    assert stopping.best_score > 0


@fault("a monitor of `ntps_info/valid`", "sees 0, which costs its own patience alone")
def test_each_key_has_its_own_patience(tmp_path):
    callback = NTPSCallback()
    kept, spent = (
        EarlyStopping("ntps/score", mode="max", patience=9),
        EarlyStopping("ntps_info/valid", mode="max", patience=9),
    )
    fit(tmp_path, Poisoned(math.nan, {2, 3}), callback, kept, spent, max_epochs=3)
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1, 0, 0]
    assert (kept.wait_count, spent.wait_count) == (0, 2)


@fault("a monitor of ours, and no validation", "refused at the start")
def test_a_monitor_without_validation_is_refused_before_the_first_step(tmp_path):
    module = LoraModule()
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(), EarlyStopping("ntps/score", mode="max")])
    with pytest.raises(ValueError, match=r"EarlyStopping\(monitor='ntps/score'\): this run has no validation epochs"):
        trainer.fit(module, loader())
    assert trainer.global_step == 0


@fault("`on_error='raise'`", "the fault stops the run at the end of its batch")
def test_raising_for_those_who_want_it(tmp_path):
    module = Poisoned(math.nan, {1})
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(on_error="raise")])
    with pytest.raises(ValueError, match="NaN or Inf at valid tokens of samples"):
        trainer.fit(module, loader(), loader(60, seed=1))
    assert trainer.global_step == 6
    with pytest.raises(ValueError, match="on_error must be"):
        NTPSCallback(on_error="ignore")


def relabelled(label, n=60):
    def collate(rows):
        batch = Padding()(rows)
        return batch | {"labels": label(batch["labels"])}

    return DataLoader(samples(n, 1), batch_size=16, collate_fn=collate)


class Unlabelled(LoraModule):
    """Computes no loss, so that any labels do."""

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


@pytest.mark.parametrize(
    ("label", "message"),
    [
        pytest.param(torch.zeros_like, "a single class", marks=fault("one class only")),
        pytest.param(lambda y: y * 0 - 100, "the labels are all -100", marks=fault("every label is -100")),
        pytest.param(lambda y: y / 0.0 * 0, "targets hold NaN", marks=fault("NaN in the regression targets")),
    ],
)
def test_labels_that_cannot_be_scored(tmp_path, label, message):
    callback = NTPSCallback()
    trainer, messages = fit(tmp_path, Unlabelled(), callback, data=relabelled(label))
    assert trainer.current_epoch == 3
    assert [row["ntps_info/valid"] for row in callback.history] == [0] * 3
    assert (len(messages), message in messages[0]) == (1, True), messages


@pytest.mark.parametrize(
    ("label", "message", "classes"),
    [
        (lambda y: y - 1, r"in \[0, C\), or -100 for none, got values from -1 to 1", None),
        (lambda y: y, r"in \[0, 2\), or -100 for none, got values from 0 to 2", 2),
    ],
)
@fault("labels out of range", "refused at the start")
def test_labels_out_of_range(tmp_path, label, message, classes):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, Unlabelled(), NTPSCallback(classes), data=relabelled(label))


@fault("some labels are -100", "those samples are left out, as PyTorch's losses do; the definition, 1e-5")
def test_samples_without_a_label_are_left_out(tmp_path):
    class Some(Recording):
        def record(self, output, batch):
            super().record(output, batch)
            self.epochs[-1] = [sample for sample in self.epochs[-1] if sample[1] >= 0]

    module, callback = Some(), NTPSCallback()
    every_third = lambda y: torch.where(torch.arange(len(y)) % 3 == 0, -100, y)  # noqa: E731
    fit(tmp_path, module, callback, data=relabelled(every_third), max_epochs=1)
    assert callback.history[1]["ntps/score"] == pytest.approx(module.score(1), rel=1e-5)
    assert callback.history[1]["ntps_info/samples_per_dim"] == len(module.epochs[1]) / HIDDEN < 60 / HIDDEN


@fault("fewer samples than classes", "scored, and flagged by `ntps_info/samples_per_dim` and a warning")
def test_fewer_samples_than_classes(tmp_path):
    callback = NTPSCallback(num_classes=40)
    few = pytest.warns(UserWarning, match="NTPS from 12 samples")
    with few, pytest.warns(UserWarning, match=r"k = 16, .* is the hidden size"):
        make_trainer(tmp_path, callbacks=[callback], max_epochs=1).fit(LoraModule(), loader(), loader(12, seed=1))
    row = callback.history[-1]
    assert row["ntps_info/valid"] == 1
    assert 0 <= row["ntps/score"] <= 1
    assert callback.details[LAYERS].rank <= 11


@fault("a sample without tokens")
def test_a_sample_without_tokens(tmp_path):
    def collate(rows):
        batch = Padding()(rows)
        batch["attention_mask"][0] = 0
        return batch

    callback = NTPSCallback()
    data = DataLoader(samples(60, 1), batch_size=16, collate_fn=collate)
    trainer, messages = fit(tmp_path, Unlabelled(), callback, data=data, max_epochs=1)
    assert trainer.current_epoch == 1
    assert (len(messages), "samples [0] of the batch have no valid token" in messages[0]) == (1, True)


class Growing(DataLoader):
    """Its third class is first seen in the second epoch."""

    def __iter__(self):
        self.epoch = getattr(self, "epoch", -1) + 1
        for batch in super().__iter__():
            yield batch | {"labels": batch["labels"].clamp(max=1 if self.epoch < 2 else 2)}


@fault("more classes later than at first", "scored; a warning where the default k grows with them")
def test_more_classes_later(tmp_path):
    callback = NTPSCallback()
    data = Growing(samples(60, 1), batch_size=16, collate_fn=Padding())
    with pytest.warns(UserWarning, match="with k = 3 from step 12 on, it was 2: more classes were seen"):
        make_trainer(tmp_path, callbacks=[callback]).fit(LoraModule(), loader(), data)
    assert [row["ntps_info/valid"] for row in callback.history] == [1] * 4
    assert callback.details[LAYERS].k == CLASSES


class FullDisk(TensorBoardLogger):
    """Refuses the baseline, which the callback itself hands to the logger."""

    def log_metrics(self, metrics, step=None):
        if step == 0 and "ntps/score" in metrics:
            raise OSError(errno.ENOSPC, "No space left on device")
        super().log_metrics(metrics, step)


@fault("a logger that raises when it gets the baseline", "warned of once; the scores are measured all the same")
def test_a_logger_that_raises(tmp_path):
    callback = NTPSCallback()
    trainer, messages = fit(tmp_path, LoraModule(), callback, logger=FullDisk(tmp_path))
    assert trainer.current_epoch == 3
    assert [row["ntps_info/valid"] for row in callback.history] == [1] * 4
    assert (len(messages), "No space left" in messages[0]) == (1, True)


@fault("a disk almost full for the logger", "no figures, warned of once; the scores are logged all the same")
def test_an_almost_full_disk(tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=2**20)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    callback = NTPSCallback()
    _, messages = fit(tmp_path, LoraModule(), callback, logger=TensorBoardLogger(tmp_path, name="", version=""))
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert events.Tags()["images"] == []
    assert len(events.Scalars("ntps/score")) == 4
    assert (len(messages), "1 MiB are free" in messages[0]) == (1, True)


class Retrying(LoraModule):
    """Runs out of memory in the second batch of every validation, in its first layer, and does as it is told then."""

    def __init__(self, retry: str) -> None:
        super().__init__()
        self.retry, self.full = retry, False
        self.model.base_model.model.model.layers[0].register_forward_pre_hook(self.fail)

    def fail(self, module, args):
        if self.full:
            self.full = False
            raise torch.OutOfMemoryError("CUDA out of memory")

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        self.full = batch_idx == 1 and not self.trainer.sanity_checking
        try:
            super().validation_step(batch, batch_idx)
        except torch.OutOfMemoryError:
            parts = {"repeated": [slice(0, 16)], "halved": [slice(0, 8), slice(8, 16)], "dropped": []}[self.retry]
            for rows in parts:
                super().validation_step({name: values[rows] for name, values in batch.items()}, batch_idx)


@pytest.mark.parametrize(
    "retry",
    [
        pytest.param(retry, marks=fault(f"out of memory in a forward pass, {retry}", note))
        for retry, note in (
            ("repeated", "the scores and the baseline of a run in which it does not fail"),
            ("halved", "the scores of a run in which it does not fail; no baseline, said once"),
        )
    ],
)
def test_a_retry_counts(tmp_path, retry):
    callback, plain = NTPSCallback(layers="all"), NTPSCallback(layers="all")
    make_trainer(tmp_path, callbacks=[plain]).fit(LoraModule(), loader(), loader(60, seed=1))
    _, messages = fit(tmp_path, Retrying(retry), callback)
    assert messages == []
    numbers = ("step", "ntps/score", "ntps/probe_r2", "ntps_info/valid", "ntps_layers/00/score")
    expected = [[row[name] for name in numbers] for row in plain.history]
    found = [[row[name] for name in numbers] for row in callback.history]
    for row, wanted in zip(found, expected if retry == "repeated" else expected[1:], strict=True):
        assert row == pytest.approx(wanted, rel=1e-4)


@fault("out of memory in a forward pass, never repeated")
def test_a_batch_that_was_dropped_is_flagged(tmp_path):
    callback = NTPSCallback()
    _, messages = fit(tmp_path, Retrying("dropped"), callback)
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 0, 0, 0], (
        "the baseline comes of the calls, which can be made again"
    )
    assert (len(messages), "16 are missing" in messages[0]) == (1, True)


@fault("no forward pass late in the run")
def test_what_stops_working_late_does_not_kill_the_run(tmp_path):
    class Deaf(LoraModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if self.trainer.global_step < 12:
                super().validation_step(batch, batch_idx)

    callback = NTPSCallback()
    trainer, messages = fit(tmp_path, Deaf(), callback)
    assert trainer.current_epoch == 3
    assert [row["ntps_info/valid"] for row in callback.history] == [1, 1, 0, 0]
    assert (len(messages), "was not called" in messages[0]) == (1, True)


@fault("the hidden size changes in the run")
def test_an_error_inside_the_forward_pass_is_not_raised_there(tmp_path):
    class Wider(LoraModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            if batch_idx == 2 and not self.trainer.sanity_checking:
                norm = self.model.base_model.model.model.norm
                handle = norm.register_forward_hook(lambda m, a, out: torch.cat([out, out], -1))
                self.model.base_model.model.model(input_ids=batch["input_ids"])
                handle.remove()
            else:
                super().validation_step(batch, batch_idx)

    callback = NTPSCallback()
    _, messages = fit(tmp_path, Wider(), callback, max_epochs=1)
    assert [row["ntps_info/valid"] for row in callback.history] == [0]
    assert "hidden_states have size d = 32, expected 16" in messages[0]


@fault("no memory for the sums", "refused at the start, with the figure and how many layers fit")
def test_memory_is_stated_and_refused_before_it_is_taken(tmp_path, monkeypatch):
    need = state_bytes(LAYERS + 1, HIDDEN, CLASSES, kept=2048)
    free = need * 2 // 3 + scratch_bytes(HIDDEN, 2048)
    monkeypatch.setattr("ntps_lightning.available._host", lambda: free)
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(CLASSES, layers="all")])
    message = r"NTPS needs 0.7 MiB on cpu: 3 layers x .* x 8 bytes at d = 16, C = 3 and 2048 kept states"
    message += (
        r", and 146.0 MiB of scratch memory, and at most 146.\d MiB are free; name at most 2 layers with `layers=`,"
    )
    message += r" or keep the sums elsewhere"
    with pytest.raises(ValueError, match=message):
        trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    assert trainer.global_step == 0
