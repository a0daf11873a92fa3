"""What our products leave behind: nothing, whatever flags the process runs with."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from ntps_lightning.functional import products
from ntps_lightning.functional.accumulate import batch_moments
from ntps_lightning.functional.products import float32_products
from ntps_lightning.functional.score import score_details
from ntps_lightning.versions import matmul_settings

BACKENDS: Any = torch.backends
MATMUL = matmul_settings()
READERS = {
    "float32_matmul_precision": torch.get_float32_matmul_precision,
    "allow_tf32": lambda: torch.backends.cuda.matmul.allow_tf32,
    "cudnn": lambda: torch.backends.cudnn.allow_tf32,
    "autocast": lambda: torch.is_autocast_enabled("cpu"),
    "grad": torch.is_grad_enabled,
    "inference": torch.is_inference_mode_enabled,
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "threads": torch.get_num_threads,
    "dtype": torch.get_default_dtype,
}
if MATMUL:
    READERS |= {
        "cuda": lambda: MATMUL[0].fp32_precision,
        "cpu": lambda: MATMUL[1].fp32_precision,
        "all": lambda: BACKENDS.fp32_precision,
    }


def read():
    found = {}
    for name, reader in READERS.items():
        try:
            found[name] = reader()
        except RuntimeError:
            found[name] = "raises"
    return found


@pytest.fixture
def flags():
    """Everything as it is in a fresh process, before and after."""

    def fresh():
        if MATMUL:
            BACKENDS.fp32_precision = "none"
        torch.set_float32_matmul_precision("highest")
        for setting in MATMUL:
            setting.fp32_precision = "none"

    fresh()
    yield
    fresh()


SETTINGS = {
    "nothing": lambda: None,
    "high": lambda: torch.set_float32_matmul_precision("high"),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "allow_tf32": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
}
NEWER = {
    "cuda": lambda: setattr(MATMUL[0], "fp32_precision", "tf32"),
    "cpu": lambda: setattr(MATMUL[1], "fp32_precision", "bf16"),
    "all": lambda: setattr(BACKENDS, "fp32_precision", "tf32"),
}
has_settings = pytest.mark.skipif(not MATMUL, reason=f"torch {torch.__version__} has no fp32_precision")


@pytest.mark.parametrize("precision", ["highest", "high"])
@pytest.mark.parametrize("setting", [*SETTINGS, *(pytest.param(name, marks=has_settings) for name in NEWER)])
def test_flags_can_be_read_and_come_back(flags, setting, precision):
    (SETTINGS | NEWER)[setting]()
    before = read()
    with float32_products(torch.device("cpu"), precision):
        inside = read()
        if MATMUL:
            assert MATMUL[1].fp32_precision in ("none", "ieee")
            assert MATMUL[0].fp32_precision in (("none", "ieee") if precision == "highest" else ("tf32",))
        else:
            assert torch.get_float32_matmul_precision() == "highest"
    assert [name for name in READERS if inside[name] == "raises" != before[name]] == []
    assert read() == before


@pytest.mark.parametrize(("device", "within"), [("cpu", "highest"), ("cuda", "high")])
def test_before_there_were_settings_one_flag_is_set(flags, monkeypatch, device, within):
    monkeypatch.setattr(products, "matmul_settings", lambda: ())
    torch.set_float32_matmul_precision("medium")
    with products._flags(torch.device(device), "high"):
        assert torch.get_float32_matmul_precision() == within
    assert torch.get_float32_matmul_precision() == "medium"


@has_settings
def test_what_comes_from_a_flag_above_still_does(flags):
    BACKENDS.fp32_precision = "tf32"
    with float32_products(torch.device("cpu"), "highest"):
        pass
    BACKENDS.fp32_precision = "none"
    assert MATMUL[0].fp32_precision == "none"


@pytest.mark.parametrize("mode", ["autocast", "inference", "deterministic", "grad", "error"])
def test_modes_come_back(flags, mode):
    hidden, labels = torch.randn(8, 5, 4, requires_grad=mode == "grad"), torch.arange(8) % 2
    before = read()
    expected = batch_moments(hidden.detach(), labels).prefix_products
    with (
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=mode == "autocast"),
        torch.inference_mode(mode == "inference"),
    ):
        torch.use_deterministic_algorithms(mode == "deterministic")
        within = read()
        moments = batch_moments(hidden, labels)
        if mode == "error":
            with pytest.raises(ValueError, match="NaN"):
                batch_moments(hidden * torch.nan, labels)
        assert read() == within
        torch.use_deterministic_algorithms(False)
    assert torch.equal(moments.prefix_products, expected)
    assert not moments.prefix_products.requires_grad
    assert read() == before


def test_random_numbers_are_as_they_were():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(40, 5, 4, generator=generator)
    score_details(batch_moments(hidden, torch.arange(40) % 2), k=2)
    assert torch.equal(torch.rand(2), expected)
