from __future__ import annotations

import os
import warnings

import numpy as np
import pytest
import torch

os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
torch.set_num_threads(1)  # the models are tiny: threads would only wait for each other


@pytest.fixture(autouse=True)
def _quiet_few_samples():
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "NTPS from")
        yield


@pytest.fixture
def rng():
    return np.random.default_rng(0)
