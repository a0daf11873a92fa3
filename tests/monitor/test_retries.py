"""A forward pass that fails: the retry counts, over the same samples or parts of them; what never comes is flagged."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from ntps_lightning.capture.backbone import find_backbone
from tests.support.models import CLASSES, LAYERS, loader, tiny_config

NAMES = ("score", "captured_in_sample", "null", "num_samples")


class Memory:
    """Runs out of memory in a layer, in the calls that are named, counted from 0."""

    def __init__(self, model: Any, layer: int, calls: set[int]) -> None:
        self.calls, self.bad = -1, calls
        backbone = find_backbone(model)
        backbone.decoder.register_forward_pre_hook(self.count)
        backbone.layers[layer].register_forward_pre_hook(self.fail)

    def count(self, module, args):
        self.calls += 1

    def fail(self, module, args):
        if self.calls in self.bad:
            raise torch.OutOfMemoryError("CUDA out of memory")


def make_model(**options):
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config(**options)).eval()


def call(model, batch, rows):
    model(**{name: values[rows] for name, values in batch.items() if name != "labels"})


def again_in(*sizes: int):
    """Over parts of these sizes."""

    def retry(model, batch):
        first = 0
        for size in sizes:
            try:
                call(model, batch, slice(first, first + size))
            except torch.OutOfMemoryError:
                continue
            first += size

    return retry


def measured(model, retry=None, **options):
    monitor = NTPSMonitor(model, layers="all", num_classes=CLASSES, **options.pop("monitor", {}))
    for batch in loader(64):
        shown = {name: batch[name] for name in options.get("shown", ())}
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], **shown):
            try:
                call(model, batch, slice(None))
            except torch.OutOfMemoryError:
                retry(model, batch)
    return monitor


@pytest.fixture(scope="module")
def expected():
    return measured(make_model()).compute()


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize(
    ("failing", "retry"),
    [
        pytest.param({1}, again_in(16), id="the same"),
        pytest.param({1, 2}, again_in(16, 16), id="the same, twice"),
        pytest.param({0}, again_in(8, 8), id="halves"),
        pytest.param({2, 3}, again_in(8, 4, 4, 8), id="halves, of which one is halved"),
        pytest.param({1}, again_in(3, 13), id="unequal parts"),
    ],
)
def test_the_retry_counts(expected, layer, failing, retry):
    model = make_model()
    memory = Memory(model, layer, failing)
    monitor = measured(model, retry, monitor={"allow_bidirectional": True})
    found = monitor.compute()
    assert memory.calls >= 4
    for index, details in found.items():
        for name in NAMES:
            assert getattr(details, name) == pytest.approx(getattr(expected[index], name), rel=1e-5)
        assert details.held_out.num_kept == expected[index].held_out.num_kept
        assert details.held_out.probe_r2.value == pytest.approx(expected[index].held_out.probe_r2.value, rel=1e-4)


def test_masks_tokens_and_groups_go_with_their_samples(expected):
    """The mask that is given wins over the one of the call, part by part."""
    model = make_model()
    Memory(model, 1, {1})

    def without_mask(model, batch):
        for rows in (slice(0, 8), slice(8, 16)):
            with torch.no_grad():
                model(input_ids=batch["input_ids"][rows], attention_mask=batch["attention_mask"][rows])

    monitor = measured(model, without_mask, monitor={"allow_bidirectional": True}, shown=("attention_mask",))
    assert monitor.compute()[LAYERS].score == pytest.approx(expected[LAYERS].score, rel=1e-5)


@pytest.mark.parametrize(
    ("retry", "missing"), [(lambda model, batch: None, 16), (again_in(8), 8)], ids=["never", "one half alone"]
)
def test_what_never_comes_is_flagged(retry, missing):
    model = make_model()
    Memory(model, 1, {1})
    with pytest.raises(ValueError, match=f"failed and was not made again over all of them: {missing} are missing"):
        measured(model, retry, monitor={"allow_bidirectional": True})


def test_parts_that_do_not_add_up_are_flagged():
    model = make_model()
    Memory(model, 1, {1, 3})

    def retry(model, batch):
        again_in(8)(model, batch)
        for rows in (slice(8, 12), slice(8, 16)):
            try:
                call(model, batch, rows)
            except torch.OutOfMemoryError:
                call(model, batch, slice(None))

    with pytest.raises(ValueError, match="parts of other sizes: they do not add up"):
        measured(model, retry, monitor={"allow_bidirectional": True})


def test_a_shorter_whole_is_another_batch():
    """Cut to fit the memory: layers that were added before are of the longer one."""
    model = make_model()
    Memory(model, 1, {1})

    def retry(model, batch):
        model(input_ids=batch["input_ids"][:, :4], attention_mask=batch["attention_mask"][:, :4])

    with pytest.raises(ValueError, match="16 are missing"):
        measured(model, retry, monitor={"allow_bidirectional": True})


def test_a_model_that_ends_early_on_purpose_is_complete(expected):
    model = make_model()
    Memory(model, 1, set(range(9)))  # each call ends in the second layer
    monitor = NTPSMonitor(model, layers=[0, 1], num_classes=CLASSES, allow_bidirectional=True)
    for batch in loader(64):
        ending = contextlib.suppress(torch.OutOfMemoryError)
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]), ending:
            call(model, batch, slice(None))
    assert monitor.compute()[1].score == pytest.approx(expected[1].score, rel=1e-5)


def test_other_texts_are_no_parts():
    model = make_model()
    Memory(model, 1, {1})

    def retry(model, batch):
        for rows in (slice(0, 8), slice(8, 16)):
            model(input_ids=batch["input_ids"][rows].flip(0), attention_mask=batch["attention_mask"][rows])

    with pytest.raises(ValueError, match="16 are missing"):
        measured(model, retry, monitor={"allow_bidirectional": True})
