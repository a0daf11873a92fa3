from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


def pytest_addoption(parser):
    parser.addoption("--compatibility", action="store_true", help="write COMPATIBILITY.md")
    parser.addoption("--table", action="store_true", help="print COMPATIBILITY.md's tables of the tests that ran")


def pytest_configure(config):
    if config.getoption("--compatibility") or config.getoption("--table"):
        from tests.support.compatibility import Table

        config.pluginmanager.register(Table(write=config.getoption("--compatibility")))


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` takes some away
def pytest_collection_modifyitems(config, items):
    config.compatibility_cases = {mark.args for item in items for mark in item.iter_markers("compatibility")}


@pytest.fixture
def rng():
    return np.random.default_rng(0)
