"""Doctor and callback take and refuse the same models, and for the same reason."""

from __future__ import annotations

import pytest
import torch
import transformers
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
    T5ForConditionalGeneration,
)

from ntps_lightning import NTPSCallback, NTPSMonitor
from ntps_lightning.command.cost import KEPT
from ntps_lightning.command.model import ModelReport, look_at_model
from tests.support.architectures import ARCHITECTURES, ENCODERS, GEMMA_3N
from tests.support.models import HIDDEN, LAYERS, VOCAB, tiny_config

T5 = {"vocab_size": VOCAB, "d_model": HIDDEN, "d_ff": 32, "num_layers": 3, "num_heads": 2, "d_kv": 8}
OTHERS = {
    "T5": lambda: T5ForConditionalGeneration(T5Config(**T5)),
    "T5's encoder": lambda: T5EncoderModel(T5Config(**T5)),
    "Mamba": lambda: MambaForCausalLM(MambaConfig(vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS)),
}

# What transformers 4 cannot make or call without weights; the doctor says then that it cannot tell.
UNTOLD = ("Apertus", "T5's encoder") if transformers.__version__.startswith("4.") else ()


def build(name: str) -> PreTrainedModel:
    torch.manual_seed(0)
    if name in OTHERS:
        return OTHERS[name]()
    config = (ARCHITECTURES | ENCODERS)[name]()
    if name in ENCODERS:
        return AutoModel.from_config(config)
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return auto.from_config(config)


def looked_at(model: PreTrainedModel, folder) -> ModelReport:
    """As a checkpoint says it, without the weights."""
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    return look_at_model(str(folder), ["cpu"])


def refusal(model: nn.Module) -> str:
    """What the callback's monitor says; empty where it takes the model."""
    try:
        NTPSMonitor(model)
    except ValueError as error:
        return str(error)
    return ""


@pytest.mark.filterwarnings("ignore:Casting complex values to real")  # of Llama 4's vision tower
@pytest.mark.parametrize("name", [*ARCHITECTURES, *ENCODERS, *OTHERS])
def test_doctor_says_what_the_callback_says(name, tmp_path):
    model = build(name)
    report, refused = looked_at(model, tmp_path), refusal(model)
    if name in UNTOLD and report.supported is None:
        pytest.skip(f"transformers {transformers.__version__}: {report.problems[0]}")
    assert report.supported is (not refused), report.problems
    if refused:
        (said,) = report.problems
        assert said.partition(" times as far")[0][:40] == refused[:40]  # the number is of other weights
    else:
        assert (report.name, report.layers, report.hidden_size) == (type(model).__name__, LAYERS + 1, HIDDEN)
        assert report.problems == report.notes == []


def test_a_model_of_several_streams_has_its_last_layer_alone(tmp_path):
    report = looked_at(AutoModelForCausalLM.from_config(GEMMA_3N()), tmp_path)
    assert (report.supported, report.layers) == (True, 1)
    assert "only the last layer can be named: layer 0 of Gemma3nTextModel" in report.notes[0]


@pytest.mark.parametrize(
    "config",
    [
        LoraConfig(r=2, target_modules=["q_proj"]),
        PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
        PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2),
    ],
    ids=lambda config: config.peft_type.value,
)
def test_adapters(config, tmp_path):
    base = LlamaForCausalLM(tiny_config())
    base.config.architectures = ["LlamaForCausalLM"]
    base.config.save_pretrained(tmp_path / "base")
    model = get_peft_model(base, config)
    config.base_model_name_or_path = str(tmp_path / "base")
    config.save_pretrained(tmp_path / "adapters")
    report, refused = look_at_model(str(tmp_path / "adapters"), ["cpu"]), refusal(model)
    assert report.supported is not bool(refused)
    assert report.problems == [refused] * bool(refused)
    assert bool(refused) is (config.peft_type.value != "LORA")
    if not refused:
        assert report.adapters == f"LORA of {tmp_path / 'base'}"
        assert report.layers == LAYERS + 1


def test_what_it_costs_is_what_the_callback_says(tmp_path, monkeypatch):
    assert NTPSCallback().settings.kept == KEPT
    model = LlamaForCausalLM(tiny_config())
    free = 2**30
    monkeypatch.setattr("ntps_lightning.memory.available_bytes", lambda device: free)
    cost = looked_at(model, tmp_path).cost
    said = NTPSMonitor(model, layers=[0, 1]).memory(torch.device("cpu"))
    assert said._states() == 2 * (cost.sums_bytes + cost.kept_bytes)
    assert said._scratch() == cost.scratch_bytes
    (room,) = cost.rooms
    assert room.layers == said.fit == (free - cost.scratch_bytes) // (cost.sums_bytes + cost.kept_bytes)
    assert room.with_baseline == room.layers // 2
    free = cost.scratch_bytes
    (problem,) = looked_at(model, tmp_path).problems
    with pytest.raises(ValueError, match="not even one layer fits"):
        NTPSMonitor(model).memory(torch.device("cpu")).check()
    assert "not even one layer fits" in problem
