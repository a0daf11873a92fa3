"""Captured states against ``output_hidden_states=True``, bit for bit, for the architectures of transformers."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import (
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
)
from transformers.pytorch_utils import Conv1D

from ntps_lightning import capture_representations
from tests.support.architectures import ARCHITECTURES, GEMMA_3N, NEWEST, NO_CLASSIFIER, VERSION
from tests.support.models import LAYERS, VOCAB


@pytest.fixture
def batch() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCAB, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def causal_lm(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = ARCHITECTURES[name]()
    auto = AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM
    return auto.from_config(config)


def classifier(name: str) -> nn.Module:
    torch.manual_seed(0)
    config = ARCHITECTURES[name]()
    if VERSION < NEWEST and type(config) not in MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        pytest.skip(f"transformers {VERSION} has no classifier of {name}")
    return AutoModelForSequenceClassification.from_config(config)


def lora() -> LoraConfig:
    # PEFT cannot adapt these. Without the usual zeros, adapters change the states.
    exclude = r".*\.(router|mamba\.out_proj|mamba\.conv1d)"
    return LoraConfig(r=2, target_modules="all-linear", exclude_modules=exclude, init_lora_weights=False)


def dora(model: nn.Module) -> LoraConfig:
    # PEFT has no DoRA for the fused experts that "all-linear" includes.
    linear = [name for name, m in model.named_modules() if isinstance(m, nn.Linear | Conv1D)]
    attention = [name for name in linear if "att" in name or "temporal_block" in name]
    return LoraConfig(r=2, target_modules=attention, use_dora=True, init_lora_weights=False)


def with_lora(name: str) -> nn.Module:
    return get_peft_model(causal_lm(name), lora())


def with_dora(name: str) -> nn.Module:
    model = causal_lm(name)
    return get_peft_model(model, dora(model))


def two_adapters(name: str) -> nn.Module:
    model = get_peft_model(causal_lm(name), lora())
    model.add_adapter("other", lora())
    model.set_adapter("other")
    return model


COLUMNS = {
    "causal LM": causal_lm,
    "classifier": classifier,
    "LoRA": with_lora,
    "DoRA": with_dora,
    "two adapters, one active": two_adapters,
}
CASES = [
    pytest.param(name, column, id=f"{name}-{column}", marks=pytest.mark.compatibility("Models", name, column))
    for name in ARCHITECTURES
    for column in COLUMNS
    if column != "classifier" or name not in NO_CLASSIFIER
]


def captured_states(module: nn.Module, model: nn.Module, batch: dict[str, Tensor]) -> list[Tensor]:
    with torch.no_grad(), capture_representations(module, layers="all") as representations:
        model(**batch)
    assert list(representations) == list(range(LAYERS + 1))
    assert representations[-1] is representations[LAYERS]
    assert torch.equal(representations.attention_mask, batch["attention_mask"])
    return list(representations.values())


def assert_equals_output_hidden_states(states: list[Tensor], model: nn.Module, batch: dict[str, Tensor]) -> None:
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    assert [s.shape for s in states] == [e.shape for e in expected]
    assert all(e.isfinite().all() for e in expected)
    assert [torch.equal(s, e) for s, e in zip(states, expected, strict=True)] == [True] * (LAYERS + 1)


@pytest.mark.parametrize(("name", "column"), CASES)
def test_every_layer_equals_output_hidden_states(name, column, batch):
    model = COLUMNS[column](name).eval()
    states = captured_states(model, model, batch)
    assert_equals_output_hidden_states(states, model, batch)
    if column == "two adapters, one active":
        model.set_adapter("default")
        assert not torch.equal(captured_states(model, model, batch)[-1], states[-1])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.compatibility("Models", name, "deep inside a module"))
        for name in ARCHITECTURES
    ],
)
def test_a_model_deep_inside_a_module(name, batch):
    model = causal_lm(name).eval()
    outer = nn.Module()
    outer.a = nn.Module()
    outer.a.b = nn.Sequential(nn.Linear(2, 2), model)
    assert_equals_output_hidden_states(captured_states(outer, model, batch), model, batch)


@pytest.mark.compatibility("Models", "Gemma 3n (text), last layer alone", "causal LM")
def test_layers_of_several_streams_are_refused_but_the_last(batch):
    model = AutoModelForCausalLM.from_config(GEMMA_3N()).eval()
    with torch.no_grad(), capture_representations(model) as representations:
        model(**batch)
        expected = model.model(**batch).last_hidden_state
    assert torch.equal(representations[-1], expected)
    with (
        pytest.raises(
            ValueError, match=r"layer 1 of Gemma3nTextModel .* \(2, 4, 7, 16\), not \(N, T, d\) for .*: name another"
        ),
        torch.no_grad(),
        capture_representations(model, layers=1),
    ):
        model(**batch)
