"""What a Trainer may do to a run: the callback measures when it should, and changes nothing."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint

from ntps_lightning import NTPSCallback
from tests.support import ROOT
from tests.support.models import HIDDEN, LAYERS, LoraModule, Recording, Seen, hooks_on, loader, make_trainer


def lifecycle(row: str, note: str):
    return pytest.mark.compatibility("Lifecycle", row, note)


def fit(tmp_path, callback, module=None, **options):
    trainer = make_trainer(tmp_path, callbacks=[callback], **options)
    trainer.fit(module or LoraModule(), loader(), loader(60, seed=1))
    return trainer


def samples_of(callback):
    return [row["ntps_info/samples_per_dim"] * HIDDEN for row in callback.history]


@lifecycle("`val_check_interval=0.5`", "measured at every validation; the definition, 1e-5")
def test_several_validations_in_an_epoch(tmp_path):
    module, callback = Recording(), NTPSCallback()
    fit(tmp_path, callback, module, max_epochs=2, val_check_interval=0.5, num_sanity_val_steps=-1)
    assert [row["step"] for row in callback.history] == [0, 3, 6, 9, 12]
    assert [row["ntps/score"] for row in callback.history] == pytest.approx(
        [module.score(i) for i in range(5)], rel=1e-5
    )


@lifecycle("`check_val_every_n_epoch=2`", "measured at every validation")
def test_validation_on_some_epochs(tmp_path):
    callback = NTPSCallback()
    trainer = make_trainer(
        tmp_path, callbacks=[callback, EarlyStopping("ntps/score", mode="max")], max_epochs=4, check_val_every_n_epoch=2
    )
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    assert [row["epoch"] for row in callback.history] == [0, 1, 3]


@pytest.mark.parametrize(
    "option",
    [
        pytest.param(name, marks=lifecycle(f"`{name}=2`", "those batches count, in the baseline as well"))
        for name in ("limit_val_batches", "overfit_batches")
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_some_batches(tmp_path, option):
    callback = NTPSCallback()
    fit(tmp_path, callback, max_epochs=2, **{option: 2})
    assert samples_of(callback) == [32, 32, 32]


@lifecycle("`barebones=True`", "measured without a baseline, kept in `history`, not logged")
@pytest.mark.filterwarnings("ignore")
def test_barebones(tmp_path):
    callback = NTPSCallback()
    off = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary", "enable_checkpointing"))
    fit(tmp_path, callback, barebones=True, max_epochs=2, **off)
    assert [row["step"] for row in callback.history] == [6, 12]


@lifecycle("`reload_dataloaders_every_n_epochs=1`", "measured on the loader of the epoch")
def test_reloaded_dataloaders(tmp_path):
    class Reloading(LoraModule):
        loads = 0

        def train_dataloader(self):
            return loader()

        def val_dataloader(self):
            self.loads += 1
            return loader(50 + 10 * self.loads, seed=1)

    callback, module = NTPSCallback(), Reloading()
    trainer = make_trainer(tmp_path, callbacks=[callback], reload_dataloaders_every_n_epochs=1)
    trainer.fit(module)
    assert samples_of(callback) == [60, 60, 70, 80]


@lifecycle("`num_sanity_val_steps=0`", "the baseline is measured all the same, or not with `baseline=False`")
def test_no_sanity_check(tmp_path):
    callbacks = NTPSCallback(), NTPSCallback(baseline=False)
    for callback in callbacks:
        trainer = fit(tmp_path, callback, num_sanity_val_steps=0, max_epochs=1)
        assert trainer.num_sanity_val_steps == 0
    assert [[row["step"] for row in c.history] for c in callbacks] == [[0, 6], [6]]


@lifecycle("`every_n_epochs=2` under EarlyStopping", "patience counts measurements, not the epochs between them")
@pytest.mark.parametrize("interval", [1.0, 0.5])
def test_epochs_without_a_measurement_cost_no_patience(tmp_path, interval):
    callback, seen = NTPSCallback(every_n_epochs=2), Seen()
    stopping = EarlyStopping("ntps/score", mode="max", patience=2, min_delta=1.0)  # nothing is ever an improvement
    checkpoint = ModelCheckpoint(tmp_path, save_last=True, save_on_train_epoch_end=True)
    trainer = make_trainer(
        tmp_path, callbacks=[stopping, callback, seen, checkpoint], max_epochs=20, val_check_interval=interval,
        enable_checkpointing=True,
    )  # fmt: skip
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    # The first measurement is the best there is; two more without improvement end the run.
    measured = [row for row in callback.history if row["step"] > 0]
    assert stopping.stopped_epoch == measured[-1]["epoch"]
    assert len(measured) == 3
    assert all(epoch.keys() == seen.epochs[0].keys() for epoch in seen.epochs)


@lifecycle("two callbacks side by side", "different layers and labels, no trace of each other")
def test_two_callbacks(tmp_path):
    class TwoLabels(LoraModule):
        def training_step(self, batch, batch_idx):
            return super().training_step({k: v for k, v in batch.items() if k != "other"}, batch_idx)

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step({k: v for k, v in batch.items() if k != "other"}, batch_idx)

        def on_before_batch_transfer(self, batch, dataloader_idx):
            return batch | {"other": batch["input_ids"][:, 0] % 2}

    def options():
        return {"prefix": "a", "layers": 1}, {"prefix": "b", "labels": "other"}

    both = [NTPSCallback(**o) for o in options()]
    make_trainer(tmp_path, callbacks=both).fit(TwoLabels(), loader(), loader(60, seed=1))
    for callback, alone in zip(both, [NTPSCallback(**o) for o in options()], strict=True):
        make_trainer(tmp_path, callbacks=[alone]).fit(TwoLabels(), loader(), loader(60, seed=1))
        assert callback.history == alone.history
    assert both[1].details[LAYERS].rank == 1


@lifecycle("two callbacks of one prefix", "refused at the start")
def test_two_callbacks_of_one_prefix(tmp_path):
    """The state that a checkpoint keeps is told by the prefix alone, so that Lightning itself sees it."""
    with pytest.raises(RuntimeError, match="more than one stateful callback of type `NTPSCallback`"):
        make_trainer(tmp_path, callbacks=[NTPSCallback(layers=1), NTPSCallback()])
    make_trainer(tmp_path, callbacks=[NTPSCallback(layers=1), NTPSCallback(prefix="b")])


class Watch(Callback):
    """Every loss, gradient and random number of a run."""

    def __init__(self):
        self.seen = []

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen += [outputs["loss"].clone(), torch.get_rng_state()]

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        self.seen += [p.grad.clone() for p in pl_module.parameters() if p.grad is not None]


@lifecycle("with and without the callback", "losses, gradients, random numbers and weights are the same bits")
@pytest.mark.parametrize("steps", [2, 0])
def test_the_run_itself_is_the_same_bits(tmp_path, steps):
    watched = []
    for callbacks in ([], [NTPSCallback(layers="all")]):
        watch, module = Watch(), LoraModule()
        pl.seed_everything(1, verbose=False)
        trainer = make_trainer(tmp_path, callbacks=[*callbacks, watch], num_sanity_val_steps=steps)
        trainer.fit(module, loader(shuffle=True), loader(60, seed=1, shuffle=True))
        watched.append([*watch.seen, *module.state_dict().values(), torch.rand(3)])
    assert len(watched[0]) == len(watched[1]) > 100
    assert all(torch.equal(a, b) for a, b in zip(*watched, strict=True))


def ends(row: str, error: type[BaseException], expected: type[BaseException]):
    return pytest.param(error, expected, id=row, marks=lifecycle(row, "no hook stays, what was measured is kept"))


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ends("Ctrl-C in `validation_step`", KeyboardInterrupt, SystemExit),
        ends("an exception in `validation_step`", ZeroDivisionError, ZeroDivisionError),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_no_trace_after_the_end(tmp_path, error, expected):
    class Ending(LoraModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step(batch, batch_idx)
            if self.trainer.current_epoch == 1:
                raise error

    module, callback = Ending(), NTPSCallback(layers="all")
    before = hooks_on(module)
    with pytest.raises(expected):
        fit(tmp_path, callback, module)
    assert hooks_on(module) == before
    assert [row["step"] for row in callback.history] == [0, 6], "what was computed is not lost"
    assert torch._dynamo.eval_frame._stance.stance == "default"


def run_and_kill(folder: Path, when: str) -> subprocess.CompletedProcess:
    arguments = [sys.executable, "-m", "tests.callback.killed_run", str(folder), when]
    return subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    assert run_and_kill(folder, "never").returncode == 0
    return json.loads((folder / "note.json").read_text())


def killed(when: str, *marks: pytest.MarkDecorator):
    note = "the history and baseline of an uninterrupted run"
    return pytest.param(when, marks=[lifecycle(f"`kill -9` in the middle of {when}, resumed", note), *marks])


@pytest.mark.parametrize("when", [killed("training", pytest.mark.slow), killed("validation")])
def test_a_killed_run_resumes_as_if_it_had_not_been(tmp_path, whole, when):
    assert run_and_kill(tmp_path, when).returncode == -signal.SIGKILL
    resumed = run_and_kill(tmp_path, "never")
    assert resumed.returncode == 0, resumed.stderr[-2000:]
    assert json.loads((tmp_path / "note.json").read_text()) == whole
    assert len(whole["history"]) == 5
    assert len(whole["baseline"]) == LAYERS + 1
