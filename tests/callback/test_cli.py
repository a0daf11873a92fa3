"""LightningCLI and jsonargparse: what a configuration file says of NTPS, and what they say of a wrong one."""

from __future__ import annotations

import csv
import inspect
import re
from dataclasses import asdict, fields
from typing import Any

import lightning.pytorch as pl
import pytest
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch.cli import LightningCLI
from torch import Tensor
from torch.utils.data import Dataset

from ntps_lightning import NTPSCallback, NTPSMonitor, ScoreOptions
from ntps_lightning.watch.settings import Settings, SettingsKeywords
from tests.huggingface.test_trl import side_set, word_level_tokenizer
from tests.support.models import LAYERS, LoraModule, loader, make_trainer, samples

# Of each option a value that is not its default, and one that is none.
OPTIONS: dict[str, tuple[Any, Any]] = {
    "num_classes": (3, "three"),
    "layers": ([0, -1], "top"),
    "labels": (1, [1]),
    "attention_mask": ("mask", [1]),
    "tokens": ("supervised", [1]),
    "groups": ("article", [1]),
    "model": ("model", 3),
    "data": ([{"text": "so good", "label": "praise"}, {"text": "so bad", "label": "blame"}], 3),
    "text": ("body", [1]),
    "tokenizer": ("folder", [1]),
    "max_tokens": (512, "many"),
    "every_n_steps": (7, 0.5),
    "every_n_epochs": (2, "often"),
    "baseline": (False, "perhaps"),
    "dataloader_idx": (1, "first"),
    "prefix": ("val/ntps", 3),
    "figures": (False, "perhaps"),
    "kept": (512, 0.5),
    "controls": (True, "perhaps"),
    "on_error": ("raise", "stop"),
    "accumulate_device": ("cpu", 0.5),
    "allow_bidirectional": (True, "perhaps"),
    "k": (0.05, "few"),
    "ridge": (0.2, "small"),
    "center": (False, "perhaps"),
    "orthonormal": (True, "perhaps"),
    "pooling": ("last", "max"),
    "precision": ("high", "low"),
}
OF_A_SIDE_SET = {"data", "text", "tokenizer", "max_tokens", "every_n_steps"}
SEEDED = ("--seed_everything=0",)
QUIET = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_checkpointing": False}


class Data(pl.LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(60, seed=1)


class LabelsOf:
    """A function of the batch, as a file can name one."""

    def __init__(self, key: str) -> None:
        self.key = key

    def __call__(self, batch: dict[str, Tensor]) -> Tensor:
        return batch[self.key]


class MapStyle(Dataset):
    """Rows of a user's own, made in a file."""

    def __init__(self, seed: int = 3) -> None:
        self.rows = [{"input_ids": ids, "label": label} for ids, label in samples(60, seed)]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Any:
        return self.rows[index]


def entry(**init_args: Any) -> dict[str, Any]:
    return {"class_path": "ntps_lightning.NTPSCallback", "init_args": init_args}


def run(tmp_path: Any, *callbacks: Any, fit: bool = False, also: tuple[str, ...] = ()) -> list[NTPSCallback]:
    """What LightningCLI makes of a file with these callbacks."""
    options = {**QUIET, "default_root_dir": str(tmp_path), "max_epochs": 1, "callbacks": list(callbacks)}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"trainer": options}, sort_keys=False))
    return read(tmp_path / "config.yaml", *also, fit=fit)


def read(file: Any, *also: str, fit: bool = False) -> list[NTPSCallback]:
    arguments = [*(["fit"] if fit else []), "--config", str(file), *also]
    cli = LightningCLI(LoraModule, Data, args=arguments, save_config_callback=None, run=fit)
    return [each for each in vars(cli.trainer)["callbacks"] if isinstance(each, NTPSCallback)]


def printed(file: Any, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stopped:
        LightningCLI(LoraModule, Data, args=["--config", str(file), "--print_config"], run=False)
    assert stopped.value.code == 0
    return capsys.readouterr().out


def test_the_table_has_every_option():
    signature = set(inspect.signature(NTPSCallback.__init__).parameters) - {"self", "options"}
    assert set(OPTIONS) == signature | {each.name for each in fields(ScoreOptions)}


@pytest.mark.compatibility("Lifecycle", "LightningCLI", "built from YAML")
def test_a_run_from_yaml(tmp_path):
    stopping = {"class_path": "EarlyStopping", "init_args": {"monitor": "ntps/score", "mode": "max"}}
    (callback,) = run(tmp_path, entry(layers=[0, -1], k=0.5, labels="labels"), stopping, fit=True)
    assert callback.details[LAYERS].k == 8
    assert "ntps_layers/00/score" in callback.history[-1]


def test_help_tells_of_every_option(capsys):
    with pytest.raises(SystemExit):
        LightningCLI(LoraModule, Data, args=["--trainer.callbacks.help=ntps_lightning.NTPSCallback"], run=False)
    paragraphs = re.split(r"\n(?=  --trainer\.callbacks\.)", capsys.readouterr().out)
    told = {part.split()[0].removeprefix("--trainer.callbacks."): part.partition("\n")[2] for part in paragraphs[1:]}
    assert set(OPTIONS) <= set(told)
    for name in OPTIONS:
        meaning, _, kind = told[name].partition("(type:")
        assert len(meaning.split()) >= 5, name
        assert kind, name


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_type_is_one_error_that_names_the_option(tmp_path, capsys, name):
    with pytest.raises(SystemExit) as stopped:
        run(tmp_path, entry(**{name: OPTIONS[name][1]}))
    assert stopped.value.code == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1
    assert f'Parser key "{name}"' in said


def test_an_unknown_option_is_one_error(tmp_path, capsys):
    with pytest.raises(SystemExit):
        run(tmp_path, entry(layer=3))
    assert "Option 'layer' is not accepted" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1, or None .* got 0"),
        ({"kept": -1}, "kept must be a number of rows, or 0 for none, got -1"),
        ({"max_tokens": 0}, "max_tokens must be at least 1, got 0"),
        ({"every_n_epochs": 0}, "every_n_epochs must be at least 1, got 0"),
        ({"dataloader_idx": -1}, "dataloader_idx must be at least 0, got -1"),
        ({"prefix": ""}, "prefix .* must not be empty"),
        ({"accumulate_device": "gpu"}, "accumulate_device must be a device, such as .*, got 'gpu'"),
        ({"k": 1.5}, r"k must be a count .* or a fraction .*, got 1\.5"),
        ({"ridge": -1.0}, r"ridge must be a finite number >= 0, .*, got -1\.0"),
        ({"every_n_steps": 5}, "give it as data="),
    ],
    ids=str,
)
def test_a_value_out_of_range_is_refused_while_the_run_is_built(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        run(tmp_path, entry(**options))


@pytest.mark.parametrize("data", [False, True], ids=["validation", "side set"])
def test_a_printed_configuration_builds_the_same(tmp_path, capsys, data):
    left_out = {"dataloader_idx", "attention_mask"} if data else OF_A_SIDE_SET
    options = {name: value for name, (value, _) in OPTIONS.items() if name not in left_out}
    (first,) = run(tmp_path, entry(**options))
    text = printed(tmp_path / "config.yaml", capsys)
    (tmp_path / "printed.yaml").write_text(text)
    (again,) = read(tmp_path / "printed.yaml")
    assert again.settings == first.settings
    assert asdict(first.settings).items() >= {n: v for n, v in options.items() if n in asdict(first.settings)}.items()
    (saved,) = (each for each in yaml.safe_load(text)["trainer"]["callbacks"])
    assert saved["init_args"].items() >= options.items()
    assert printed(tmp_path / "printed.yaml", capsys) == text


def test_several_under_their_own_prefixes(tmp_path):
    first, second = run(tmp_path, entry(), entry(prefix="low", layers=0, baseline=False), fit=True)
    assert first.settings == Settings()
    assert second.settings == Settings(prefix="low", layers=0, baseline=False)
    assert first.history[-1]["ntps/score"] != second.history[-1]["low/score"]


def test_a_function_of_the_batch_is_an_object_that_a_class_makes(tmp_path):
    labels = {"class_path": "tests.callback.test_cli.LabelsOf", "init_args": {"key": "labels"}}
    by_function, by_key = run(tmp_path, entry(labels=labels), entry(prefix="b"), fit=True)
    assert isinstance(by_function.settings.labels, LabelsOf)
    assert by_function.history[-1]["ntps/score"] == by_key.history[-1]["b/score"]


def test_an_index_on_the_command_line_is_a_number(tmp_path):
    also = ("--trainer.callbacks+=ntps_lightning.NTPSCallback", "--trainer.callbacks.labels=1")
    (callback,) = run(tmp_path, also=also)
    assert callback.settings.labels == 1


def side_set_files(tmp_path: Any) -> tuple[str, str]:
    """A csv of labelled texts, and the folder of a tokenizer."""
    with (tmp_path / "texts.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), *((row["text"], row["label"]) for row in side_set())])
    word_level_tokenizer().save_pretrained(tmp_path / "tokenizer")
    return str(tmp_path / "texts.csv"), str(tmp_path / "tokenizer")


def fitted(tmp_path: Any, **options: Any) -> NTPSCallback:
    """The same run, without a file."""
    callback = NTPSCallback(**options)
    pl.seed_everything(0, verbose=False)
    make_trainer(tmp_path, max_epochs=1, callbacks=[callback]).fit(LoraModule(), Data())
    return callback


def test_a_side_set_of_a_csv_file(tmp_path):
    file, folder = side_set_files(tmp_path)
    data = {
        "class_path": "datasets.Dataset.from_csv",
        "init_args": {"path_or_paths": file, "cache_dir": str(tmp_path / "cache")},
    }
    (callback,) = run(tmp_path, entry(data=data, tokenizer=folder), fit=True, also=SEEDED)
    assert callback.history == fitted(tmp_path, data=side_set(), tokenizer=word_level_tokenizer()).history
    assert callback.class_names == ["happy", "sad"]


def test_side_sets_of_a_class_and_of_rows_by_name(tmp_path):
    inline = [dict(row) for row in MapStyle(4).rows]
    made = {"class_path": "tests.callback.test_cli.MapStyle", "init_args": {"seed": 3}}
    (callback,) = run(tmp_path, entry(data={"made": made, "inline": inline}), fit=True, also=SEEDED)
    assert list(callback.records) == ["ntps_made", "ntps_inline"]
    expected = fitted(tmp_path, data={"made": MapStyle(3), "inline": inline})
    assert {name: records.history for name, records in callback.records.items()} == {
        name: records.history for name, records in expected.records.items()
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"class_path": "datasets.Dataset.from_csv", "init_args": {"path_or_paths": "none.csv"}}, "none.csv"),
        ({"class_path": "tests.callback.test_cli.MapStyle", "init_args": {"sead": 3}}, "'sead' is not accepted"),
        ({"class_path": "builtins.int"}, "builtins.int does not correspond to"),
        ("texts.csv", "texts.csv"),
    ],
    ids=["no file", "no such argument", "no rows", "a path"],
)
def test_a_side_set_that_cannot_be_built_is_an_error_before_the_run(tmp_path, capsys, data, message):
    with pytest.raises((SystemExit, ValueError)) as stopped:
        run(tmp_path, entry(data=data))
    assert message in f"{stopped.value} {capsys.readouterr().err}"


def test_a_tokenizer_that_is_not_there_is_an_error_before_the_first_step(tmp_path):
    with pytest.raises(ValueError, match=r"tokenizer='.*nothing' is no folder with a tokenizer, nor one on the hub"):
        fitted(tmp_path, data=[{"text": "a", "label": 1}], tokenizer=str(tmp_path / "nothing"))


def test_options_as_a_dataclass_are_the_keywords():
    names = {each.name for each in fields(Settings)}
    assert names == set(SettingsKeywords.__annotations__) | {"labels"}
    assert names == set(OPTIONS) - OF_A_SIDE_SET - {"every_n_epochs", "dataloader_idx", "figures"}
    given = {name: OPTIONS[name][0] for name in names}
    settings = Settings(**given)
    assert asdict(settings) == given
    assert NTPSCallback(**asdict(settings)).settings == settings
    assert NTPSCallback().settings == Settings()
    assert settings.score == ScoreOptions(**{each.name: given[each.name] for each in fields(ScoreOptions)})


def test_a_monitor_of_a_model_in_code_and_options_in_a_file(tmp_path):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(NTPSMonitor, "monitor", skip={"model"})
    (tmp_path / "config.yaml").write_text("monitor: {layers: [0, -1], k: 3, kept: 100, accumulate_device: cpu}")
    given = parser.parse_args(["--config", str(tmp_path / "config.yaml"), "--monitor.pooling=last"])
    model = LoraModule().model
    monitor = NTPSMonitor(model, **given.monitor)
    assert monitor.layers == [0, LAYERS]
    assert monitor.options == ScoreOptions(k=3, pooling="last")
    (tmp_path / "config.yaml").write_text(parser.dump(given))
    assert parser.parse_args(["--config", str(tmp_path / "config.yaml")]).monitor == given.monitor
    with pytest.raises(Exception, match=r"monitor\.kept"):
        parser.parse_args(["--monitor.kept=half"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_classes": 0}, "num_classes must be at least 1"),
        ({"kept": -1}, "kept must be a number of rows"),
        ({"accumulate_device": "gpu"}, "accumulate_device must be a device"),
    ],
    ids=str,
)
def test_a_monitor_refuses_at_once(options, message):
    with pytest.raises(ValueError, match=message):
        NTPSMonitor(LoraModule().model, **options)
