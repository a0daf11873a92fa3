"""What users have, read before any model is loaded: each form, and each refusal."""

from __future__ import annotations

import builtins
import json
import random

import datasets
import pandas as pd
import pytest

from ntps_lightning.errors import SetupError
from ntps_lightning.prescreening.texts import read_texts

WORDS = ["the", "team", "won", "a", "match", "shares", "of", "bank", "fell", "rates"]


def table(n=40, seed=0):
    draw = random.Random(seed)
    return [
        {"text": f'{i}, "{" ".join(draw.choices(WORDS, k=6))}"\nand so on', "label": ("sport", "money")[i % 2]}
        for i in range(n)
    ]


def csv_of(rows, separator=","):
    quoted = lambda value: '"' + str(value).replace('"', '""') + '"'  # noqa: E731
    lines = [separator.join(map(quoted, row.values())) for row in rows]
    return "\n".join([separator.join(rows[0]), *lines, ""])


def as_csv(folder, rows):
    (folder / "set.csv").write_text(csv_of(rows))
    return folder / "set.csv"


def as_spreadsheets_save_it(folder, rows):
    (folder / "set.csv").write_text("\ufeff" + csv_of(rows, ";").replace("\n", "\r\n"))
    for row in rows:
        row["text"] = row["text"].replace("\n", "\r\n")
    return str(folder / "set.csv")


def as_tsv(folder, rows):
    (folder / "set.tsv").write_text(csv_of(rows, "\t"))
    return folder / "set.tsv"


def as_lines(folder, rows):
    (folder / "set.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    return folder / "set.jsonl"


def as_json(folder, rows):
    (folder / "set.json").write_text(json.dumps(rows, indent=1))
    return folder / "set.json"


def as_lines_called_json(folder, rows):
    (folder / "set.json").write_text("\n".join(map(json.dumps, rows)))
    return folder / "set.json"


def as_parquet(folder, rows):
    pd.DataFrame(rows).to_parquet(folder / "set.parquet")
    return folder / "set.parquet"


def as_folders(folder, rows):
    for number, row in enumerate(rows):
        (folder / row["label"]).mkdir(exist_ok=True)
        (folder / row["label"] / f"{number}.txt").write_text(row["text"])
    return folder


def as_class_labels(folder, rows):
    names = ["sport", "money"]
    features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    columns = {"text": [row["text"] for row in rows], "label": [names.index(row["label"]) for row in rows]}
    return datasets.Dataset.from_dict(columns, features=features)


FORMS = {
    "csv": as_csv,
    "csv with semicolons": as_spreadsheets_save_it,
    "tsv": as_tsv,
    "jsonl": as_lines,
    "json": as_json,
    "json lines called json": as_lines_called_json,
    "parquet": as_parquet,
    "folder by class": as_folders,
    "DataFrame": lambda folder, rows: pd.DataFrame(rows),
    "Dataset": lambda folder, rows: datasets.Dataset.from_list(rows),
    "Dataset with class names": as_class_labels,
    "list": lambda folder, rows: rows,
    "pairs": lambda folder, rows: [tuple(row.values()) for row in rows],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_texts(form, tmp_path):
    rows = table()
    found = read_texts(FORMS[form](tmp_path, rows))
    pairs = [(text, found.class_names[int(label)]) for text, label in zip(found.texts, found.labels, strict=True)]
    assert sorted(pairs) == sorted((row["text"], row["label"]) for row in rows)
    assert found.class_names == ("money", "sport")
    assert found.data_id == read_texts(list(reversed(rows))).data_id
    assert not found.remarks


def refused(source, match, **options):
    with pytest.raises(SetupError, match=match):
        read_texts(source, **options)


def test_a_missing_column_names_those_that_are_there(tmp_path):
    rows = [{"body": row["text"], "topic": row["label"]} for row in table()]
    for form in ("csv", "jsonl", "json", "parquet", "DataFrame", "Dataset", "list"):
        source = FORMS[form](tmp_path, rows)
        refused(source, r"has no column 'text'; it has 'body', 'topic': say which holds the text with text=")
        assert len(read_texts(source, text="body", label="topic")) == 40
        refused(source, "no column 'author'", text="body", label="topic", group="author")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        (
            "a.csv",
            'text,label\n"one\nline",x\ntwo, words,y\n',
            r"line 4 of .*a.csv has 3 fields, but the header names 2",
        ),
        ("a.csv", 'text,label\nfine,x\n"open,y\n', "line 3 of .*a.csv cannot be read"),
        ("a.csv", "", "a.csv is empty"),
        ("a.csv", "text,id,text,label\na,1,b,x\n", "a.csv has 2 columns 'text': give each a name of its own"),
        ("a.jsonl", '{"text": "a", "label": 1}\n\n{"text": \n', "line 3 of .*a.jsonl is no JSON"),
        ("a.jsonl", '{"text": "a", "label": 1}\n[1]\n', "line 2 of .*a.jsonl must be an object"),
        ("a.json", '[{"text": "a",\n "label": }]', "line 2 of .*a.json is no JSON"),
        ("a.json", '{"text": ["a"]}', "must hold a list of objects"),
        ("a.parquet", "none", "a.parquet cannot be read"),
        ("a.docx", "none", "is of no kind that is read: give one of .csv"),
    ],
)
def test_a_file_that_cannot_be_read_says_where(name, content, match, tmp_path):
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, match)


def test_a_file_in_another_encoding_says_where(tmp_path):
    (tmp_path / "a.csv").write_bytes("text,label\nfine,x\ncafé,y\n".encode("latin-1"))
    refused(tmp_path / "a.csv", "line 3 of .*a.csv is no UTF-8")


def test_texts_longer_than_the_csv_module_takes(tmp_path):
    rows = table()
    rows[0]["text"] = "long " * 50_000
    assert rows[0]["text"] in read_texts(as_csv(tmp_path, rows)).texts


def test_what_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    refused(tmp_path / "none.csv", "there is no file or folder")
    refused(tmp_path / "none", "there is no file or folder")
    refused(tmp_path, "must hold a folder for each class")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    refused("nobody/nothing", "cannot be reached from here, if that is a data set on the hub")


def test_without_datasets_the_extra_is_named(monkeypatch):
    real = builtins.__import__
    monkeypatch.setattr(
        "ntps_lightning.prescreening.columns.import_module",
        lambda name: (_ for _ in ()).throw(ImportError(name)) if name == "datasets" else real(name),
    )
    refused("nobody/nothing", r'pip install "ntps-lightning\[prescreen\]"')


def test_splits_are_named():
    both = datasets.DatasetDict(
        {"train": datasets.Dataset.from_list(table()), "test": datasets.Dataset.from_list(table())}
    )
    refused(both, r"the keys \['test', 'train'\]: give one split of it")
    refused(7, "got a int")


def test_numbers_are_targets_only_where_that_is_said(tmp_path):
    rows = [{"text": row["text"], "label": i / 8} for i, row in enumerate(table())]
    for source in (rows, as_csv(tmp_path, rows), pd.DataFrame(rows)):
        refused(source, "a number with a fraction: say that labels are targets with regression=True")
        found = read_texts(source, regression=True)
        assert found.labels == tuple(row["label"] for row in rows)
        assert found.class_names == ()
    missing = [{**row, "label": -100 if i < 2 else i} for i, row in enumerate(rows)]
    assert read_texts(missing, regression=True).labels[:3] == (-100.0, -100.0, 2.0)
    rows[7]["label"] = "good"
    refused(as_csv(tmp_path, rows), "label of line 16 of .*set.csv is 'good'", regression=True)
    rows[7]["label"] = float("inf")
    refused(rows, "label of row 7 of data is inf", regression=True)
    refused([{**row, "label": 2} for row in rows], "all 40 labels are 2", regression=True)


def test_integers_are_classes_in_the_order_of_their_size():
    rows = [{"text": row["text"], "label": float(i % 12)} for i, row in enumerate(table(60))]
    frame = pd.DataFrame(rows)
    frame.loc[5, "label"] = float("nan")
    found = read_texts(frame)
    assert found.class_names == tuple(map(str, range(12)))
    assert found.remarks == ("1 of 60 rows have no label and are left out",)


def test_empty_texts_and_missing_labels_are_counted():
    rows = [*table(), {"text": " \n", "label": "sport"}, {"text": None, "label": "sport"}, {"text": "x", "label": ""}]
    found = read_texts(rows)
    assert len(found) == 40
    assert found.remarks == (
        "2 of 43 texts are empty and are left out",
        "1 of 43 rows have no label and are left out",
    )
    assert len(read_texts([*table(), {"text": "\u2003\u200b\x00", "label": "sport"}])) == 40, "nothing to be seen"
    half = [*table(), {"text": "cut \ud83d", "label": "sport"}]
    refused(half, "the text of row 40 of data holds half of a surrogate pair")
    refused([{"text": 3, "label": 1}] * 30, "the text of row 0 of data is a int")
    refused([{"text": "", "label": 1}] * 30, "none of the 30 rows of data has both")
    refused([], "data is empty")


def test_classes_of_one_text_are_left_out():
    rows = [*table(), {"text": "alone", "label": "rare"}]
    found = read_texts(rows)
    assert found.class_names == ("money", "sport")
    assert found.remarks == ("1 of 3 classes have a single text and are left out: 'rare'",)
    refused([{"text": row["text"], "label": i} for i, row in enumerate(table())], "40 of which have a single text")
    refused(
        [{"text": row["text"], "label": "one"} for row in table()], "the 40 texts of data are all of one class, 'one'"
    )


def test_copies_are_counted_and_label_errors_are_shown():
    rows = [*table(), *table(3), {"text": table()[0]["text"], "label": "money"}]
    copies, errors = read_texts(rows).remarks
    assert copies.startswith("4 of 44 texts are copies of others")
    assert errors.startswith("1 texts stand under several classes")
    assert "is 'money' and 'sport'" in errors


def test_copies_may_differ_in_white_space():
    rows = [*table(), {"text": f"  {table()[0]['text']} ".replace(" ", "\t"), "label": "money"}]
    found = read_texts(rows)
    assert found.groups[40] == found.groups[0]
    assert [remark[:2] for remark in found.remarks] == ["1 ", "1 "]


def test_a_limit_chooses_by_the_texts_alone():
    rows = table(200)
    chosen = read_texts(rows, limit=50)
    assert chosen.data_id == read_texts(rows[::-1], limit=50).data_id
    assert len(chosen) == 50
    assert set(chosen.texts) != {row["text"] for row in rows[:50]}
    assert set(chosen.texts) != set(read_texts(rows, limit=50, seed=1).texts)
    assert set(chosen.texts) < set(read_texts(rows, limit=100).texts)
    assert chosen.remarks == ("50 of 200 texts were chosen by a hash of each (limit=50, seed=0)",)
    refused(rows, "limit must be a number of texts", limit=3)


def test_groups_are_the_users_or_one_of_a_text_and_its_copies():
    rows = [{**row, "author": i // 3} for i, row in enumerate(table())]
    assert read_texts(rows, group="author").groups == tuple(f"group {i // 3}" for i in range(40))
    assert len(set(read_texts([*rows, *rows]).groups)) == 40
    rows[0]["text"] = rows[39]["text"]
    assert "1 texts stand in several groups" in read_texts(rows, group="author").remarks[-1]


def test_too_few_to_read_held_out_are_refused_at_once():
    refused(table(12), "data has 12 different texts with one label each, at least 20 are needed")
    refused([{**row, "author": i % 4} for i, row in enumerate(table())], "of 4 groups", group="author")
    refused([*table(), *[{"text": "again", "label": "sport"}] * 50], "more than half of the 90 texts of data")


def test_data_are_told_apart_by_their_content():
    rows = table()
    plain = read_texts(rows).data_id
    other = [*rows[:-1], {**rows[-1], "label": "sport"}]
    assert plain != read_texts(other).data_id
    assert plain != read_texts([{**row, "author": i // 3} for i, row in enumerate(rows)], group="author").data_id
    assert plain == read_texts(rows, name="another").data_id


def test_an_id_of_the_hub_is_its_split_train_with_the_names_of_classes(monkeypatch):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["bad", "good"])}
    )
    columns = {"text": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]}
    asked = []

    def load(name, split):
        asked.append((name, split))
        return datasets.Dataset.from_dict(columns, features=features)

    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr("ntps_lightning.prescreening.sources.why_unreachable", lambda: "")
    found = read_texts("some/reviews")
    assert asked == [("some/reviews", "train")]
    assert (found.name, found.class_names) == ("some/reviews", ("bad", "good"))
    assert found.labels == tuple(columns["label"])
