"""Texts that are equal, or nothing, for a tokenizer alone: what a probe must not be fitted on and read on."""

from __future__ import annotations

import random

import pytest
from tokenizers import normalizers

from ntps_lightning import prescreen
from ntps_lightning.prescreening.forward import measure_layers
from ntps_lightning.prescreening.texts import read_texts
from ntps_lightning.prescreening.tokens import read_tokens
from tests.prescreening.tiny import WORDS, gpt2, letter_tokenizer, llama, rows, texts, word_tokenizer


def drawn(variant, n=100, size=10, seed=0):
    """Texts under random labels, each with a variant of it under the same one."""
    draw = random.Random(seed)
    found = []
    for _ in range(n):
        text, label = " ".join(draw.choices(WORDS, k=size)), draw.choice("ab")
        found += [(text, label), (variant(text), label)]
    return found


def without(words):
    """A tokenizer that does not see some words."""
    found = word_tokenizer()
    found.backend_tokenizer.normalizer = normalizers.Sequence([normalizers.Replace(word, "") for word in words])
    return found


@pytest.mark.parametrize(
    ("variant", "max_length"),
    [(lambda text: f"{text} ", 512), (lambda text: f"{text} won", 10)],
    ids=["white space", "past the end"],
)
def test_random_labels_are_not_read_out_of_near_copies(variant, max_length, tmp_path):
    result = prescreen((llama(), word_tokenizer()), drawn(variant), layers=-1, max_length=max_length)
    (layer,) = result.measured[0].layers
    assert layer.probe_accuracy.num_groups == 100
    assert abs(layer.probe_accuracy.value - 0.5) < 3 * layer.probe_accuracy.se
    assert layer.probe_r2.value < 2 * layer.probe_r2.se


def test_labels_that_contradict_are_left_out_as_the_remark_says():
    data = [*rows(100), *[(text, "ab"[i % 2]) for i, (text, _) in enumerate(drawn(lambda text: f"{text} won", 20))]]
    data = [(row["text"], row["label"]) if isinstance(row, dict) else row for row in data]
    measured = measure_layers(llama(), word_tokenizer(), read_texts(data), layers=-1, max_length=10)
    assert any(remark.startswith("20 texts stand under two labels or more") for remark in measured.remarks)
    assert measured.layers[0].probe_accuracy.num_groups <= 100


def test_all_models_are_read_in_the_groups_that_one_of_them_needs():
    data = [*rows(100), *[{**row, "text": f"{row['text']} oven"} for row in rows(10)]]
    pairs = {"all": (llama(), word_tokenizer()), "some": (llama(1), without(["oven"]))}
    result = prescreen(pairs, data, layers=-1)
    groups = [each.layers[0].probe_r2.num_groups for each in result.measured]
    assert groups == [100, 100]
    assert len({each.data_id for each in result.measured}) == 1
    assert any("equal to others in the tokens that models read" in remark for remark in result.measured[0].remarks)
    one, other = (each.layers[0].probe_r2 for each in result.measured)
    assert len(one.own) == len(other.own)


def test_a_model_that_sees_too_little_is_grouped_alone():
    found, _ = read_tokens(texts(), {"all": word_tokenizer(), "none": lambda text, **options: {"input_ids": [3]}}, None)
    assert found == texts()


def test_a_shorter_context_is_told():
    data = [*rows(100), *[{**row, "text": f"{row['text']} oven"} for row in rows(10)]]
    short = llama()
    short.config.max_position_embeddings = 4
    measured = measure_layers(short, word_tokenizer(), read_texts(data), layers=-1)
    assert any("for this model alone" in remark for remark in measured.remarks)


def test_the_users_groups_stay():
    data = [{**row, "author": i // 2} for i, row in enumerate(rows())]
    data[0]["text"] = data[1]["text"] = data[9]["text"]
    found = read_texts(data, group="author")
    assert read_tokens(found, {"words": word_tokenizer()}, 3)[0].groups == found.groups


def test_a_text_without_tokens_for_one_is_left_out_for_all():
    data = [*rows(), {"text": "oven", "label": "kitchen"}, {"text": "oven", "label": "alone"}]
    data.append({"text": "won", "label": "alone"})
    found, _ = read_tokens(read_texts(data), {"all": word_tokenizer(), "some": without(["oven"])}, None)
    assert len(found) == 120
    assert found.class_names == ("kitchen", "money", "sport")
    assert found.remarks[-2:] == (
        "2 of 123 texts have no tokens for some and are left out for every model: the first is row 120 of data",
        "classes of which a single text is left are left out: 'alone'",
    )
    assert read_texts(rows()).labels == found.labels


def test_a_tokenizer_that_fails_costs_its_model_alone():
    def broken(text, **options):
        raise RuntimeError("no file")

    with pytest.warns(UserWarning, match="not measured: broken on data: no file"):
        result = prescreen({"broken": (llama(), broken), "sound": (gpt2(), letter_tokenizer())}, rows(), layers=-1)
    assert result.models == ("sound",)


def test_tokens_are_told_apart_in_whatever_order():
    digest = lambda data, tokenizer: read_tokens(read_texts(data), {"it": tokenizer}, None)[1]["it"]  # noqa: E731
    wanted = digest(rows(), word_tokenizer())
    assert digest(rows()[::-1], word_tokenizer()) == wanted
    assert digest(rows(), without(["oven"])) != wanted
