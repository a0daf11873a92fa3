"""One pass over texts: the numbers are those of the monitor, and pair by texts whatever the tokenizers."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import LlamaForSequenceClassification

from ntps_lightning import NextTokenPerceptionScore, NTPSMonitor
from ntps_lightning.errors import SetupError
from ntps_lightning.functional.hashing import mix, mix_keys
from ntps_lightning.monitor.samples import read_groups
from ntps_lightning.prescreening.forward import measure_layers
from ntps_lightning.prescreening.models import find_model
from ntps_lightning.prescreening.pace import Pace
from ntps_lightning.prescreening.texts import read_texts
from tests.prescreening.tiny import TOPICS, bert_folder, gpt2, letter_tokenizer, llama, rows, texts, word_tokenizer
from tests.support.models import hooks_on, tiny_config


def pooled(model, tokenizer, found, layer, max_length=64):
    """States of each text, one call each."""
    states = []
    for text in found.texts:
        ids = torch.tensor([tokenizer(text)["input_ids"][:max_length]])
        with torch.no_grad():
            states.append(model(input_ids=ids, output_hidden_states=True).hidden_states[layer])
    return states


def recomputed(model, tokenizer, found, layer, **options):
    """The details by the metric, fed one text at a time, each with an id of its own whatever its tokens."""
    metric = NextTokenPerceptionScore(model.config.hidden_size, len(found.class_names))
    ids = read_groups(list(found.groups), len(found))
    states = pooled(model, tokenizer, found, layer, **options)
    for state, label, each in zip(states, found.labels, ids.split(1), strict=True):
        metric.update(state, torch.tensor([label]), sample_ids=each, group_ids=each)
    return metric.details(whole_curve=False, estimators=True)


def test_numbers_are_those_of_each_text_by_itself():
    model, tokenizer, found = llama(), word_tokenizer(), texts(150)
    measured = measure_layers(model, tokenizer, found)
    assert [numbers.layer for numbers in measured.layers] == [0, 1, 2]
    assert (measured.num_samples, measured.num_kept, measured.hidden_size) == (150, 150, 16)
    for numbers in measured.layers:
        wanted = recomputed(model, tokenizer, found, numbers.layer)
        held_out = wanted.held_out
        assert numbers.score == pytest.approx(wanted.score, abs=1e-5)
        assert numbers.rankme == pytest.approx(wanted.rankme, rel=1e-5)
        assert numbers.h_score == pytest.approx(wanted.h_score, rel=1e-4)
        assert numbers.log_me == pytest.approx(wanted.log_me, rel=1e-4)
        assert numbers.probe_r2.value == pytest.approx(held_out.probe_r2.value, abs=1e-4)
        assert numbers.probe_r2.se == pytest.approx(held_out.probe_r2.se, rel=1e-2)
        assert numbers.captured_r2[0] == pytest.approx(held_out.captured_r2.value, abs=1e-4)
        assert set(numbers.curve) == {50, 100}
        assert numbers.expected == {}
        assert "needs fits of 3 sizes" in numbers.remarks[0]


def test_the_monitor_over_the_whole_set_says_the_same():
    model, tokenizer, found = llama(), word_tokenizer(), texts()
    measured = measure_layers(model, tokenizer, found, layers=[-1, 1])
    batch = tokenizer(list(found.texts), padding=True, return_tensors="pt")
    monitor = NTPSMonitor(model, layers=[1, 2], num_classes=3)
    with torch.no_grad(), monitor.batch(list(found.labels), groups=list(found.groups)):
        model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    details = monitor.compute()
    assert [numbers.layer for numbers in measured.layers] == [1, 2]
    for numbers in measured.layers:
        held_out = details[numbers.layer].held_out
        assert numbers.probe_accuracy.value == held_out.probe_accuracy.value
        assert numbers.probe_r2.own.numpy() == pytest.approx(held_out.probe_r2.own.numpy(), abs=1e-5)


def test_two_tokenizers_are_read_on_the_same_texts_in_the_same_order():
    found = texts(150)
    pairs = [(llama(), word_tokenizer()), (gpt2(), letter_tokenizer())]
    first, second = (measure_layers(*pair, found, layers=-1) for pair in pairs)
    assert (first.num_samples, first.num_kept) == (second.num_samples, second.num_kept)
    difference = first.layers[0].probe_r2.minus(second.layers[0].probe_r2)
    one, two = (recomputed(*pair, found, -1).held_out for pair in pairs)
    wanted = one.since(two)["probe_r2"]  # of the same ids: the rows are known to be the same
    assert difference.value == pytest.approx(wanted.value, abs=1e-4)
    assert difference.se == pytest.approx(wanted.se, rel=1e-3)
    assert difference.own.numpy() == pytest.approx(wanted.own.numpy(), abs=1e-5)
    unpaired = math.hypot(first.layers[0].probe_r2.se, second.layers[0].probe_r2.se)
    assert abs(difference.se - unpaired) > 0.05 * unpaired, "pairing matters here"


def test_more_texts_than_are_kept_are_the_same_for_two_tokenizers(monkeypatch):
    def few(*args, **options):
        return NTPSMonitor(*args, **options, kept=60)

    monkeypatch.setattr("ntps_lightning.prescreening.forward.NTPSMonitor", few)
    data = rows(150)
    copies = [*data, *data[:30]]
    found = read_texts(copies)
    first = measure_layers(llama(), word_tokenizer(), found, layers=-1)
    second = measure_layers(gpt2(), letter_tokenizer(), found, layers=-1)
    assert first.num_kept == second.num_kept == 60
    lowest = mix(read_groups(list(found.groups), len(found)).unique()).sort().values[:60]
    of_each = torch.tensor([int((mix(read_groups(list(found.groups), len(found))) == each).sum()) for each in lowest])
    assert first.layers[0].groups == second.layers[0].groups == int(mix_keys(torch.stack([lowest, of_each], 1)))


def test_tokenizers_that_lose_other_groups_at_equal_counts_do_not_pair():
    """Two groups, of each of which one tokenizer knows no word: its texts are the same tokens with two labels."""
    pairs = {"alpha": ["ship", "boat"], "beta": ["tree", "leaf"]}
    data = [{**row, "group": str(i)} for i, row in enumerate(rows(150))]
    for group, words in pairs.items():
        data += [{"text": w, "label": label, "group": group} for w, label in zip(words, TOPICS, strict=False)]
    found = read_texts(data, group="group")
    first, second = (
        measure_layers(llama(), word_tokenizer(also=pairs[known]), found, layers=-1) for known in ("alpha", "beta")
    )
    assert (first.num_samples, first.num_kept) == (second.num_samples, second.num_kept) == (154, 152)
    assert first.layers[0].groups != second.layers[0].groups


def test_targets_have_no_accuracy():
    found = read_texts(
        [{**row, "label": row["text"].count("the") / len(row["text"])} for row in rows(150)], regression=True
    )
    (numbers,) = measure_layers(llama(), word_tokenizer(), found, layers=1).layers
    assert (numbers.probe_accuracy, numbers.h_score) == (None, None)
    assert numbers.curve[100][0] > 0.2
    assert numbers.log_me is not None


@pytest.mark.parametrize("pad", [None, "<pad>"])
def test_a_padding_token_is_not_needed(pad):
    torch.manual_seed(0)
    model = LlamaForSequenceClassification(tiny_config(pad_token_id=None, max_position_embeddings=64)).eval()
    measured = measure_layers(model, word_tokenizer(pad), texts(), layers=-1)
    assert measured.layers[0].probe_r2.value == pytest.approx(
        measure_layers(model, word_tokenizer(), texts(), layers=-1).layers[0].probe_r2.value, rel=1e-12
    )


def test_texts_end_where_they_are_to_and_where_the_model_does():
    short = measure_layers(llama(), word_tokenizer(), texts(), layers=-1, max_length=6)
    assert "rows are longer than 6 tokens and are cut" in short.remarks[0]
    wanted = recomputed(llama(), word_tokenizer(), texts(), -1, max_length=6).held_out.probe_r2.value
    assert short.layers[0].probe_r2.value == pytest.approx(wanted, abs=1e-4)
    torch.manual_seed(0)
    small = LlamaForSequenceClassification(tiny_config(max_position_embeddings=8)).eval()
    assert "longer than 8 tokens" in measure_layers(small, word_tokenizer(), texts(), max_length=512).remarks[0]


def test_nothing_is_left_on_the_model():
    model = llama().train()
    torch.manual_seed(5)
    before = torch.get_rng_state()
    measure_layers(model, word_tokenizer(), texts(), layers=-1)
    assert model.training
    assert hooks_on(model) == 0
    assert torch.get_rng_state().equal(before)


def test_an_encoder_is_refused_as_the_monitor_does(tmp_path):
    model, tokenizer = find_model(bert_folder(tmp_path / "bert")).load(torch.device("cpu"))
    with pytest.raises(SetupError, match="looks ahead: when only later tokens change"):
        measure_layers(model, tokenizer, texts())


def test_another_models_tokenizer_is_refused():
    with pytest.raises(SetupError, match=r"the tokenizer makes token \d+ of data, but the model has 10"):
        measure_layers(llama(vocab_size=10), word_tokenizer(), texts())


class Short:
    """Memory for so many tokens a call, and none at the calls that are named."""

    def __init__(self, model, tokens, layer=None):
        self.calls = []
        self._tokens = tokens
        where = model.model.layers[1] if layer is None else layer
        self._handle = where.register_forward_pre_hook(self._call, with_kwargs=True)

    def _call(self, module, args, kwargs):
        states = args[0] if args else kwargs["hidden_states"]
        if states.shape == (4, 16, states.shape[2]):
            return  # the monitor's own try
        self.calls.append(states.shape[0] * states.shape[1])
        if self.calls[-1] > self._tokens:
            raise torch.OutOfMemoryError("no room")


@pytest.mark.parametrize("tokens", [700, 100, 21])
def test_a_call_without_memory_is_made_again_over_its_halves(tokens):
    found, tokenizer = texts(), word_tokenizer()
    wanted = measure_layers(llama(), tokenizer, found)
    model = llama()
    short = Short(model, tokens)
    measured = measure_layers(model, tokenizer, found)
    assert sum(call for call in short.calls if call <= tokens) >= sum(len(text.split()) for text in found.texts)
    assert short.calls[0] > tokens >= short.calls[-1]
    for one, other in zip(measured.layers, wanted.layers, strict=True):
        assert one.score == pytest.approx(other.score, abs=1e-5)
        assert one.probe_r2.value == pytest.approx(other.probe_r2.value, abs=1e-4)


def test_no_memory_for_a_single_text_ends_it():
    model = llama()
    Short(model, 3)
    with pytest.raises(torch.OutOfMemoryError):
        measure_layers(model, word_tokenizer(), texts())


def test_no_memory_for_the_sums_begins_again(monkeypatch):
    found, tokenizer = texts(), word_tokenizer()
    wanted = measure_layers(llama(), tokenizer, found)
    update, calls = NextTokenPerceptionScore.update, []

    def short(self, hidden_states, *args):
        calls.append(hidden_states.shape[0] * hidden_states.shape[1])
        if calls[-1] > 600:
            raise torch.OutOfMemoryError("no room")
        update(self, hidden_states, *args)

    monkeypatch.setattr(NextTokenPerceptionScore, "update", short)
    measured = measure_layers(llama(), tokenizer, found)
    assert max(calls) > 600
    assert measured.num_samples == wanted.num_samples
    assert measured.layers[-1].score == pytest.approx(wanted.layers[-1].score, abs=1e-5)


def test_on_a_cpu_calls_stay_as_large_as_they_begin():
    pace = Pace(torch.device("cpu"))
    pace.begin(1024)
    pace.end()
    assert pace.rows(512) == 2


def test_on_a_gpu_calls_double_while_there_is_room_for_twice_as_many(monkeypatch):
    pace = Pace(torch.device("cuda"))
    free = {"bytes": 100_000}  # of which a token takes one, beside 1,000 that stay
    for name, value in {
        "reset_peak_memory_stats": lambda device: None,
        "memory_allocated": lambda device: 1_000,
        "max_memory_allocated": lambda device: 1_000 + pace.tokens,
        "empty_cache": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr("ntps_lightning.prescreening.pace.available_bytes", lambda device: free["bytes"])
    sizes = []
    for _ in range(6):
        pace.begin(pace.tokens)
        pace.end()
        sizes.append(pace.tokens)
    assert sizes == [16384, 32768, 65536, 65536, 65536, 65536]
    pace.begin(300)  # the last texts
    pace.halve()
    assert pace.tokens == 150
    free["bytes"] *= 100
    pace.begin(150)
    pace.end()
    assert pace.tokens == 150, "where memory was short, calls do not grow again"
