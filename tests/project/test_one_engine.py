"""One run through Lightning's Trainer, Hugging Face's and a bare loop: the same numbers, whoever drives."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, SequentialSampler
from transformers import Trainer, TrainingArguments

from ntps_lightning import NTPSCallback, NTPSMonitor
from ntps_lightning.huggingface import watch
from tests.support.models import LAYERS, LoraModule, Padding, make_trainer, samples

EPOCHS, BATCH_SIZE, LEARNING_RATE = 2, 16, 0.02
TRAINED, EVALUATED, BESIDE = samples(48), samples(61, seed=1), samples(60, seed=2)
SIDE_ROWS = [{"input_ids": ids, "label": label} for ids, label in BESIDE]
# Before the first step, and after each epoch of three.
STEPS = [0, 3, 6]


def batches(rows, batch_size=BATCH_SIZE):
    return DataLoader(rows, batch_size, collate_fn=Padding())


def make_optimizer(model):
    trained = (p for p in model.parameters() if p.requires_grad)
    return torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.0)


def make_model():
    """In float64, since side sets are measured in batches of their own, and float32 would tell padding."""
    return LoraModule().model.double()


class AdamWModule(LoraModule):
    def __init__(self):
        super().__init__()
        self.model = make_model()

    def configure_optimizers(self):
        return make_optimizer(self)


def through_lightning(tmp_path):
    """The histories of what was heard in validations, and of what was measured beside them."""
    heard = NTPSCallback(layers="all")
    beside = NTPSCallback(layers="all", data=SIDE_ROWS, prefix="side")
    trainer = make_trainer(tmp_path, max_epochs=EPOCHS, callbacks=[heard, beside])
    trainer.fit(AdamWModule(), batches(TRAINED), batches(EVALUATED))
    return heard.history, beside.history


class InOrder(Trainer):
    """Trains on the rows as they come; before transformers 5 no argument says so."""

    def _get_train_sampler(self, train_dataset=None):
        return SequentialSampler(train_dataset or self.train_dataset)


def through_huggingface(tmp_path):
    arguments = TrainingArguments(
        output_dir=str(tmp_path),
        num_train_epochs=EPOCHS,
        per_device_train_batch_size=BATCH_SIZE,
        per_device_eval_batch_size=BATCH_SIZE,
        optim="adamw_torch",
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = InOrder(make_model(), arguments, Padding(), TRAINED, EVALUATED)
    heard = watch(trainer, layers="all")
    beside = watch(trainer, layers="all", data=SIDE_ROWS, prefix="side")
    trainer.train()
    return heard.history, beside.history


def bare():
    model = make_model()
    optimizer = make_optimizer(model)
    heard, beside = [measure(model, batches(EVALUATED))], [measure(model, batches(BESIDE, 7))]
    for _ in range(EPOCHS):
        for batch in batches(TRAINED):
            model.train()(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
        heard.append(measure(model, batches(EVALUATED)))
        beside.append(measure(model, batches(BESIDE, 7)))
    return heard, beside


def measure(model, loader):
    model.eval()
    monitor = NTPSMonitor(model, layers="all")
    for batch in loader:
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
            model(**batch)
    return monitor.compute()


def numbers_of(found, first):
    """Of a bare pass, by what they are called in logs, spelled out."""
    top = found[LAYERS]
    values = {
        "/score": top.score,
        "/null": top.null,
        "/lift": top.lift,
        "/gain": top.score - first[LAYERS].score,
        "/captured_in_sample": top.captured_in_sample,
        "_info/samples": top.num_samples,
        "_info/kept": top.held_out.num_kept,
        "_layers/00/score": found[0].score,
        "_layers/00/probe_r2": found[0].held_out.probe_r2.value,
    }
    for name in ("probe_accuracy", "probe_r2", "captured_r2", "principal_r2"):
        estimate = getattr(top.held_out, name)
        values |= {f"/{name}": estimate.value, f"_se/{name}": estimate.se}
    return values


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """For what is heard and what is measured beside: prefix and history of each Trainer, and a bare loop's details."""
    lightning = through_lightning(tmp_path_factory.mktemp("lightning"))
    huggingface = through_huggingface(tmp_path_factory.mktemp("huggingface"))
    heard, beside = bare()
    return {
        "heard": ([("ntps", lightning[0]), ("eval_ntps", huggingface[0])], heard),
        "beside": ([("side", lightning[1]), ("eval_side", huggingface[1])], beside),
    }


@pytest.mark.parametrize("what", ["heard", "beside"])
def test_whoever_drives_the_numbers_are_the_same(runs, what):
    histories, details = runs[what]
    wanted = [numbers_of(each, details[0]) for each in details]
    assert wanted[0]["/score"] != pytest.approx(wanted[-1]["/score"], abs=0.01), "training tells"
    for prefix, history in histories:
        assert [row["step"] for row in history] == STEPS
        for row, each in zip(history, wanted, strict=True):
            assert {name: row[f"{prefix}{name}"] for name in each} == pytest.approx(each, rel=0, abs=1e-6)
    lightning, huggingface = (set(history[-1]) for _, history in histories)
    assert lightning == {key.removeprefix("eval_") for key in huggingface}
