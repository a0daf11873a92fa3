"""Held-out numbers in a run: the same rows in every epoch, with standard errors, held where they have no value."""

from __future__ import annotations

import copy
from dataclasses import asdict

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping
from torch.utils.data import DataLoader

from ntps_lightning import NTPSCallback
from ntps_lightning.functional.details import NTPSDetails
from tests.support.models import LAYERS, LoraModule, Padding, Seen, loader, make_trainer, samples

NAMES = ("probe_accuracy", "probe_r2", "captured_r2", "principal_r2")


def fit(tmp_path, *callbacks, data=None, module=None, **options):
    trainer = make_trainer(tmp_path, callbacks=list(callbacks), **options)
    trainer.fit(module or LoraModule(), loader(), data or loader(120, seed=1))
    return trainer


def test_every_number_is_logged_with_its_error(tmp_path):
    callback = NTPSCallback(layers="all")
    trainer = fit(tmp_path, callback, max_epochs=2)
    row, held_out = callback.history[-1], callback.details[LAYERS].held_out
    assert held_out.num_kept == row["ntps_info/kept"] <= 120
    for name in NAMES:
        assert row[f"ntps/{name}"] == getattr(held_out, name).value == trainer.callback_metrics[f"ntps/{name}"]
        assert row[f"ntps_se/{name}"] == getattr(held_out, name).se > 0
    assert row["ntps_layers/01/probe_r2"] == callback.details[1].held_out.probe_r2.value
    for each in callback.history:
        assert each["ntps_info/kept"] == held_out.num_kept, "the same samples, before the first step too"


def test_the_ratio_is_held_where_it_may_be_one_of_nothings(tmp_path):
    """Labels that are drawn at random can't be read: there is no ratio, and its monitor finds one all the same."""

    class Drawn(Padding):
        def __call__(self, rows):
            batch = super().__call__(rows)
            generator = torch.Generator().manual_seed(int(batch["input_ids"].sum()))
            return batch | {"labels": torch.randint(2, (len(rows),), generator=generator)}

    data = DataLoader(samples(120, 1), batch_size=16, collate_fn=Drawn())
    callback, seen = NTPSCallback(), Seen()
    stopping = EarlyStopping("ntps/captured", mode="max", patience=1)
    trainer = fit(tmp_path, callback, stopping, seen, data=data, max_epochs=3)
    assert [row["ntps_info/captured_valid"] for row in callback.history] == [0] * 4
    assert trainer.current_epoch == 3, "no patience was spent"
    assert all("ntps/captured" not in row for row in callback.history)
    assert all(row["ntps/captured"] == -1e9 for row in seen.epochs)


def test_groups_by_a_key_of_the_batch(tmp_path):
    class Articles(Padding):
        def __call__(self, rows):
            batch = super().__call__(rows)
            return batch | {"article": [f"article {int(i)}" for i in batch["input_ids"][:, 0] % 30]}

    class Module(LoraModule):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            super().validation_step({k: v for k, v in batch.items() if k != "article"}, batch_idx)

    data = DataLoader(samples(120, 1), batch_size=16, collate_fn=Articles())
    callback = NTPSCallback(groups="article")
    fit(tmp_path, callback, data=data, module=Module(), max_epochs=1)
    assert callback.details[LAYERS].held_out.num_groups == 30
    assert callback.baseline_details[LAYERS].held_out.num_groups == 30


def test_controls_are_measured_where_they_are_asked_for(tmp_path):
    callback = NTPSCallback(controls=True)
    fit(tmp_path, callback, max_epochs=1)
    for details in (callback.details[LAYERS], callback.baseline_details[LAYERS]):
        assert details.held_out.bag_r2.se > 0
        assert details.held_out.bag_r2.value != details.held_out.captured_r2.value
    changes = callback.details[LAYERS].held_out.since(callback.baseline_details[LAYERS].held_out)
    assert {"probe_r2", "bag_r2"} <= set(changes), "the same rows before the first step and after the epoch"


def test_changes_are_those_of_the_same_rows(tmp_path):
    callback, seen = NTPSCallback(), []

    class Keep(Callback):
        def on_validation_end(self, trainer, pl_module):
            if not trainer.sanity_checking:
                seen.append((callback.details[LAYERS].held_out, callback.changes))

    fit(tmp_path, callback, Keep(), max_epochs=4)
    baseline = callback.baseline_details[LAYERS].held_out
    best = [baseline, *(held_out for held_out, _ in seen)]
    for i, (held_out, changes) in enumerate(seen):
        earlier = {"baseline": baseline, "previous": best[i]}
        earlier["best"] = max(best[: i + 1], key=lambda each: each.captured_r2.value)
        for what, then in earlier.items():
            for name in NAMES:
                change = changes[what][name]
                assert change.value == getattr(held_out, name).value - getattr(then, name).value
        assert changes["previous"]["probe_r2"].se < held_out.probe_r2.se
    resumed = NTPSCallback()
    resumed.load_state_dict(copy.deepcopy(callback.state_dict()))
    resumed._first.take(callback.details, 30, baseline=True, untrained=False)
    assert resumed.changes["previous"]["probe_r2"].value == 0
    assert resumed.changes["baseline"]["probe_r2"].value == seen[-1][1]["baseline"]["probe_r2"].value


@pytest.mark.parametrize(
    ("options", "shown"), [({}, {"ntps/probe_accuracy", "ntps/captured_r2"}), ({"kept": 0}, {"ntps/score"})]
)
def test_the_progress_bar_shows_what_is_held_out(tmp_path, options, shown):
    trainer = fit(tmp_path, NTPSCallback(**options), max_epochs=1)
    assert {key for key in trainer.progress_bar_metrics if key.startswith("ntps")} == shown


def test_without_kept_rows_there_is_none_and_no_monitor_of_one(tmp_path):
    callback = NTPSCallback(kept=0)
    fit(tmp_path, callback, max_epochs=1)
    assert not any("probe_r2" in key for key in callback.history[-1])
    with pytest.raises(ValueError, match="does not log it"):
        fit(tmp_path, NTPSCallback(kept=0), EarlyStopping("ntps/probe_r2", mode="max"))


def test_a_checkpoint_carries_the_baselines_estimates(tmp_path):
    callback = NTPSCallback()
    fit(tmp_path, callback, max_epochs=1)
    state = callback.state_dict()
    torch.save(state, tmp_path / "state.pt")
    resumed = NTPSCallback()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt"))
    before, after = callback.baseline_details[LAYERS], resumed.baseline_details[LAYERS]
    assert isinstance(after, NTPSDetails)
    assert after.held_out.probe_r2.se == before.held_out.probe_r2.se
    difference = callback.details[LAYERS].held_out.probe_r2.minus(after.held_out.probe_r2)
    assert 0 < difference.se < before.held_out.probe_r2.se * 2
    assert asdict(after.held_out).keys() == asdict(before.held_out).keys()
