"""The monitor in a loop of one's own, against the oracle."""

from __future__ import annotations

import copy
import gc
import weakref
from contextlib import nullcontext

import pytest
import torch
from torch import nn
from transformers import AutoModel, LlamaForCausalLM, LlamaForSequenceClassification, OPTConfig

from ntps_lightning import NTPSMonitor, next_token_perception_score
from ntps_lightning.capture.hooks import LayerHooks
from ntps_lightning.functional.packed_batch import pack_batch
from tests.support import oracle
from tests.support.models import CLASSES, HIDDEN, LAYERS, VOCAB, hooks_on, loader, tiny_config


@pytest.fixture
def model():
    torch.manual_seed(0)
    return LlamaForSequenceClassification(tiny_config()).eval()


def show(monitor, model, batches, **options):
    """A loop as people write it; ``options`` are of :meth:`NTPSMonitor.batch`."""
    with torch.no_grad():
        for batch in batches:
            with monitor.batch(batch["labels"], input_ids=batch["input_ids"], **options):
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])


def recorded(model, batches, layer):
    samples, labels = [], []
    for batch in batches:
        with torch.no_grad():
            output = model(batch["input_ids"], batch["attention_mask"], output_hidden_states=True)
        states = output.hidden_states[layer].double()
        samples += [h[m].numpy() for h, m in zip(states, batch["attention_mask"].bool(), strict=True)]
        labels += batch["labels"].tolist()
    return samples, labels


def test_every_layer_equals_the_oracle(model):
    batches, monitor = list(loader(60)), NTPSMonitor(model, layers="all", num_classes=CLASSES, k=3)
    show(monitor, model, batches)
    assert hooks_on(model) == 0
    found = monitor.compute()
    assert list(found) == monitor.layers == list(range(LAYERS + 1))
    for layer, details in found.items():
        samples, labels = recorded(model, batches, layer)
        expected = oracle.ntps(samples, oracle.one_hot(labels, CLASSES), 3, CLASSES - 1, ridge=0.1)
        assert details.score == pytest.approx(expected, rel=1e-5)
        assert details.num_samples == monitor.samples_seen == 60


def test_compute_again_is_the_same_and_reset_begins_anew(model):
    batches, monitor = list(loader(60)), NTPSMonitor(model)
    show(monitor, model, batches)
    first = monitor.compute(whole_curve=True)
    assert monitor.compute() is first
    assert len(first[LAYERS].curve) == HIDDEN
    with pytest.raises(RuntimeError, match="call reset"):
        monitor.batch(batches[0]["labels"])
    monitor.reset()
    assert monitor.num_classes == CLASSES, "what the labels are stays known"
    show(monitor, model, batches)
    assert monitor.compute()[LAYERS].score == first[LAYERS].score


def test_options_are_those_of_the_function(model):
    batches, options = list(loader(60)), {"k": 2, "ridge": 0.01, "center": False, "pooling": "last"}
    monitor = NTPSMonitor(model, layers=[1], **options)
    show(monitor, model, batches)
    (details,) = monitor.compute().values()
    samples, labels = recorded(model, batches, 1)
    hidden = nn.utils.rnn.pad_sequence([torch.from_numpy(x) for x in samples], batch_first=True)
    mask = nn.utils.rnn.pad_sequence([torch.ones(len(x)) for x in samples], batch_first=True)
    expected = next_token_perception_score(hidden, torch.tensor(labels), mask, **options)
    assert details.score == pytest.approx(float(expected), rel=1e-5)
    with pytest.raises(ValueError, match="k must be"):
        NTPSMonitor(model, k=0)


def test_only_the_batchs_own_call_counts(model):
    plain, busy = NTPSMonitor(model), NTPSMonitor(model)
    batches = list(loader(60))
    show(plain, model, batches)
    with torch.no_grad():
        for batch in batches:
            with busy.batch(batch["labels"], input_ids=batch["input_ids"]):
                model(input_ids=batch["input_ids"].flip(1), attention_mask=batch["attention_mask"])
                model(input_ids=batch["input_ids"][:1])
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
                model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
            model(input_ids=batch["input_ids"])
    assert busy.compute()[LAYERS].score == plain.compute()[LAYERS].score


def test_a_mask_of_the_callers_and_samples_left_out(model):
    batches = list(loader(60))
    masked, monitor = NTPSMonitor(model), NTPSMonitor(model, num_classes=CLASSES)
    show(masked, model, batches)
    with torch.no_grad():
        for batch in batches:
            keep = torch.arange(len(batch["labels"])) % 2 == 0
            mask = batch["attention_mask"]
            with monitor.batch(batch["labels"], attention_mask=mask, sample_mask=keep):
                model(
                    input_ids=batch["input_ids"],
                    attention_mask=mask[:, None, None].bool().expand(-1, 1, mask.shape[1], -1),
                )
    assert monitor.samples_seen == 60
    assert monitor.compute()[LAYERS].num_samples == 30 < masked.compute()[LAYERS].num_samples


def test_a_hidden_size_that_only_the_forward_pass_tells():
    """OPT-350m projects its last hidden states to another size; its configuration declares one."""
    config = OPTConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, ffn_dim=32, num_hidden_layers=LAYERS, num_attention_heads=2,
        word_embed_proj_dim=8, do_layer_norm_before=False,
    )  # fmt: skip
    model, monitor = AutoModel.from_config(config).eval(), None
    monitor = NTPSMonitor(model, layers=[1, -1])
    show(monitor, model, list(loader(60)))
    found = monitor.compute(whole_curve=True)
    assert [round(60 / details.samples_per_dim) for details in found.values()] == [HIDDEN, 8]
    assert [details.num_samples for details in found.values()] == [60, 60]


class Plain(nn.Module):
    """Declares no hidden size at all."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(VOCAB, HIDDEN)
        self.blocks = nn.ModuleList([nn.Linear(HIDDEN, HIDDEN)])

    def forward(self, input_ids, attention_mask=None):
        return self.blocks[0](self.embed(input_ids))


def test_a_module_that_declares_nothing():
    model = Plain()
    monitor = NTPSMonitor(model, layers="all", k=3)
    assert monitor.memory(torch.device("cpu")) is None
    batches = list(loader(60))
    show(monitor, model, batches)
    assert [details.num_samples for details in monitor.compute().values()] == [60, 60]


def interrupted(model, batch):
    raise ZeroDivisionError


def not_called(model, batch):
    pass


def poisoned(model, batch):
    handle = model.get_input_embeddings().register_forward_hook(lambda m, a, out: out * float("nan"))
    model(input_ids=batch["input_ids"])
    handle.remove()


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (interrupted, ZeroDivisionError, "a forward pass was interrupted by ZeroDivisionError"),
        (not_called, ValueError, "no forward pass of LlamaModel over the batch of 16 labels was seen"),
        (poisoned, ValueError, "NaN or Inf at valid tokens of samples"),
    ],
)
def test_what_went_wrong_is_raised_and_gives_no_number(model, step, error, message):
    batches, monitor = list(loader(60)), NTPSMonitor(model)
    show(monitor, model, batches[:1])
    with torch.no_grad(), pytest.raises(error), monitor.batch(batches[1]["labels"]):
        step(model, batches[1])
    assert message in monitor.fault
    assert hooks_on(model) == 0
    show(monitor, model, batches[2:])
    with pytest.raises(ValueError, match=message):
        monitor.compute()
    monitor.reset()
    assert monitor.fault == ""
    show(monitor, model, batches)
    assert monitor.compute()[LAYERS].num_samples == 60


def test_of_several_layers_the_one_that_cannot_be_scored_is_named(model):
    """In half precision a late layer overflows first."""
    (batch, *_), monitor = list(loader(60)), NTPSMonitor(model, layers=[0, 1, 2])
    late = model.get_decoder().layers[1].register_forward_hook(lambda m, a, out: out * float("inf"))
    said = r"^layer 2: hidden_states hold NaN or Inf .* dtype \(float16"
    with pytest.raises(ValueError, match=said):
        show(monitor, model, [batch])
    late.remove()
    assert monitor.fault.startswith("layer 2: ")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.full((16, 5), 7), "not the class of a sequence"),
        (torch.full((16,), 7), r"in \[0, 3\), or -100 for none, got values from 7 to 7"),
        (torch.rand(16), "num_classes = 3 was given"),
    ],
)
def test_labels_that_cannot_work_are_refused_before_the_forward_pass(model, labels, message):
    monitor = NTPSMonitor(model, num_classes=CLASSES)
    with pytest.raises(ValueError, match=message):
        monitor.batch(labels)
    with pytest.raises(ValueError, match=message):
        monitor.compute()


def test_nothing_was_seen(model):
    with pytest.raises(ValueError, match="no batch was seen"):
        NTPSMonitor(model).compute()
    with pytest.raises(ValueError, match="no batch was seen"):
        NTPSMonitor(model).check_seen()
    monitor = NTPSMonitor(model)
    (batch,) = loader(16)
    show(monitor, model, [batch | {"labels": torch.full((16,), -100)}])
    monitor.check_seen()
    with pytest.raises(ValueError, match="the labels are all -100"):
        monitor.compute()


def test_memory_is_refused_before_it_is_taken(model, monkeypatch):
    monitor = NTPSMonitor(model, layers="all", num_classes=CLASSES)
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: 2**20)
    with pytest.raises(ValueError, match=r"NTPS needs .* at most 1.0 MiB are free"):
        show(monitor, model, list(loader(16)))
    assert hooks_on(model) == 0


def test_a_rank_without_memory_listens_all_the_same(model, monkeypatch):
    """Others that share the model with it gather hidden states in every hook, and would wait for it."""
    monitor, heard = NTPSMonitor(model, layers="all"), []
    emit = LayerHooks._emit

    def heard_emit(hooks, index, hidden_states):
        heard.append(hooks._inputs is not None)
        emit(hooks, index, hidden_states)

    monkeypatch.setattr(LayerHooks, "_emit", heard_emit)
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: 2**20)
    with pytest.raises(ValueError, match=r"at most 1.0 MiB are free"):
        show(monitor, model, list(loader(16)))
    assert heard == [True] * (LAYERS + 1)


def test_labels_that_were_refused_teach_nothing(model):
    batches, monitor = list(loader(60)), NTPSMonitor(model)
    for wrong in (torch.full((16,), 10_000), torch.rand(16), ["sport", 2] * 8):
        with (
            pytest.raises(ValueError, match=r"token ids|no forward pass|one per sequence, got a list"),
            monitor.batch(wrong),
        ):
            pass
        monitor.reset()
    show(monitor, model, batches)
    assert monitor.num_classes == CLASSES
    assert monitor.compute()[LAYERS].num_samples == 60


@pytest.mark.parametrize("mask", [torch.ones(16).long(), torch.ones(3, dtype=torch.bool)])
def test_a_sample_mask_is_bool_and_one_a_sample(model, mask):
    monitor = NTPSMonitor(model)
    with pytest.raises(ValueError, match=r"sample_mask must be bool of shape \(N,\) = \(16,\), got"):
        monitor.batch(torch.zeros(16).long(), sample_mask=mask)
    assert "sample_mask" in monitor.fault


def test_inference_mode_may_come_and_go(model):
    batches, plain, mixed = list(loader(60)), NTPSMonitor(model), NTPSMonitor(model)
    show(plain, model, batches)
    with torch.inference_mode():
        show(mixed, model, batches[:2])
    show(mixed, model, batches[2:])
    assert mixed.compute()[LAYERS].score == plain.compute()[LAYERS].score


def test_the_whole_curve_is_asked_for_the_first_time(model):
    monitor = NTPSMonitor(model, k=1)
    show(monitor, model, list(loader(60)))
    monitor.compute()
    with pytest.raises(RuntimeError, match="ask for whole_curve=True the first time"):
        monitor.compute(whole_curve=True)


def test_estimators_of_every_layer_are_asked_for_the_first_time(model):
    asked, plain = NTPSMonitor(model, layers="all"), NTPSMonitor(model, layers="all")
    for monitor in (asked, plain):
        show(monitor, model, list(loader(60)))
    for layer, details in asked.compute(estimators=True).items():
        assert None not in (details.rankme, details.h_score, details.log_me), layer
        assert details.score == plain.compute()[layer].score
    assert asked.compute() is asked.compute(estimators=True)
    with pytest.raises(RuntimeError, match="ask for estimators=True the first time"):
        plain.compute(estimators=True)


def test_nothing_stays_alive_without_the_garbage_collector(model):
    """Training loops switch it off: what a batch or a measurement holds must go with the last reference."""
    gc.disable()
    try:
        monitor = NTPSMonitor(model, layers="all")
        (batch,) = loader(16)
        block = monitor.batch(batch["labels"])
        with torch.no_grad(), block:
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
        held = [weakref.ref(block), weakref.ref(monitor._measurement), weakref.ref(monitor._measurement._metrics[0])]
        del block
        monitor.reset()
        assert [reference() for reference in held] == [None] * 3
    finally:
        gc.enable()


def test_the_mask_is_worked_out_once_for_all_layers(model, monkeypatch):
    packed = []

    def pack(*arguments):
        packed.append(pack_batch(*arguments))
        return packed[-1]

    monkeypatch.setattr("ntps_lightning.monitor.samples.pack_batch", pack)
    monkeypatch.setattr("ntps_lightning.functional.accumulate.pack_batch", None)
    monitor = NTPSMonitor(model, layers="all")
    show(monitor, model, list(loader(32, batch_size=16)))
    assert len(packed) == 2


def test_a_causal_lm_in_training_mode_keeps_its_gradients():
    """What is listened to is detached; the loop goes on as it would."""
    model = LlamaForCausalLM(tiny_config())
    gradients = []
    for listen in (False, True):
        twin = copy.deepcopy(model)
        (batch,) = loader(16)
        block = NTPSMonitor(twin).batch(batch["labels"]) if listen else nullcontext()
        with block:
            loss = twin(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.square().mean()
        loss.backward()
        gradients.append([p.grad.clone() for p in twin.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True))


def test_few_samples_are_said(model):
    monitor = NTPSMonitor(model)
    show(monitor, model, list(loader(60)))
    with pytest.warns(UserWarning, match="NTPS from 60 samples is 3.8 per hidden dimension"):
        monitor.compute()


def test_a_twin_numbers_words_as_its_sums_do(model):
    """The first of two to be computed settles the names for both; the sums of the other are in the order before."""
    words = ["politics", "sport", "economy"]
    first = NTPSMonitor(model)
    second = first.twin(first._backbone)
    for monitor in (first, second):
        named = [batch | {"labels": [words[i] for i in batch["labels"].tolist()]} for batch in loader(60)]
        show(monitor, model, named[::-1])
    first.compute()
    second.compute()
    sums = [monitor._measurement._metrics[LAYERS].target_sum for monitor in (first, second)]
    assert first.class_names == sorted(words)
    assert torch.equal(*sums)


def test_the_same_text_with_other_tokens_chosen_is_another_sample(model):
    (batch,) = loader(16)
    monitor = NTPSMonitor(model)
    for tokens in (batch["attention_mask"], batch["attention_mask"] * (torch.arange(9) < 2)):
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"], tokens=tokens):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert monitor.compute()[LAYERS].held_out.num_kept > 16
