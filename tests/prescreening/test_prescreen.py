"""The whole: models on data sets, what is kept on disk, and what goes wrong."""

from __future__ import annotations

import json
import warnings
from contextlib import contextmanager
from importlib.metadata import version

import pytest
from tokenizers import normalizers

from ntps_lightning import prescreen
from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.prescreening.forward import measure_layers
from ntps_lightning.prescreening.result import Prescreen
from tests.prescreening.tiny import (
    adapters_folder,
    bert_folder,
    gpt2,
    letter_tokenizer,
    llama,
    llama_folder,
    rows,
    word_tokenizer,
)

MEASURE = "ntps_lightning.prescreening.prescreen.measure_layers"


@pytest.fixture
def passes(monkeypatch):
    """Names of the sets that a model was run over."""
    seen = []

    def counted(model, tokenizer, texts, **options):
        seen.append(texts.name)
        return measure_layers(model, tokenizer, texts, **options)

    monkeypatch.setattr(MEASURE, counted)
    return seen


@pytest.fixture
def folders(tmp_path):
    base = llama_folder(tmp_path / "base")
    return [str(base), str(adapters_folder(tmp_path / "adapters", base))]


def csv_file(tmp_path, name, seed=0):
    lines = [f"{row['text']},{row['label']}" for row in rows(90, seed)]
    (tmp_path / name).write_text("\n".join(["text,label", *lines]))
    return str(tmp_path / name)


def test_models_on_data_sets(folders, tmp_path, passes):
    data = {"first": csv_file(tmp_path, "a.csv"), "second": csv_file(tmp_path, "b.csv", 1)}
    result = prescreen(folders, data, cache=tmp_path / "cache", layers=[0, -1])
    assert [(each.model, each.data) for each in result.measured] == [(f, d) for f in folders for d in data]
    assert passes == ["first", "second"] * 2
    assert all(len(each.layers) == 2 and each.num_samples == 90 for each in result.measured)
    assert result.measured[0].class_names == ("kitchen", "money", "sport")
    base, adapted = (result.of(folder, "first").layers[1].probe_r2 for folder in folders)
    assert adapted.minus(base).value == adapted.value - base.value != 0
    assert result.settings["max_length"] == 512
    assert "torch" in result.versions
    assert result.remarks == ()


def test_a_rerun_makes_no_pass_and_says_the_same(folders, tmp_path, passes):
    data = csv_file(tmp_path, "a.csv")
    first = prescreen(folders, data, cache=tmp_path / "cache")
    again = prescreen(folders, data, cache=tmp_path / "cache")
    assert passes == [data] * 2
    assert again.to_json() == first.to_json()


def test_a_new_set_costs_only_itself_and_names_are_free(folders, tmp_path, passes):
    data = csv_file(tmp_path, "a.csv")
    prescreen(folders[0], data, cache=tmp_path / "cache")
    more = {"renamed": data, "new": csv_file(tmp_path, "b.csv", 1)}
    result = prescreen({"model": folders[0]}, more, cache=tmp_path / "cache")
    assert passes == [data, "new"]
    assert [(each.model, each.data) for each in result.measured] == [("model", "renamed"), ("model", "new")]


@pytest.mark.parametrize("change", [{"layers": -1}, {"max_length": 9}, {"dtype": "float64"}, {"limit": 60}])
def test_other_settings_are_measured_anew(change, folders, tmp_path, passes):
    data = csv_file(tmp_path, "a.csv")
    prescreen(folders[0], data, cache=tmp_path / "cache")
    prescreen(folders[0], data, cache=tmp_path / "cache", **change)
    assert len(passes) == 2


def test_a_model_in_memory_is_kept_only_where_a_folder_is_named(tmp_path, passes, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    pair = (llama(), word_tokenizer())
    for _ in range(2):
        prescreen(pair, rows(), layers=-1)
    assert len(passes) == 2
    assert not (tmp_path / "home").exists()
    for _ in range(2):
        prescreen(pair, rows(), layers=-1, cache=tmp_path / "cache")
    assert len(passes) == 3


def test_another_tokenizer_is_measured_anew(folders, tmp_path, passes):
    data = csv_file(tmp_path, "a.csv")
    other = word_tokenizer()
    other.backend_tokenizer.normalizer = normalizers.Replace("oven", "soup")
    for tokenizer in (
        word_tokenizer(),
        other,
        lambda text, **options: {"input_ids": [ord(each) % 40 for each in text[:60]]},
    ):
        prescreen((llama(), tokenizer), rows(), layers=-1, cache=tmp_path / "cache")
    assert len(passes) == 3
    for tokenizer in (word_tokenizer(), other):
        tokenizer.save_pretrained(folders[0])
        prescreen(folders[0], data, layers=-1, cache=tmp_path / "cache")
    assert len(passes) == 5


@pytest.mark.parametrize("package", ["torch", "transformers", "ntps-lightning"])
def test_other_versions_are_measured_anew(package, folders, tmp_path, passes, monkeypatch):
    data = csv_file(tmp_path, "a.csv")
    prescreen(folders[0], data, layers=-1, cache=tmp_path)
    monkeypatch.setattr(
        "ntps_lightning.prescreening.prescreen.version", lambda name: "0.1" if name == package else version(name)
    )
    (measured,) = prescreen(folders[0], data, layers=-1, cache=tmp_path).measured
    assert len(passes) == 2
    assert measured.versions[package] == "0.1"


def test_where_it_was_measured_is_kept(folders, tmp_path):
    data = csv_file(tmp_path, "a.csv")
    for _ in range(2):
        result = prescreen(folders[0], data, layers=-1, cache=tmp_path / "cache")
        assert (result.measured[0].device, result.settings["device"]) == ("cpu", "cpu")
        assert result.measured[0].versions == result.versions


@pytest.mark.parametrize("damage", ["{", '{"key": 1}', '{"measured": {}}', "[]", ""])
def test_a_damaged_file_is_named_and_made_anew(damage, folders, tmp_path, passes):
    data = csv_file(tmp_path, "a.csv")
    first = prescreen(folders[0], data, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").iterdir()
    kept = file.read_text()
    file.write_text(damage)
    with pytest.warns(UserWarning, match=rf"{file} is (damaged|of another measurement)"):
        again = prescreen(folders[0], data, cache=tmp_path / "cache")
    assert len(passes) == 2
    assert str(file) in again.remarks[0]
    assert again.measured[0].layers[0].score == first.measured[0].layers[0].score
    assert json.loads(file.read_text())["key"] == json.loads(kept)["key"]


def test_a_full_disk_costs_a_remark(folders, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ntps_lightning.prescreening.whole_file.os.replace", full)
    with pytest.warns(UserWarning, match="cannot be written"):
        result = prescreen(folders[0], csv_file(tmp_path, "a.csv"), cache=tmp_path / "cache")
    assert len(result.measured) == 1
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_was_measured_stays_when_a_run_is_broken_off(folders, tmp_path, passes, monkeypatch):
    data = {"first": csv_file(tmp_path, "a.csv"), "second": csv_file(tmp_path, "b.csv", 1)}

    def broken(model, tokenizer, texts, **options):
        if texts.name == "second":
            raise KeyboardInterrupt
        passes.append(texts.name)
        return measure_layers(model, tokenizer, texts, **options)

    with monkeypatch.context() as patch:
        patch.setattr(MEASURE, broken)
        with pytest.raises(KeyboardInterrupt):
            prescreen(folders[0], data, cache=tmp_path / "cache")
    prescreen(folders[0], data, cache=tmp_path / "cache")
    assert passes == ["first", "second"]


def test_the_users_cache_is_where_the_variable_says(folders, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    prescreen(folders[0], csv_file(tmp_path, "a.csv"), layers=-1)
    assert len(list((tmp_path / "home" / "ntps_lightning" / "prescreen").iterdir())) == 1


def test_the_same_bits_each_time(tmp_path):
    pairs = {"a": (llama(), word_tokenizer()), "b": (gpt2(), letter_tokenizer())}
    first, second = (prescreen(pairs, rows(100), cache=tmp_path / name, limit=80, seed=3) for name in "xy")
    plain = [[each.layers[1].probe_r2.own.tolist() for each in result.measured] for result in (first, second)]
    assert plain[0] == plain[1]


def test_a_model_that_fails_costs_a_remark(folders, tmp_path, passes):
    bert = str(bert_folder(tmp_path / "bert"))
    data = csv_file(tmp_path, "a.csv")
    with pytest.warns(UserWarning, match="not measured: .*bert on .*a.csv: BertModel looks ahead"):
        result = prescreen([bert, folders[0]], data, cache=tmp_path / "cache")
    assert [each.model for each in result.measured] == [folders[0]]
    assert "looks ahead" in result.remarks[0]
    assert "allow_bidirectional" not in result.remarks[0]
    assert result.remarks[0].endswith("decoder-only language model")


def test_the_error_of_the_only_model_is_raised_and_not_warned_of(tmp_path):
    bert, other = (str(bert_folder(tmp_path / name)) for name in ("bert", "other"))
    data = csv_file(tmp_path, "a.csv")
    with warnings.catch_warnings(), pytest.raises(SetupError, match="looks ahead"):
        warnings.simplefilter("error")
        prescreen(bert, data, cache=tmp_path / "cache")
    with pytest.warns(UserWarning, match="not measured: .*other on") as told, pytest.raises(SetupError, match="ahead"):
        prescreen([bert, other], data, cache=tmp_path / "cache")
    assert len([each for each in told if "not measured" in str(each.message)]) == 1


@pytest.mark.parametrize("error", [KeyError("x"), AttributeError("no such"), OSError("gone")])
def test_whatever_a_pass_raises_costs_one_measurement(error, folders, tmp_path, monkeypatch):
    def broken(model, tokenizer, texts, **options):
        if texts.name == "second":
            raise error
        return measure_layers(model, tokenizer, texts, **options)

    monkeypatch.setattr(MEASURE, broken)
    data = {"second": csv_file(tmp_path, "b.csv", 1), "first": csv_file(tmp_path, "a.csv")}
    with pytest.warns(UserWarning, match="not measured: .*base on second"):
        result = prescreen(folders[0], data, cache=tmp_path / "cache", layers=-1)
    assert result.data == ("first",)
    with pytest.raises(SetupError, match="no model could be measured"):
        prescreen(folders[0], {"second": data["second"]}, cache=tmp_path / "cache", layers=-1)


def test_a_cache_that_is_a_file_is_refused_at_once(folders, tmp_path):
    data = csv_file(tmp_path, "a.csv")
    with pytest.raises(SetupError, match=r"cache must be a folder, .*a\.csv is a file"):
        prescreen(folders[0], data, cache=data)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"data": "none.csv"}, "there is no file"),
        ({"models": "./none"}, "there is no folder"),
        ({"models": []}, "models holds no model"),
        ({"data": {}}, "data holds no set"),
        ({"layers": "last"}, "layers must be"),
        ({"layers": []}, "layers must be"),
        ({"layers": True}, "layers must be"),
        ({"layers": [0, 77]}, r"layers must be all or indices in \[-3, 2\] for .*base, got 77"),
        ({"models": None}, "models are paths, ids on the hub or pairs .*; got a NoneType"),
        ({"data": {"text": ["a"], "label": [1]}}, r"data is a mapping of the columns \['label', 'text'\]"),
        ({"max_length": 0}, "max_length must be"),
        ({"dtype": "int8"}, "dtype must be one of auto"),
        ({"device": "mps"}, "mps has no float64"),
        ({"device": "cuda:7"}, "there is no device cuda:7"),
        ({"device": "abacus"}, "device must be such as"),
        ({"limit": 3}, "limit must be"),
        ({"label": "topic"}, "has no column 'topic'; it has 'text', 'label'"),
    ],
)
def test_what_is_wrong_is_said_before_a_model_is_loaded(options, match, folders, tmp_path, monkeypatch):
    def load(*args):
        raise AssertionError("a model was loaded")

    monkeypatch.setattr("ntps_lightning.prescreening.models.load_model", load)
    given = {"models": folders[0], "data": csv_file(tmp_path, "a.csv"), "cache": tmp_path / "cache"} | options
    with pytest.raises(SetupError, match=match):
        prescreen(**given)
    assert not (tmp_path / "cache").exists()


def test_names_tell_models_apart(tmp_path):
    pair = (llama(), word_tokenizer())
    with pytest.raises(SetupError, match="two models are called 'LlamaForCausalLM'"):
        prescreen([pair, pair], rows())
    with pytest.raises(SetupError, match="is in memory, and is measured where and as it is"):
        prescreen(pair, rows(), dtype="float32")


def test_paths_name_data_sets(tmp_path):
    pair, paths = (llama(), word_tokenizer()), [csv_file(tmp_path, "a.csv"), csv_file(tmp_path, "b.csv", 1)]
    assert prescreen(pair, paths, cache=tmp_path / "cache", layers=-1).data == tuple(paths)
    with pytest.raises(SetupError, match="two data sets are called"):
        prescreen(pair, paths[:1] * 2, cache=tmp_path / "cache")


def test_what_went_wrong_is_saved_too(folders, tmp_path):
    models = [str(bert_folder(tmp_path / "bert")), folders[0]]
    with pytest.warns(UserWarning, match="not measured"):
        result = prescreen(models, csv_file(tmp_path, "a.csv"), cache=tmp_path / "cache", layers=-1)
    result.save(tmp_path / "result.json")
    assert Prescreen.load(tmp_path / "result.json").remarks == result.remarks
    assert len(result.remarks) == 1


def test_remarks_of_the_data_stand_with_what_was_measured(tmp_path):
    data = [*rows(100), {"text": "", "label": "sport"}]
    (each,) = prescreen((llama(), word_tokenizer()), data, cache=tmp_path, layers=-1, max_length=8).measured
    assert each.remarks[0] == "1 of 101 texts are empty and are left out"
    assert "longer than 8 tokens" in each.remarks[1]


def test_a_long_error_ends_at_a_word():
    said = first_line(ValueError("sentence " * 40 + "\nand a second line"))
    assert said.endswith("sentence …")
    assert len(said) <= 202
    assert first_line(ValueError("short\nsecond")) == "short"
    assert first_line(ValueError("x" * 300)) == "x" * 200 + " …"


def test_the_progress_names_the_model_and_the_set(tmp_path, monkeypatch):
    seen = []

    @contextmanager
    def noted(what, total):
        seen.append(what)
        yield lambda tokens: None

    monkeypatch.setattr("ntps_lightning.prescreening.forward.shown", noted)
    prescreen({"mine": (llama(), word_tokenizer())}, {"topics": rows()}, layers=-1)
    assert seen == ["mine on topics"]


def test_the_name_is_a_function_whatever_was_imported_before():
    import ntps_lightning.prescreening.prescreen

    assert callable(ntps_lightning.prescreen)
    with warnings.catch_warnings():
        assert "prescreen" in dir(ntps_lightning)
