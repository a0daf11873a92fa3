"""The score under every precision: exact for the states that the model gives, and near those of float32.

On a machine with a GPU, ``CUDA_VISIBLE_DEVICES=0 make test-all`` runs the rest.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from transformers import BitsAndBytesConfig, LlamaForSequenceClassification

from ntps_lightning import NTPSCallback
from tests.support.models import LoraModule, Recording, loader, make_trainer, tiny_config

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU at hand")


def precision(row: str, *values: Any, marks: tuple[Any, ...] = ()) -> Any:
    note = f"the definition on the model's own states, 1e-5; within {values[-1]:g} of float32"
    return pytest.param(*values, id=row, marks=[pytest.mark.compatibility("Precision", row, note), *marks])


def check(tmp_path, module, reference, tolerance, **options):
    """The score is exact for the recorded states, and near that of the reference, the same model in float32."""
    rows = []
    for each, settings in ((module, options), (reference, {})):
        callback = NTPSCallback()
        make_trainer(tmp_path, callbacks=[callback], **settings).validate(each, loader(300, seed=1), verbose=False)
        rows.append(callback.history[0])
    assert rows[0]["ntps/score"] == pytest.approx(module.score(0), rel=1e-5)
    for key in ("ntps/score", "ntps/captured_in_sample"):
        assert rows[0][key] == pytest.approx(rows[1][key], abs=tolerance)


@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        precision("32-true", "32-true", 0.0),
        precision("64-true", "64-true", 1e-6),
        precision("bf16-mixed", "bf16-mixed", 0.01),
        precision("bf16-true", "bf16-true", 0.01),
        precision("16-true", "16-true", 0.01),
    ],
)
def test_every_precision(tmp_path, name, tolerance):
    check(tmp_path, Recording(), Recording(), tolerance, precision=name)


@pytest.mark.parametrize("option", [{"accumulate_device": "cpu"}, {"precision": "high"}])
def test_options_for_gpus_change_nothing_on_a_cpu(tmp_path, option):
    rows = []
    for options in ({}, option):
        callback = NTPSCallback(layers="all", **options)
        make_trainer(tmp_path, callbacks=[callback]).validate(Recording(), loader(60, seed=1), verbose=False)
        rows.append(callback.history[0])
    assert rows[0] == rows[1]


def test_unknown_options_are_refused_at_once():
    with pytest.raises(ValueError, match=r'"highest" \(float32\) or "high" \(TensorFloat32\), got \'tf32\''):
        NTPSCallback(precision="tf32")
    with pytest.raises(ValueError, match=r"accumulate_device must be a device, .*, got 'nowhere'"):
        NTPSCallback(accumulate_device="nowhere")


@CUDA
@pytest.mark.compatibility("Precision", "CUDA, sums on the CPU", "as with the sums on the GPU, 1e-9")
def test_sums_beside_the_gpu(tmp_path):
    rows = []
    for device in (None, "cpu"):
        callback = NTPSCallback(accumulate_device=device)
        trainer = make_trainer(tmp_path, callbacks=[callback], accelerator="cuda", devices=1)
        trainer.validate(Recording(), loader(60, seed=1), verbose=False)
        rows.append(callback.history[0])
    assert rows[0] == pytest.approx(rows[1], rel=1e-9)


class Quantised(Recording):
    """A saved base model, of few bits or not, under LoRA, as QLoRA has it."""

    def __init__(self, folder: Any, config: BitsAndBytesConfig | None = None) -> None:
        super().__init__()
        base = LlamaForSequenceClassification.from_pretrained(folder, quantization_config=config)
        lora = LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS")
        self.model = get_peft_model(prepare_model_for_kbit_training(base) if config else base, lora)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("bits", "tolerance"),
    [
        precision("a base model of 4 bits (bitsandbytes NF4) under LoRA", "load_in_4bit", 0.05),
        precision("a base model of 8 bits (bitsandbytes) under LoRA", "load_in_8bit", 0.05),
    ],
)
def test_a_quantised_base_model(tmp_path, bits, tolerance):
    config = BitsAndBytesConfig(**{bits: True}, bnb_4bit_quant_type="nf4")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 128}  # the kernels' least
    LlamaForSequenceClassification(tiny_config(**sizes)).save_pretrained(tmp_path / "base")
    module = Quantised(tmp_path / "base", config)
    assert any("bit" in type(m).__name__ for m in module.modules())
    check(tmp_path, module, Quantised(tmp_path / "base"), tolerance)


@CUDA
@pytest.mark.parametrize("tf32", [False, True])
@pytest.mark.parametrize(
    ("name", "tolerance"),
    [
        precision("CUDA, 32-true, TF32 on and off", "32-true", 1e-3),
        precision("CUDA, bf16-mixed, TF32 on and off", "bf16-mixed", 0.01),
        precision("CUDA, 16-mixed, TF32 on and off", "16-mixed", 0.01),
        precision("CUDA, bf16-true, TF32 on and off", "bf16-true", 0.01),
    ],
)
def test_every_precision_on_a_gpu(tmp_path, name, tolerance, tf32):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    check(tmp_path, Recording(), Recording(), tolerance, precision=name, accelerator="cuda", devices=1)
    torch.set_float32_matmul_precision(before)


@CUDA
@pytest.mark.compatibility("Precision", "CUDA, a training run", "hooks, states and memory on the GPU")
def test_a_run_on_a_gpu(tmp_path):
    callback = NTPSCallback(layers="all")
    trainer = make_trainer(tmp_path, callbacks=[callback], accelerator="cuda", devices=1)
    trainer.fit(LoraModule(), loader(), loader(60, seed=1))
    assert [row["ntps_info/valid"] for row in callback.history] == [1] * 4
