"""Held-out numbers of a monitor: rows by their tokens, groups by their names, from a real forward pass."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from tests.support.models import LAYERS, Padding, loader, samples, tiny_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def found(model, batches, kept=2048, groups=None):
    monitor = NTPSMonitor(model, layers="all", kept=kept)
    for i, batch in enumerate(batches):
        own = None if groups is None else groups(i, batch)
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], groups=own):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    return {layer: details.held_out for layer, details in monitor.compute().items()}


def batches(order, size=16, side="right"):
    rows = samples(120)
    return [Padding(side)([rows[i] for i in part.tolist()]) for part in torch.as_tensor(order).split(size)]


def test_neither_order_nor_batches_nor_padding_change_what_is_kept(model):
    plain = found(model, batches(range(120)), kept=40)
    order = torch.randperm(120, generator=torch.Generator().manual_seed(0))
    other = found(model, batches(order, 7, "left"), kept=40)
    for layer, held_out in plain.items():
        assert held_out.num_kept == other[layer].num_kept == 40
        for name in ("probe_r2", "probe_accuracy", "captured_r2", "principal_r2"):
            first, second = getattr(held_out, name), getattr(other[layer], name)
            assert first.value == pytest.approx(second.value, abs=2e-4), "padding on the left shifts positions"
            assert first.se == pytest.approx(second.se, rel=1e-2)


@pytest.mark.parametrize("words", [False, True])
def test_groups_are_left_out_together(model, words):
    def article(i, batch):
        numbers = [i * 4 + j // 4 for j in range(len(batch["labels"]))]
        return [f"article {n}" for n in numbers] if words else torch.tensor(numbers)

    held_out = found(model, batches(range(120)), groups=article)[LAYERS]
    assert (held_out.num_kept, held_out.num_groups) == (120, 30)


def test_copies_are_one_row(model):
    held_out = found(model, [*batches(range(60)), *batches(range(60))])[LAYERS]
    assert held_out.num_kept == found(model, batches(range(60)))[LAYERS].num_kept <= 60


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (torch.rand(16), "groups must be integers or words, one for each of 16 samples, got torch.float32"),
        (torch.arange(3), r"got torch.int64 \(3,\)"),
        (object(), "groups must be one integer or word a sample"),
    ],
)
def test_groups_that_are_none(model, groups, message):
    with pytest.raises(ValueError, match=message):
        NTPSMonitor(model).batch(next(iter(loader(16)))["labels"], groups=groups)
