"""The README's Python runs as it stands there, in a folder of its own."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import LightningDataModule

from ntps_lightning.watch.names import logged_keys
from tests.support import ROOT
from tests.support.models import LoraModule, loader

README = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


class Data(LightningDataModule):
    def train_dataloader(self):
        return loader()

    def val_dataloader(self):
        return loader(60, seed=1)


def test_there_are_snippets():
    assert len(SNIPPETS) == 7


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda snippet: snippet.strip().splitlines()[-1][:40])
def test_snippet_runs(snippet, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = LoraModule()
    names: dict[str, Any] = {
        "my_existing_module": module,
        "datamodule": Data(),
        "model": module.model,
        "batches": list(loader()),
    }
    exec(compile(snippet, "README.md", "exec"), names)
    if "trainer" in names:
        assert "ntps/score" in names["trainer"].callback_metrics
        assert list(Path("logs").rglob("events.out.tfevents.*"))


def test_every_promise_names_a_test_that_is_there():
    promises = README.partition("It is a guest in your run")[2].partition("With matplotlib installed")[0]
    named = re.findall(r"`(tests/[\w/]+\.py)`", promises)
    assert len(named) >= 10
    assert all((ROOT / name).exists() for name in named)
    assert all("tests/" in line for line in re.split(r"\n- ", promises)[1:])


def test_every_logged_key_is_in_the_readme():
    assert all(f"`{key}`" in README for key in logged_keys("ntps", [1], gain=True, held_out=True))
