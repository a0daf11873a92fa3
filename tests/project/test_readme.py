"""The Python of the README and of docs/ runs as it stands there, in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
from lightning.pytorch import LightningDataModule
from lightning.pytorch.cli import LightningCLI
from transformers import LlamaForCausalLM

from ntps_lightning import NTPSCallback
from ntps_lightning.watch.names import logged_keys
from ntps_lightning.watch.settings import Settings
from tests.support import ROOT
from tests.support.models import LoraModule, Padding, loader, samples, tiny_config

CALLBACK = (ROOT / "docs" / "CALLBACK.md").read_text()
CONFIGURATIONS = re.findall(r"```yaml\n(.*?)```", CALLBACK, flags=re.DOTALL)
SNIPPETS = [
    pytest.param(snippet, id=f"{name}: {snippet.strip().splitlines()[-1][:40]}")
    for name in ("README.md", "docs/CALLBACK.md", "docs/LOOPS.md")
    for snippet in re.findall(r"```python\n(.*?)```", (ROOT / name).read_text(), flags=re.DOTALL)
]


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(60, seed=1)


def test_there_are_snippets():
    assert len(SNIPPETS) == 8


def names_for(snippet: str) -> dict[str, Any]:
    """What a snippet takes for granted."""
    if "SFTTrainer" in snippet:
        from tests.huggingface.test_trl import instructions, side_set, trl, word_level_tokenizer

        words = word_level_tokenizer()
        rows = side_set()
        model = LlamaForCausalLM(tiny_config(pad_token_id=1, eos_token_id=2))
        columns = {"reviews": [row["text"] for row in rows], "stars": [row["label"] for row in rows]}
        config = trl.SFTConfig("out", bf16=False, use_cpu=True, report_to=[])
        return {"model": model, "config": config, "tokenizer": words, "instructions": instructions(), **columns}
    module = LoraModule()
    names = {"my_existing_module": module, "datamodule": Data(), "model": module.model, "batches": list(loader())}
    return names | {"train": samples(90), "evaluation": samples(60, seed=1), "collator": Padding()}


@pytest.mark.parametrize("snippet", SNIPPETS)
@pytest.mark.filterwarnings("ignore:'pin_memory' argument", "ignore:`gradient_checkpointing` is deprecated")
def test_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, off in (("DISABLE_MLFLOW_INTEGRATION", "TRUE"), ("WANDB_MODE", "disabled")):
        monkeypatch.setenv(name, off)  # transformers 4 reports to all that is installed
    names = names_for(snippet)
    exec(compile(snippet, "snippet", "exec"), names)
    trainer = names.get("trainer")
    if isinstance(trainer, pl.Trainer):
        assert "ntps/score" in trainer.callback_metrics
        assert list(Path("logs").rglob("events.out.tfevents.*"))
    elif trainer is not None:
        assert any("eval_ntps/score" in row for row in trainer.state.log_history)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # datasets 5.0 leaves a CSV file to be collected
def test_lightning_cli_builds_the_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    (configuration,) = CONFIGURATIONS
    Path("config.yaml").write_text(configuration)
    Path("reviews.csv").write_text("text,label\nso good,praise\nso bad,blame\n")
    arguments = ["--config", "config.yaml", "--trainer.accelerator=cpu", "--trainer.logger=false"]
    cli = LightningCLI(LoraModule, Data, args=arguments, run=False)
    first, second = (each for each in vars(cli.trainer)["callbacks"] if isinstance(each, NTPSCallback))
    assert first.settings == Settings(layers=[8, -1], groups="article")
    assert second.settings == Settings(prefix="reviews", labels="label")


def test_every_promise_names_a_test_that_is_there():
    promises = CALLBACK.partition("## A guest in your run")[2]
    named = re.findall(r"`(tests/[\w/]+\.py)`", promises)
    assert len(named) >= 10
    assert all((ROOT / name).exists() for name in named)
    assert all("tests/" in line for line in re.split(r"\n- ", promises)[1:])


def test_every_logged_key_is_explained():
    assert all(f"`{key}`" in CALLBACK for key in logged_keys("ntps", [1], gain=True, held_out=True))
