"""The command as a stranger meets it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from transformers import LlamaConfig

import ntps_lightning.command.small_model as small_model
from examples.offline import smollm2
from ntps_lightning.command import loggers
from ntps_lightning.command.main import main
from ntps_lightning.figures import log_figure
from tests.support.models import tiny_config


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Exit code, text and JSON of the command, where all packages are as they should be and memory is."""
    monkeypatch.setattr("ntps_lightning.command.doctor.problems_of", lambda packages: [])
    for module in ("memory", "command.devices"):
        monkeypatch.setattr(f"ntps_lightning.{module}.available_bytes", lambda device: 8 * 2**30)

    def run(*arguments):
        code = main(["doctor", *arguments])
        text = capsys.readouterr().out
        assert main(["doctor", *arguments, "--json"]) == code
        return code, text, json.loads(capsys.readouterr().out)

    return run


def saved(config, folder, **changes):
    """The folder of a configuration, with what is changed in its file."""
    config.save_pretrained(folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return str(folder)


def test_a_real_model(doctor):
    code, text, facts = doctor("--model", smollm2())
    assert code == 0
    assert text.rstrip().endswith("All fine.")
    assert '31: 0 (the embeddings) to 30 (after the final norm); layers="all" takes them all' in text
    model = facts["model"]
    assert (model["name"], model["supported"], model["layers"]) == ("LlamaForCausalLM", True, 31)
    assert (model["hidden_size"], model["k"], model["samples"]) == (576, 6, 10 * 576)
    assert 3 * 576**2 * 8 <= model["cost"]["sums_bytes"] < 1.01 * 3 * 576**2 * 8


def test_json_holds_what_the_text_says(doctor, tmp_path):
    _, text, facts = doctor("--model", saved(tiny_config(), tmp_path))
    for package in facts["packages"]:
        (line,) = [line for line in text.splitlines() if line.startswith(f"  {package['name']} ")]
        assert all(part in line for part in (package["installed"] or "-", package["status"], package["mend"]))
    assert all(f"  {logger['name']} " in text for logger in facts["loggers"])
    (cpu,) = facts["devices"]
    assert f"  cpu  {cpu['what']}  8.0 GiB free" in text
    assert ", ".join(cpu["dtypes"]) in text
    model = facts["model"]
    (room,) = model["cost"]["rooms"]
    assert f"for {room['layers']} layers beside the model, {room['with_baseline']} while a baseline" in text
    assert all(str(model[name]) in text for name in ("given", "seen", "layers", "hidden_size", "k", "samples"))


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "it is empty): name a folder that save_pretrained wrote, or a hub id"),
        ({"model.gguf": "x", "a.txt": ""}, "(it holds a.txt, model.gguf)"),
        ({"config.json": "{"}, "config.json cannot be read (Expecting property name"),
        ({"config.json": "[]"}, "config.json holds no JSON object"),
        ({"config.json": "{}"}, "knows no model_type 'None': pip install -U transformers"),
        ({"config.json": '{"model_type": "llama", "hidden_size": "wide"}'}, "makes no model of config.json"),
        ({"adapter_config.json": '{"peft_type": "LORA"}'}, "names no base_model_name_or_path"),
        ({"adapter_config.json": '{"peft_type": "NEW"}'}, "knows no adapters of type 'NEW': pip install -U peft"),
    ],
)
def test_folders_without_a_model(doctor, tmp_path, files, said):
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    code, text, facts = doctor("--model", str(tmp_path))
    (problem,) = facts["problems"]
    assert code == 1
    assert facts["model"]["supported"] is None
    assert said in problem
    assert f"  - {problem}\n" in text
    assert "\n" not in problem


def test_names_that_are_nothing(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "file").write_text("")
    for given, said in {
        "no/such/folder": "there is no folder no/such/folder: name one",
        "nobody/nothing": "cannot be reached from here, if that is a hub id",
        str(tmp_path / "file"): "is a file: name the folder",
    }.items():
        code, _, facts = doctor("--model", given)
        assert (code, said in facts["problems"][0]) == (1, True)


def test_code_of_the_folder_is_never_run(doctor, tmp_path):
    trap = tmp_path / "trap.py"
    trap.write_text(f"open({str(tmp_path / 'sprung')!r}, 'w')\n")
    own = {"AutoConfig": "trap.Config", "AutoModelForCausalLM": "trap.Model"}
    code, _, facts = doctor("--model", saved(tiny_config(), tmp_path, model_type="of_my_own", auto_map=own))
    assert (code, facts["model"]["supported"]) == (1, None)
    assert "(trust_remote_code), which is not run: whether it can be scored is not known here" in facts["problems"][0]
    code, text, facts = doctor("--model", saved(tiny_config(), tmp_path, auto_map=own))
    assert (code, facts["model"]["supported"]) == (0, True)
    assert "which was not run; this is of transformers'" in text
    assert not (tmp_path / "sprung").exists()


def test_a_large_model_is_tried_in_one_block(doctor, tmp_path, monkeypatch):
    made = []
    build = small_model._random

    def kept(*given):
        made.append(build(*given))
        return made[-1]

    monkeypatch.setattr(small_model, "_random", kept)
    sizes = {"hidden_size": 1024, "num_attention_heads": 16, "intermediate_size": 40_000}
    config = LlamaConfig(**sizes, num_hidden_layers=80, vocab_size=200_000, pad_token_id=199_999)
    code, text, facts = doctor("--model", saved(config, tmp_path))
    assert (code, facts["model"]["layers"], facts["model"]["hidden_size"]) == (0, 81, 1024)
    assert "states of block 0 of 80, with random weights in float32, do not depend on later tokens" in text
    assert all(sum(weight.numel() for weight in model.parameters()) < 5e6 for model in made)
    assert {weight.dtype for model in made for weight in model.parameters()} == {torch.float32}


def test_what_cannot_be_tried_is_not_called_fine(doctor, tmp_path, monkeypatch):
    monkeypatch.setattr(small_model, "_MOST_NUMBERS", 10)
    code, text, facts = doctor("--model", saved(tiny_config(), tmp_path))
    assert (code, facts["model"]["supported"], facts["model"]["layers"]) == (1, None, 3)
    assert "whether LlamaModel looks ahead could not be tried without its weights (1 of its blocks take" in text
    assert "the callback tries it at its start" in text


def test_loggers_and_figures(monkeypatch):
    here = {"wandb": "1", "mlflow-skinny": "2", "matplotlib": "3"}
    monkeypatch.setattr(loggers, "installed_version", here.get)
    found = {logger.name: logger for logger in loggers.find_loggers()}
    assert {name: (logger.usable, logger.figures) for name, logger in found.items()} == {
        "csv": (True, False),
        "tensorboard": (False, False),
        "wandb": (True, True),
        "mlflow": (True, True),
    }
    assert found["tensorboard"].mend == "pip install tensorboard"
    del here["matplotlib"]
    assert not any(logger.figures for logger in loggers.find_loggers())
    assert {logger.mend for logger in loggers.find_loggers() if logger.name == "wandb"} == {"pip install matplotlib"}


@pytest.mark.slow
def test_loggers_take_the_figures_that_they_are_said_to(tmp_path, monkeypatch):
    from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
    from matplotlib.figure import Figure

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("WANDB_SILENT", "true")
    wandb = WandbLogger(save_dir=tmp_path, offline=True)
    made = {
        "csv": CSVLogger(tmp_path),
        "tensorboard": TensorBoardLogger(tmp_path),
        "wandb": wandb,
        "mlflow": MLFlowLogger(tracking_uri=f"file:{tmp_path}/mlruns"),
    }
    takes = {name: log_figure(logger, "picture", Figure(), 0) for name, logger in made.items()}
    wandb.experiment.finish()
    assert takes == {name: figures for name, (_, figures) in loggers.LOGGERS.items()}


def test_without_arguments_the_commands_are_shown():
    run = subprocess.run(
        [sys.executable, "-m", "ntps_lightning"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "doctor" in run.stdout


def test_bad_usage_is_2(capsys):
    for arguments in (["surgeon"], ["doctor", "--weights"], ["doctor", "--model"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
    assert capsys.readouterr().out == ""


def test_old_packages_are_exit_code_1(monkeypatch, capsys):
    monkeypatch.setattr("ntps_lightning.command.doctor.problems_of", lambda packages: ["torch 1.0 is too old"])
    assert main(["doctor"]) == 1
    assert "1 thing to mend:\n  - torch 1.0 is too old" in capsys.readouterr().out
