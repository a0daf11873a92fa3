from __future__ import annotations

import os

import numpy as np
import pytest
import torch

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


def pytest_addoption(parser):
    parser.addoption("--compatibility", action="store_true", help="write COMPATIBILITY.md")
    parser.addoption("--floor", action="store_true", help="write its section of the lowest versions")
    parser.addoption("--table", action="store_true", help="print COMPATIBILITY.md's tables of the tests that ran")


def pytest_configure(config):
    written = {"all": "--compatibility", "floor": "--floor", "": "--table"}
    for write, option in written.items():
        if config.getoption(option):
            from tests.support.compatibility import Table

            config.pluginmanager.register(Table(write))
            return


@pytest.hookimpl(tryfirst=True)  # before `-m "not slow"` takes some away
def pytest_collection_modifyitems(config, items):
    config.compatibility_cases = {mark.args for item in items for mark in item.iter_markers("compatibility")}


@pytest.fixture
def rng():
    return np.random.default_rng(0)
