"""Labels as batches hold them: words, lists, arrays, multi-hot, bools."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ntps_lightning import NTPSCallback
from tests.callback.test_faults import Unlabelled, relabelled
from tests.support.models import CLASSES, LAYERS, LoraModule, Padding, Recording, loader, make_trainer, samples

WORDS = ["business", "politics", "sport"]


def row(text, note="the score of the same classes as indices"):
    return pytest.mark.compatibility("Labels", text, note)


def refused(text):
    return row(text, "one error at the start")


class Words(Padding):
    """Adds the classes as words, from the last to the first of the alphabet, so that order of appearance differs."""

    def __call__(self, rows):
        batch = super().__call__(rows)
        return batch | {"topic": [WORDS[i] for i in batch["labels"].tolist()]}


def fit(tmp_path, callback, module=None, **options):
    batches = options.pop("data", loader(60, seed=1))
    make_trainer(tmp_path, callbacks=[callback], max_epochs=1, **options).fit(module or LoraModule(), loader(), batches)
    return callback


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda y: y.tolist(), id="list", marks=row("a list of integers")),
        pytest.param(lambda y: y.numpy(), id="array", marks=row("a numpy array")),
        pytest.param(lambda y: y[:, None], id="column", marks=row("(N, 1)")),
        pytest.param(lambda y: y.to(torch.uint8), id="uint8", marks=row("another integer dtype")),
        pytest.param(lambda y: [WORDS[i] for i in y.tolist()], id="words", marks=row("words")),
        pytest.param(lambda y: np.array(WORDS)[y.numpy()], id="array of words", marks=row("a numpy array of words")),
    ],
)
def test_forms_of_the_same_classes_give_one_score(tmp_path, form):
    expected = fit(tmp_path / "tensor", NTPSCallback(figures=False)).history
    other = fit(tmp_path / "other", NTPSCallback(labels=lambda batch: form(batch["labels"]), figures=False))
    assert [r["ntps/score"] for r in other.history] == pytest.approx([r["ntps/score"] for r in expected], rel=1e-12)
    assert [r["ntps/captured_in_sample"] for r in other.history] == pytest.approx(
        [r["ntps/captured_in_sample"] for r in expected], rel=1e-12
    )


def test_the_names_of_classes_are_kept_and_go_into_checkpoints(tmp_path, caplog):
    words = DataLoader(samples(60, 1), batch_size=16, collate_fn=Words())
    with caplog.at_level("INFO"):
        callback = fit(tmp_path, NTPSCallback(labels="topic"), data=words)
    assert callback.class_names == WORDS
    said = [r.message for r in caplog.records if "words are understood" in r.message]
    assert said == ["NTPS: labels that are words are understood as the classes 'business', 'politics', 'sport'."]
    resumed = NTPSCallback(labels="topic")
    resumed.load_state_dict(callback.state_dict())
    assert resumed.class_names == WORDS


@row("multi-hot (N, C) integers", "targets that count alike; the definition, 1e-5")
def test_multi_hot_labels(tmp_path):
    class MultiLabel(Recording):
        def record(self, output, batch):
            super().record(output, batch)
            if "hot" in batch:
                self.hot = [*getattr(self, "hot", []), *batch["hot"].tolist()]

        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            inputs = {name: value for name, value in batch.items() if name != "hot"}
            self.record(self.model(**inputs, output_hidden_states=True), batch)

        def on_validation_epoch_start(self):
            super().on_validation_epoch_start()
            self.hot = []

        def score(self, epoch):
            from tests.support import oracle

            hot = np.array(self.hot)
            states = [sample[0][-1] for sample in self.epochs[epoch]]
            return oracle.ntps(states, hot / hot.std(0), CLASSES, CLASSES, ridge=0.1)

    def collate(rows):
        batch = Padding()(rows)
        return batch | {"hot": torch.stack([batch["input_ids"].amax(1) > limit for limit in (40, 45, 47)], 1).long()}

    module = MultiLabel()
    data = DataLoader(samples(60, 1), batch_size=16, collate_fn=collate)
    callback = fit(tmp_path, NTPSCallback(labels="hot", num_classes=3), module, data=data)
    assert callback.history[-1]["ntps/score"] == pytest.approx(module.score(-1), rel=1e-5)
    assert callback.details[LAYERS].k == 3


@row("bools", "two classes")
def test_bools_are_two_classes(tmp_path):
    as_bools = fit(tmp_path / "bools", NTPSCallback(labels=lambda b: b["labels"] > 0, figures=False))
    as_ints = fit(tmp_path / "ints", NTPSCallback(labels=lambda b: (b["labels"] > 0).long(), figures=False))
    assert as_bools.history == as_ints.history


@pytest.mark.parametrize(
    ("label", "message"),
    [
        pytest.param(lambda y: 3, "got a int without length", marks=refused("a number")),
        pytest.param(lambda y: [None] * len(y), "must be one per sequence, got a list", marks=refused("None")),
        pytest.param(lambda y: ["sport", 2] * (len(y) // 2), "got a list", marks=refused("words among numbers")),
    ],
)
def test_what_is_no_label_is_refused_at_the_start(tmp_path, label, message):
    with pytest.raises(ValueError, match=message):
        fit(tmp_path, NTPSCallback(), Unlabelled(), data=relabelled(label))


@row("(N, T) zeros and ones of the shape of input_ids", "one error at the start: token-level labels")
def test_token_level_labels_of_zeros_and_ones(tmp_path):
    callback = NTPSCallback(labels=lambda batch: (batch["input_ids"] > 9).long())
    with pytest.raises(ValueError, match="token-level labels are next-token targets"):
        fit(tmp_path, callback)


def test_a_change_of_kind_is_said(tmp_path):
    def changing(batch):
        return batch["labels"] if len(batch["labels"]) == 16 else batch["labels"].double()

    with pytest.warns(UserWarning, match="labels were classes in the batches before, and are real targets"):
        callback = fit(tmp_path, NTPSCallback(labels=changing, baseline=False), num_sanity_val_steps=0)
    assert callback.history[-1]["ntps_info/valid"] == 0
