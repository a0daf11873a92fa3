"""What users have, as batches made once: each form, each refusal, and that nothing is left of the making."""

from __future__ import annotations

import random
import subprocess
import sys

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch.utils.data import DataLoader, Dataset, DistributedSampler, TensorDataset
from transformers import BatchEncoding, LlamaForCausalLM, PreTrainedTokenizerFast

from ntps_lightning import NTPSMonitor
from ntps_lightning.errors import SetupError
from ntps_lightning.side_set import join, make_side_set
from tests.support.models import loader, samples, tiny_config

WORDS = ["the", "team", "won", "a", "match", "coach", "cheered", "shares", "of", "bank", "fell", "rates"]
TEMPLATE = "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"


@pytest.fixture(scope="module")
def tokenizer():
    """Words as tokens, and one more that begins each text."""
    words = Tokenizer(models.WordLevel(unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["<unk>", "<s>", "</s>", "<pad>"]
    words.train_from_iterator(
        [" ".join([*WORDS, "user", "assistant"])], trainers.WordLevelTrainer(special_tokens=special)
    )
    words.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=6,
    )


def texts(n=40, seed=0):
    draw = random.Random(seed)
    return [(" ".join(draw.choices(WORDS, k=draw.randint(3, 9))), ("sport", "money")[i % 2]) for i in range(n)]


def table(n=40):
    return [{"text": text, "label": label} for text, label in texts(n)]


def tokenised(n=40):
    return [{"input_ids": ids, "label": label} for ids, label in samples(n)]


def contents(side_set, counted=None):
    """Valid tokens and label of each sample, sorted."""
    found = []
    for batch in side_set.batches if counted is None else counted:
        ids = batch.inputs["input_ids"]
        mask = batch.inputs.get("attention_mask", torch.ones_like(ids)).bool()
        labels = batch.shown["labels"]
        labels = labels if isinstance(labels, list) else labels.tolist()
        assert batch.shown["input_ids"] is ids
        assert len(labels) == len(ids)
        found += [(row[kept].tolist(), label) for row, kept, label in zip(ids, mask, labels, strict=True)]
    return sorted(found, key=repr)


def expected_of_texts(tokenizer, n=40):
    return sorted(((tokenizer(text, verbose=False)["input_ids"], label) for text, label in texts(n)), key=repr)


class MapStyle(Dataset):
    """Without an end that iterating would find."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return table()[index % 40]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(table, id="mappings"),
        pytest.param(texts, id="pairs"),
        pytest.param(lambda: [list(pair) for pair in texts()], id="lists of two"),
        pytest.param(lambda: (row for row in table()), id="generator"),
        pytest.param(MapStyle, id="map-style Dataset"),
        pytest.param(lambda: datasets.Dataset.from_list(table()), id="datasets.Dataset"),
        pytest.param(lambda: datasets.Dataset.from_list(table()).to_iterable_dataset(), id="datasets.IterableDataset"),
        pytest.param(lambda: pd.DataFrame(table(), index=range(7, 47)), id="DataFrame"),
        pytest.param(lambda: table()[::-1], id="another order"),
        pytest.param(lambda: DataLoader(MapStyle(), batch_size=None), id="DataLoader of rows"),
    ],
)
def test_forms_of_the_same_texts_are_one_set(tokenizer, form):
    found = make_side_set(form(), tokenizer=tokenizer)
    assert contents(found) == expected_of_texts(tokenizer)
    assert found.num_samples == 40
    assert found.digest == make_side_set(table(), tokenizer=tokenizer).digest
    assert set(found.batches[0].inputs) == {"input_ids", "attention_mask"}
    assert not found.remarks


@pytest.mark.parametrize("name", ["body", lambda row: row["body"]])
def test_rows_say_where_things_are(tokenizer, name):
    rows = [{"body": row["text"], "topic": row["label"], "text": "won", "input_ids": [1]} for row in table()]
    found = make_side_set(rows, text=name, labels=lambda row: row["topic"], tokenizer=tokenizer)
    assert contents(found) == expected_of_texts(tokenizer)


@pytest.mark.parametrize("form", [list, np.array, torch.tensor, tuple], ids=["list", "array", "tensor", "tuple"])
@pytest.mark.parametrize("pairs", [False, True], ids=["mappings", "pairs"])
def test_tokenised_rows_need_no_tokenizer(form, pairs):
    rows = [(form(ids), label) if pairs else {"input_ids": form(ids), "label": label} for ids, label in samples(40)]
    assert contents(make_side_set(rows)) == sorted(samples(40), key=repr)


def test_padding_of_tokenised_rows_is_left_out():
    rows = [
        {"input_ids": [9, 9, *ids, 9], "attention_mask": [0, 0, *[1] * len(ids), 0], "label": label}
        for ids, label in samples(40)
    ]
    assert make_side_set(rows).digest == make_side_set(tokenised()).digest


@pytest.mark.parametrize("key", ["text", "messages"])
@pytest.mark.parametrize("form", [list, datasets.Dataset.from_list, pd.DataFrame])
def test_messages_go_through_the_chat_template(tokenizer, key, form):
    def chat(text):
        return [{"role": "user", "content": text}, {"role": "assistant", "content": "a match"}]

    rows = [{key: chat(text), "label": label} for text, label in texts()]
    with_template = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, chat_template=TEMPLATE)
    found = make_side_set(form(rows), tokenizer=with_template)
    written = [(f"user {text} assistant a match", label) for text, label in texts()]
    plain = [(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"], label) for text, label in written]
    assert contents(found) == sorted(plain, key=repr)
    with pytest.raises(SetupError, match=r"tokenizer \(.*\) has no chat template; set tokenizer.chat_template"):
        make_side_set(rows, tokenizer=tokenizer)


def test_what_a_chat_template_refuses_is_said(tokenizer):
    strict = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, chat_template="{{ raise_exception('roles must alternate') }}"
    )
    with pytest.raises(SetupError, match="refuses the messages of row 0 of data: roles must alternate"):
        make_side_set([([{"role": "user", "content": "won"}], 0)], tokenizer=strict)


@pytest.mark.parametrize("max_tokens", [1, 12, 40, 8192])
def test_batches_are_by_length_and_within_their_size(max_tokens):
    found = make_side_set(tokenised(60), max_tokens=max_tokens)
    masks = [batch.inputs["attention_mask"] for batch in found.batches]
    lengths = [length for mask in masks for length in mask.sum(1).tolist()]
    assert lengths == sorted((len(ids) for ids, _ in samples(60)), reverse=True)
    for mask, after in zip(masks, [*masks[1:], None], strict=True):
        rows, longest = mask.shape
        assert rows * longest <= max_tokens or rows == 1
        assert mask[0].all()
        assert (mask.diff(dim=1) <= 0).all(), "padding is on the right"
        assert after is None or (rows + 1) * longest > max_tokens, "one more row would have fitted"
    assert contents(found) == sorted(samples(60), key=repr)


def test_padding_is_the_tokenizers_or_else_its_end_of_text_or_zero(tokenizer):
    rows = [("won", 0), ("won the match", 1)]

    def last(tokenizer, rows=rows):
        (batch,) = make_side_set(rows, tokenizer=tokenizer).batches
        assert batch.inputs["attention_mask"].tolist() == [[1] * batch.inputs["input_ids"].shape[1], [1, 1, 0, 0]]
        return int(batch.inputs["input_ids"][1, -1])

    backend = tokenizer.backend_tokenizer
    assert last(tokenizer) == tokenizer.pad_token_id == 3
    without = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>")
    assert last(without) == 2
    assert without.pad_token is None
    assert last(PreTrainedTokenizerFast(tokenizer_object=backend)) == 0


def test_long_rows_are_cut_and_counted(tokenizer, caplog):
    found = make_side_set(table(), tokenizer=tokenizer, max_length=6)
    whole = expected_of_texts(tokenizer)
    longer = sum(len(ids) > 6 for ids, _ in whole)
    assert 0 < longer < 40
    assert contents(found) == sorted(((ids[:6], label) for ids, label in whole), key=repr)
    assert found.remarks[0] == f"{longer} of 40 rows are longer than 6 tokens and are cut"
    assert not caplog.records, "the tokenizer's own remark of long texts"
    assert not make_side_set(tokenised(), max_length=9).remarks


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([2, -100, 0, None], torch.tensor([2, -100, 0, -100])),
        ([True, False, True, True], torch.tensor([True, False, True, True])),
        ([True, False, None, True], torch.tensor([1, 0, -100, 1])),
        ([0.5, 1, 2.25, 0.0], torch.tensor([0.5, 1, 2.25, 0], dtype=torch.float64)),
        (np.float32([0.5, 1, 2, 0]), torch.tensor([0.5, 1, 2, 0], dtype=torch.float64)),
        (torch.tensor([1, 0, 1, 2]), torch.tensor([1, 0, 1, 2])),
        ([[1], [0], [1], [1]], torch.tensor([1, 0, 1, 1])),
        ([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]], torch.tensor([[0, 1, 1], [1, 0, 0], [0, 0, 0], [1, 1, 1]])),
        ([[0.5, 1], [0, 2], [1, 1], [3, 1]], torch.tensor([[0.5, 1], [0, 2], [1, 1], [3, 1]], dtype=torch.float64)),
        (["b", "a", "b", "c"], ["b", "a", "b", "c"]),
        (np.array(["b", "a", "b", "c"]), ["b", "a", "b", "c"]),
        (pd.Series([1, None, 0, 1], dtype="Int64"), torch.tensor([1, -100, 0, 1])),
    ],
    ids=str,
)
def test_labels_stay_what_they_are(labels, expected):
    rows = [([1, 2, 3, 4 + i], label) for i, label in enumerate(labels)]
    (batch,) = make_side_set(rows).batches
    found = batch.shown["labels"]
    if isinstance(expected, list):
        assert found == expected
    else:
        assert found.dtype == expected.dtype
        assert found.equal(expected)


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA])
def test_rows_without_a_word_are_left_out_and_counted(missing):
    rows = [([1, 2], "a"), ([1, 3], missing), ([1, 4], "b")]
    found = make_side_set(rows)
    assert contents(found) == [([1, 2], "a"), ([1, 4], "b")]
    assert found.num_samples == 2
    assert found.remarks == ["1 of 3 rows have no label and are left out"]


def test_texts_under_two_labels_are_counted():
    rows = [
        ([1, 2, 3], 0),
        ([1, 2, 4], 1),
        ([5, 6], 0),
        ([5, 6], 1),
        ([5, 6], 1),
        ([7], 0),
        ([7], -100),
        ([8], 1),
        ([8], 1),
    ]
    said = "{} texts stand under two labels or more: held-out numbers leave them out"
    assert make_side_set(rows).remarks == [said.format(1)]
    assert make_side_set(rows, max_length=2).remarks[1:] == [said.format(2)]


def test_groups_and_chosen_tokens_follow_their_rows():
    rows = [
        {"input_ids": ids, "label": label, "book": f"book {i % 7}", "mine": [int(token > 20) for token in ids]}
        for i, (ids, label) in enumerate(samples(40))
    ]
    found = make_side_set(rows, groups="book", tokens="mine", max_tokens=40, max_length=8)
    books = {(tuple(row["input_ids"][:8]), row["label"], row["book"]) for row in rows}
    for batch in found.batches:
        ids, mask = batch.inputs["input_ids"], batch.inputs["attention_mask"]
        assert batch.shown["tokens"].equal(((ids > 20) & mask.bool()).long())
        for row, kept, label, book in zip(
            ids, mask.bool(), batch.shown["labels"].tolist(), batch.shown["groups"], strict=True
        ):
            assert (tuple(row[kept].tolist()), label, book) in books


def as_pairs(batches):
    return [({k: v for k, v in batch.items() if k != "labels"}, batch["labels"]) for batch in batches]


@pytest.mark.parametrize(
    "form",
    [
        pytest.param(lambda: loader(40), id="DataLoader"),
        pytest.param(lambda: loader(40, shuffle=True), id="shuffled"),
        pytest.param(lambda: loader(40, batch_size=7), id="another batch size"),
        pytest.param(lambda: list(loader(40)), id="list"),
        pytest.param(lambda: [BatchEncoding(batch) for batch in loader(40)], id="BatchEncoding"),
        pytest.param(lambda: as_pairs(loader(40)), id="pairs"),
        pytest.param(lambda: [{k: v.tolist() for k, v in batch.items()} for batch in loader(40)], id="lists of lists"),
        pytest.param(lambda: [{k: v.numpy() for k, v in batch.items()} for batch in loader(40)], id="arrays"),
    ],
)
def test_batches_are_kept(form):
    found = make_side_set(form(), labels="labels")
    assert contents(found) == sorted(samples(40), key=repr)
    assert found.digest == make_side_set(tokenised()).digest
    assert not found.remarks


def test_batches_stay_as_they_were_made():
    made = list(loader(40, batch_size=10))
    made = [batch | {"position_ids": batch["attention_mask"].cumsum(1) - 1, "pixels": torch.ones(10)} for batch in made]
    found = make_side_set(made, labels="labels", max_length=2, max_tokens=2)
    assert len(found.batches) == 4
    for given, batch in zip(made, found.batches, strict=True):
        assert set(batch.inputs) == {"input_ids", "attention_mask", "position_ids"}
        assert all(value.equal(given[name]) for name, value in batch.inputs.items())
        assert batch.shown["labels"].equal(given["labels"])
    assert found.remarks == ["the model is not called with pixels of the batches of data"]


def test_pairs_of_ids_and_labels_are_batches():
    ids, labels = torch.arange(24).reshape(8, 3), torch.arange(8) % 2
    found = make_side_set(DataLoader(TensorDataset(ids, labels), batch_size=4))
    assert contents(found) == sorted(zip(ids.tolist(), labels.tolist(), strict=True), key=repr)
    assert [set(batch.inputs) for batch in found.batches] == [{"input_ids"}] * 2


def test_batches_say_where_groups_and_tokens_are():
    made = [batch | {"group": torch.arange(len(batch["labels"]))} for batch in loader(40)]
    found = make_side_set(made, labels="labels", groups="group", tokens=lambda batch: batch["input_ids"] > 20)
    for batch in found.batches:
        assert batch.shown["groups"] == list(range(len(batch.shown["labels"])))
        assert batch.shown["tokens"].equal((batch.inputs["input_ids"] > 20).long())


def test_batches_are_copies_on_the_cpu_without_gradients():
    batch = next(iter(loader(16)))
    found = make_side_set([batch], labels="labels")
    before = batch["input_ids"].clone()
    batch["input_ids"].zero_()
    assert found.batches[0].inputs["input_ids"].equal(before)


class Draws(Dataset):
    """Augments with all three kinds of random numbers."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        noise = int(torch.randint(9, ())) + np.random.randint(9) + random.randrange(9)
        return {"input_ids": torch.tensor([index, noise]), "label": index % 2}


@pytest.mark.parametrize("persistent", [False, True])
def test_random_numbers_are_as_if_nothing_had_been_taken(persistent):
    def drawn(take):
        torch.manual_seed(5)
        np.random.seed(5)
        random.seed(5)
        workers = {"num_workers": 1, "persistent_workers": True} if persistent else {}
        own = torch.Generator().manual_seed(7)
        data = DataLoader(Draws(), batch_size=4, shuffle=True, generator=own, **workers)
        if take:
            make_side_set(data)
        order = [batch["input_ids"].tolist() for _ in range(2) for batch in data]
        return order, torch.rand(2).tolist(), np.random.rand(), random.random(), own.get_state().tolist()

    assert drawn(take=True) == drawn(take=False)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("max_tokens", [20, 150, 8192])
def test_ranks_share_every_sample_once(world_size, max_tokens):
    found = make_side_set(tokenised(), max_tokens=max_tokens)
    shards = [found.shard(rank, world_size) for rank in range(world_size)]
    assert {len(shard) for shard in shards} == {-(-len(found.batches) // world_size)}
    counted = [batch for shard in shards for batch, counts in shard if counts]
    assert sorted(map(id, counted)) == sorted(map(id, found.batches))
    assert contents(found, counted) == sorted(samples(40), key=repr)


DIGEST = """
from ntps_lightning.side_set import join, make_side_set
print(make_side_set({!r}).digest)
"""


def test_the_digest_is_of_the_content_and_the_same_in_every_process():
    def of(rows, **options):
        return make_side_set(rows, **options).digest

    rows = [(ids, "abc"[label]) for ids, label in samples(40)]
    run = subprocess.run(
        [sys.executable, "-c", DIGEST.format(rows)], capture_output=True, text=True, timeout=120, check=True
    )
    assert run.stdout.split() == [of(rows)]
    assert of(rows) == of(rows[::-1], max_tokens=30)
    others = [rows[1:], [*rows, rows[0]], [([*rows[0][0], 1], rows[0][1]), *rows[1:]], [(rows[0][0], "d"), *rows[1:]]]
    dicts = [{"input_ids": ids, "label": label, "mine": [1] * len(ids)} for ids, label in rows]
    digests = [of(rows), *map(of, others), of(dicts, groups="label"), of(dicts, tokens="mine")]
    assert len(set(digests)) == len(digests)


def test_the_same_data_make_the_same_batches(tokenizer):
    first, second = (make_side_set(table(), tokenizer=tokenizer, max_tokens=30) for _ in range(2))
    for one, other in zip(first.batches, second.batches, strict=True):
        assert all(one.inputs[name].equal(other.inputs[name]) for name in one.inputs)
        assert one.shown["labels"] == other.shown["labels"]


@pytest.mark.parametrize("data", [list(loader(90)), tokenised(90)], ids=["batches", "rows"])
def test_a_monitor_takes_what_is_made(data):
    torch.manual_seed(0)
    model = LlamaForCausalLM(tiny_config()).eval()
    rows = not isinstance(data[0]["input_ids"], torch.Tensor)
    found = make_side_set(data, labels="label" if rows else "labels", max_tokens=100)
    monitor = NTPSMonitor(model, k=3)
    for batch in found.batches:
        with torch.no_grad(), monitor.batch(**batch.shown):
            model(**batch.inputs)
    expected = NTPSMonitor(model, k=3)
    for batch in loader(90):
        with torch.no_grad(), expected.batch(batch["labels"]):
            model(batch["input_ids"], attention_mask=batch["attention_mask"])
    (one,), (other,) = monitor.compute().values(), expected.compute().values()
    assert one.score == pytest.approx(other.score, rel=1e-6)


def ids_row(**more):
    return {"input_ids": [1, 2], "label": 0} | more


def batch_of(**more):
    return {"input_ids": torch.ones(2, 3, dtype=torch.long), "label": torch.tensor([0, 1])} | more


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        ([], {}, "^data is empty; give rows, mappings with a text"),
        (pd.DataFrame({"text": [], "label": []}), {}, "data is empty"),
        ("texts.csv", {}, "data must be rows, .* got a str"),
        (7, {}, "data must be rows, .* got a int"),
        ({"train": [], "test": []}, {}, r"data is a dict with keys \['test', 'train'\]; give one split of it"),
        (["won"], {}, "found no text at 'text' in a row that is a str"),
        ([None], {}, "found no text at 'text' in a row that is a NoneType"),
        ([{"body": "won", "label": 0}], {}, r"no text at 'text' in a row .* keys \['body', 'label'\]; .* text=\.\.\."),
        (
            [{"text": "won", "topic": 0}],
            {},
            r"no labels at 'label' in a row .* keys \['text', 'topic'\]; .* labels=\.\.\.",
        ),
        ([ids_row()], {"groups": "book"}, "no groups at 'book' in a row"),
        ([ids_row()], {"tokens": "mine"}, "no tokens at 'mine' in a row"),
        ([batch_of()], {"labels": "topic"}, r"no labels at 'topic' in a batch .* keys \['input_ids', 'label'\]"),
        ([("won", 0), ("fell", 0)], {}, "all 2 labelled samples of data have the label 0, so"),
        ([("won", "a"), ("fell", "a"), ("rates", None)], {}, "all 2 labelled samples of data have the label 'a'"),
        ([("won", 0.5), ("fell", 0.5)], {}, r"all 2 labelled samples of data have the label 0\.5"),
        ([batch_of(label=[1, -100])], {}, "all 1 labelled samples of data have the label 1"),
        ([("won", None), ("fell", None)], {}, "none of the 2 samples of data has a label"),
        ([batch_of(label=[-100, -100])], {}, "none of the 2 samples of data has a label"),
        ([("won", 0), ("", 1)], {"bos": False}, "the text of row 1 of data has no tokens"),
        ([ids_row(), ids_row(input_ids=[])], {}, "the text of row 1 of data has no tokens"),
        ([("won", 0), (float("nan"), 1)], {}, "the text of row 1 of data is a float; it must be a str, messages"),
        (
            [{"text": ["won", "fell"], "label": [0, 1]}],
            {},
            "the text of row 0 of data is a list of str; .* its dataset",
        ),
        ([("won", 0), ("fell", "money")], {}, "labels of data must be .*, all of one kind; got int, str"),
        ([("won", {"a": 1}), ("fell", {})], {}, "labels of data must be .*; got dict"),
        ([("won", 0.0), ("fell", float("nan"))], {}, "1 of 2 labels of data are missing among targets .* pandas makes"),
        ([("won", [0.5, 1]), ("fell", [0.5, 1, 2])], {}, "labels of data are lists, but .* not of one length"),
        ([("won", ["a", "b"]), ("fell", ["a", "c"])], {}, "labels of data are lists, but not of numbers"),
        ([("won a", [-100, 7, 8]), ("fell", [-100, 9])], {}, "token labels, it seems, .* classes of the sequences"),
        ([ids_row(label=[0, 1]), ids_row(label=[1, 1])], {}, "token labels, it seems"),
        ([batch_of(label=torch.ones(2, 3, dtype=torch.long))], {}, "token labels, it seems"),
        (
            [batch_of(label=torch.tensor([0, 1, 0]))],
            {},
            "labels of batch 0 of data are 3, but input_ids have 2 rows; .*packed",
        ),
        ([batch_of(label="sport")], {}, "labels of batch 0 of data must be 2, one for each row .* got a str"),
        (
            [batch_of(label=["sport", None]), batch_of(label=["a", "b"])],
            {},
            "1 of 4 labels of data are missing among words",
        ),
        (
            [batch_of(input_ids=torch.ones(2, 3))],
            {},
            r"input_ids of batch 0 of data must be \(N, T\) integers, got torch.float32",
        ),
        (
            [batch_of(), {"label": [0, 1]}],
            {},
            r"batch 1 of data has no input_ids, which others have; it has \['label'\]",
        ),
        (
            [batch_of(attention_mask=torch.ones(2, 1, 3, 3))],
            {},
            r"attention_mask of batch 0 .* got torch.float32 \(2, 1, 3, 3\)",
        ),
        ([batch_of(attention_mask=torch.tensor([[1, 1, 0], [0, 0, 0]]))], {}, "row 1 of batch 0 of data has no tokens"),
        ([batch_of(mine=torch.ones(2, 2))], {"tokens": "mine"}, r"tokens of batch 0 .* shape of input_ids, \(2, 3\)"),
        ([batch_of(mine=2 * torch.ones(2, 3))], {"tokens": "mine"}, "tokens of batch 0 .* with other values"),
        (
            [batch_of(book=[1, "a"])],
            {"groups": "book"},
            "groups of data must be all integers or all words, .* got int, str",
        ),
        ([ids_row(book=None), ids_row(book=0.5, label=1)], {"groups": "book"}, "groups .* got NoneType, float"),
        (
            [ids_row(mine=[1])],
            {"tokens": "mine"},
            "tokens of row 0 of data must be zeros and ones, .* 2 input_ids; got 1 values",
        ),
        ([ids_row(attention_mask=[1])], {}, "attention_mask of row 0 of data must be zeros and ones"),
        (
            [{"text": "won", "label": 0, "mine": [1]}],
            {"tokens": "mine"},
            "but row 0 of data has text; give rows of input_ids",
        ),
        (
            [("won", 0)],
            {"tokenizer": None},
            r"data holds text, which needs the model's tokenizer: pass tokenizer=\.\.\.",
        ),
        ([("won", 0)], {"max_length": 0}, "max_length must be a positive number of tokens, got 0"),
        ([("won", 0)], {"max_tokens": 0.5}, r"max_tokens must be a positive number of tokens, got 0\.5"),
        ([], {"what": "side_data"}, "^side_data is empty"),
        (
            DataLoader(MapStyle(), sampler=DistributedSampler(MapStyle(), 2, 0)),
            {},
            "data is a DataLoader with a DistributedSampler, which gives each rank a share; give every rank all",
        ),
    ],
)
def test_what_cannot_be_watched_is_one_clear_error(tokenizer, data, options, message):
    options = {"tokenizer": tokenizer} | options
    if not options.pop("bos", True):
        bare = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        bare.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])
        options["tokenizer"] = PreTrainedTokenizerFast(tokenizer_object=bare)
    with pytest.raises(SetupError, match=message):
        make_side_set(data, **options)


@pytest.mark.parametrize("kind", ["words", "targets"])
def test_batches_of_single_rows_are_joined_to_those_that_would_have_been_made(kind, tokenizer):
    rows = [
        {**row, "label": len(row["text"]) / 3 if kind == "targets" else row["label"], "doc": row["text"][:9]}
        for row in table()
    ]
    single, whole = (make_side_set(rows, groups="doc", tokenizer=tokenizer, max_tokens=size) for size in (1, 10_000))
    assert [len(batch.inputs["input_ids"]) for batch in single.batches] == [1] * 40
    (wanted,), found = whole.batches, join(single.batches)
    mask = wanted.inputs["attention_mask"]
    assert found.inputs["attention_mask"].equal(mask)
    assert (found.inputs["input_ids"] * mask).equal(wanted.inputs["input_ids"] * mask)
    assert found.shown["groups"] == wanted.shown["groups"]
    assert list(found.shown["labels"]) == list(wanted.shown["labels"])
    assert found.shown["input_ids"] is found.inputs["input_ids"]
