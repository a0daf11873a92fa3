"""A run with an encoder is refused before its first step, and the model is tried once in a run."""

from __future__ import annotations

import logging

import pytest

from ntps_lightning import NTPSCallback
from ntps_lightning.capture.backbone import find_backbone
from ntps_lightning.errors import SetupError
from tests.callback.test_passes import PlainModule
from tests.support.models import EncoderModule, LoraModule, hooks_on, loader, make_trainer


def encoders(row: str, note: str):
    return pytest.mark.compatibility("Encoders", row, note)


def fit(trainer, module):
    trainer.fit(module, loader(), loader(60, seed=1))


def validate(trainer, module):
    trainer.validate(module, loader(60, seed=1), verbose=False)


@encoders("`NTPSCallback`", "refused before the first step, and by `trainer.validate`")
@pytest.mark.parametrize("run", [fit, validate])
def test_an_encoder_is_refused_before_the_first_step(tmp_path, run):
    trainer, module = make_trainer(tmp_path, callbacks=[NTPSCallback()]), EncoderModule()
    before = hooks_on(module)
    with pytest.raises(SetupError, match=r"BertModel looks ahead: .* or pass allow_bidirectional=True"):
        run(trainer, module)
    assert trainer.global_step == 0
    assert hooks_on(module) == before


@pytest.mark.parametrize("run", [fit, validate])
def test_or_scored_for_those_who_know_better(tmp_path, run):
    callback = NTPSCallback(allow_bidirectional=True)
    run(make_trainer(tmp_path, callbacks=[callback], max_epochs=1), EncoderModule())
    assert all(row["ntps_info/valid"] for row in callback.history)


TRIED: list[tuple[int, ...]] = []  # not the module's own: its attributes, and what lists hold, are put back


class Counting(LoraModule):
    """Counts the calls that are not its own."""

    def __init__(self) -> None:
        super().__init__()
        find_backbone(self).decoder.register_forward_pre_hook(self.count, with_kwargs=True)

    def count(self, decoder, args, kwargs):
        ids = args[0] if args else kwargs["input_ids"]
        TRIED.extend([tuple(ids.shape)] * (tuple(ids.shape) == (4, 16)))


def test_a_model_is_tried_once_in_a_run(tmp_path):
    TRIED.clear()
    module, callback = Counting(), NTPSCallback()
    trainer = make_trainer(tmp_path, callbacks=[callback], max_epochs=2)
    validate(trainer, module)
    assert len(TRIED) == 1
    fit(trainer, module)
    assert len(TRIED) == 1
    fit(make_trainer(tmp_path, callbacks=[callback], max_epochs=2), module)
    assert len(TRIED) == 2
    fit(make_trainer(tmp_path, callbacks=[NTPSCallback(allow_bidirectional=True)], max_epochs=1), module)
    assert len(TRIED) == 2


def test_what_cannot_be_tried_is_said_once(tmp_path, caplog):
    caplog.set_level(logging.INFO, "torchmetrics")
    trainer = make_trainer(tmp_path, callbacks=[NTPSCallback(model="inner.backbone")], max_epochs=2)
    fit(trainer, PlainModule())
    lines = [r.getMessage() for r in caplog.records if "could not try" in r.getMessage()]
    assert lines == ["NTPS could not try whether Blocks looks ahead: it declares no vocabulary"]
