"""Copies and pickles of a monitor, and of the model that it listens to."""

from __future__ import annotations

import copy
import pickle
from dataclasses import asdict

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaForSequenceClassification

from ntps_lightning import NTPSMonitor
from tests.support.models import CLASSES, LAYERS, loader, tiny_config

COPIES = {"pickle": lambda monitor: pickle.loads(pickle.dumps(monitor)), "deepcopy": copy.deepcopy, "copy": copy.copy}


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def show(monitor, model, batches):
    for batch in batches:
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[name], b[name]) for name in a)
    return torch.equal(a, b) if isinstance(a, Tensor) else a == b


def assert_same_details(found, wanted):
    assert found.keys() == wanted.keys()
    for layer, details in found.items():
        others = asdict(wanted[layer])
        assert not [name for name, value in asdict(details).items() if not equal(value, others[name])]


@pytest.mark.parametrize("when", ["before compute()", "after compute()"])
@pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)
def test_a_copy_has_the_details_and_no_model(model, make, when):
    monitor = NTPSMonitor(model, layers="all", k=2, accumulate_device="cpu")
    show(monitor, model, loader(60))
    if when == "after compute()":
        monitor.compute()
    twin = make(monitor)
    assert not [value for value in vars(twin).values() if isinstance(value, nn.Module)]
    assert (twin.layers, twin.options) == (monitor.layers, monitor.options)
    assert (twin.num_classes, twin.samples_seen, twin.fault) == (CLASSES, 60, "")
    assert twin.memory(torch.device("cpu")) == monitor.memory(torch.device("cpu"))
    assert_same_details(twin.compute(), monitor.compute())
    with pytest.raises(RuntimeError, match=r"is a copy, which listens to no model: .* NTPSMonitor\(model, \.\.\.\)"):
        twin.batch(torch.zeros(16).long())
    assert twin.compute()[LAYERS].num_samples == 60, "the refusal costs nothing"
    twin.reset()
    assert monitor.compute()[LAYERS].num_samples == 60


def test_a_pickle_is_as_small_as_what_it_keeps():
    model = LlamaForSequenceClassification(tiny_config(vocab_size=50_000)).eval()
    monitor = NTPSMonitor(model)
    show(monitor, model, loader(60))
    assert len(pickle.dumps(model)) > 3_000_000
    assert len(pickle.dumps(monitor)) < 300_000, "sums of 16 dimensions in float64, and 2,048 rows"


def test_the_monitor_itself_goes_on_after_it_was_copied(model):
    batches, plain, copied = list(loader(60)), NTPSMonitor(model), NTPSMonitor(model)
    show(plain, model, batches)
    show(copied, model, batches[:2])
    twin = copy.deepcopy(copied)
    with pytest.raises(RuntimeError, match="listens to no model"):
        show(twin, model, batches[2:])
    show(copied, model, batches[2:])
    assert copied.compute()[LAYERS].score == plain.compute()[LAYERS].score
    assert twin.compute()[LAYERS].num_samples == 32


class Holding(nn.Module):
    """A module that keeps its monitor, as users' modules do."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.monitor = NTPSMonitor(model)


@pytest.mark.parametrize("make", [COPIES["pickle"], COPIES["deepcopy"]], ids=["pickle", "deepcopy"])
def test_a_module_that_keeps_its_monitor_can_be_copied(model, make):
    module = Holding(model)
    show(module.monitor, module.model, loader(60))
    twin = make(module)
    assert twin.monitor.compute()[LAYERS].score == module.monitor.compute()[LAYERS].score
    with pytest.raises(RuntimeError, match="listens to no model"):
        twin.monitor.batch(torch.zeros(16).long())


@pytest.mark.parametrize("make", [COPIES["pickle"], COPIES["deepcopy"]], ids=["pickle", "deepcopy"])
def test_copies_of_a_model_that_is_listened_to_are_not_heard(model, make):
    """Nor do they keep alive, or call, what listens."""
    batches, plain, copied = list(loader(60)), NTPSMonitor(model), NTPSMonitor(model)
    show(plain, model, batches)
    for batch in batches:
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
        with torch.no_grad(), copied.batch(batch["labels"]):
            twin = make(model)
            twin.model.embed_tokens.weight.zero_()
            twin(**inputs)
            output = model(**inputs)
        with torch.no_grad():
            assert not torch.equal(twin(**inputs).logits, output.logits)
    assert copied.compute()[LAYERS].score == plain.compute()[LAYERS].score
    assert pickle.dumps(twin)
