"""Encoders are told from decoders by what they do, and the model is left as it was."""

from __future__ import annotations

import logging
import random
import re
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._dynamo.utils import counters
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BertForSequenceClassification,
    BigBirdModel,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

from ntps_lightning import NTPSMonitor
from ntps_lightning.capture.own_pass import own_pass
from ntps_lightning.errors import SetupError
from tests.support.architectures import ARCHITECTURES, ENCODERS, GROUPED, tiny
from tests.support.models import CLASSES, LAYERS, hooks_on, loader, tiny_config

DTYPES = [torch.float32, torch.bfloat16]
REFUSED = r"looks ahead: when only later tokens change, .* pass allow_bidirectional=True if you know better"


def encoders(row: str, note: str = "refused, in float32 and bfloat16"):
    return pytest.mark.compatibility("Encoders", row, note)


def build(auto, config, dtype=torch.float32) -> PreTrainedModel:
    torch.manual_seed(0)
    return auto.from_config(config).to(dtype)


def causal_lm(name: str, dtype: torch.dtype) -> PreTrainedModel:
    config = ARCHITECTURES[name]()
    return build(
        AutoModelForImageTextToText if hasattr(config, "vision_config") else AutoModelForCausalLM, config, dtype
    )


def bert(**options) -> PreTrainedModel:
    torch.manual_seed(0)
    return BertForSequenceClassification(tiny("BertConfig", **options)())


def llama(**options) -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(tiny_config(**options))


@pytest.fixture
def said(caplog):
    """What was said of models that could not be tried."""
    caplog.set_level(logging.INFO, "torchmetrics")
    return lambda: [r.getMessage() for r in caplog.records if "could not try" in r.getMessage()]


# Who is refused


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", [pytest.param(name, marks=encoders(name)) for name in ENCODERS])
def test_encoders_are_refused(name, dtype):
    with pytest.raises(SetupError, match=REFUSED):
        NTPSMonitor(build(AutoModel, ENCODERS[name](), dtype))


@encoders("encoders of encoder-decoders (T5)")
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_encoder_of_an_encoder_decoder_is_refused(dtype):
    torch.manual_seed(0)
    config = T5Config(vocab_size=50, d_model=16, d_ff=32, num_layers=3, num_heads=2, d_kv=8)
    with pytest.raises(SetupError, match="T5Stack looks ahead"):
        NTPSMonitor(T5EncoderModel(config).to(dtype))


@encoders("a classifier, LoRA on it, or either inside a module", "refused")
def test_encoders_are_refused_wherever_they_are():
    lora = LoraConfig(r=2, target_modules=["query", "value"], task_type="SEQ_CLS")
    for model in (bert(), get_peft_model(bert(), lora), nn.ModuleDict({"language": bert(), "head": nn.Linear(2, 2)})):
        with pytest.raises(SetupError, match="BertModel looks ahead"):
            NTPSMonitor(model.train())


@pytest.mark.filterwarnings("ignore:Casting complex values to real")  # of Llama 4's vision tower
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_decoders_are_not(name, dtype, said):
    NTPSMonitor(causal_lm(name, dtype))
    assert said() == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=encoders(f"{name} with `is_decoder=True`", "scored: it does not look ahead"))
        for name in ("BERT", "RoBERTa", "XLM-RoBERTa", "ELECTRA", "RoFormer", "BigBird")
    ],
)
def test_encoders_that_were_made_decoders_are_not(name, dtype, said):
    config = ENCODERS[name]()
    config.is_decoder = True
    NTPSMonitor(build(AutoModelForCausalLM, config, dtype))
    assert said() == []


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rounding_in_a_mixture_of_experts_is_not_taken_for_it(dtype, said):
    """Later tokens decide which rows of a product an expert's tokens are, and so how they round."""
    sizes = {"vocab_size": 1000, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4}
    sizes |= {"num_attention_heads": 8, "head_dim": 32, "moe_intermediate_size": 96}
    experts = {"num_experts": 32, "num_experts_per_tok": 4, "shared_expert_intermediate_size": 128}
    NTPSMonitor(build(AutoModelForCausalLM, tiny("Qwen2MoeConfig", GROUPED | sizes, **experts)(), dtype))
    assert said() == []


@encoders("`allow_bidirectional=True`", "scored all the same, and not called beforehand")
def test_whoever_knows_better_is_let_alone():
    model, calls = bert(), []
    model.eval().bert.register_forward_pre_hook(lambda m, args: calls.append(1))
    monitor = NTPSMonitor(model, allow_bidirectional=True, num_classes=CLASSES)
    assert calls == []
    for batch in loader(60):
        with torch.no_grad(), monitor.batch(batch["labels"], input_ids=batch["input_ids"]):
            model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    assert monitor.compute()[LAYERS].num_samples == 60


# Who cannot be tried


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(50, 16)

    def forward(self, input_ids):
        return self.embed(input_ids)


def on_meta() -> nn.Module:
    with torch.device("meta"):
        return LlamaModel(tiny_config())


def with_hook(hook) -> nn.Module:
    model = llama()
    model.model.layers[0].register_forward_hook(hook)
    return model


def raising(module, args, output):
    raise ZeroDivisionError("a layer\nfails")


def noisy(module, args, output):
    return output + torch.randn(()) + np.random.rand() + random.random()


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (Plain, "Plain looks ahead: it declares no vocabulary"),
        (on_meta, r"LlamaModel looks ahead: its weights are not here \(on the meta device, or sharded\)"),
        (lambda: with_hook(raising), r"over \(4, 16\) input_ids failed with ZeroDivisionError\('a layer\\nfails'\)"),
        (lambda: with_hook(lambda m, a, out: out * float("nan")), "its states hold NaN or Inf"),
        (lambda: with_hook(lambda m, a, out: torch.zeros_like(out)), "its states do not tell tokens apart"),
        (lambda: with_hook(lambda m, a, out: out + torch.rand_like(out)), "its states of equal rows differ"),
    ],
)
def test_what_cannot_be_tried_is_said_in_one_line(make, reason, said):
    NTPSMonitor(make())
    (line,) = said()
    assert "\n" not in line
    assert re.search(reason, line)


# No trace


def random_numbers() -> tuple:
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()


def state_of(model: nn.Module) -> list:
    """Whatever a forward pass may change: modes, plain attributes, hooks, gradients, weights and buffers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    plain = [
        (name, key, str(sorted(value) if isinstance(value, set) else value))
        for name, module in model.named_modules()
        for key, value in sorted(vars(module).items())
        if key not in ("_parameters", "_buffers", "_modules")
    ]
    return [
        *plain,
        *((name, type(module).__name__) for name, module in model.named_modules()),
        *((name, tensor.tolist(), tensor.requires_grad, tensor.grad is None) for name, tensor in tensors),
    ]


def partly_training() -> nn.Module:
    lora = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], lora_dropout=0.5)
    model = get_peft_model(llama(), lora).train()
    model.base_model.model.model.layers[0].eval()
    return model


def after_a_long_text(kind: str, **options) -> nn.Module:
    """Its rotary frequencies are those of the longest text so far, or of a long one."""
    model = llama(rope_parameters={"rope_type": kind, "rope_theta": 10_000.0, **options}, max_position_embeddings=32)
    with torch.no_grad():
        model(torch.ones(1, 40).long())
    return model


MODELS = {
    "some modules in training mode": partly_training,
    "dynamic rotary frequencies": lambda: after_a_long_text("dynamic", factor=2.0),
    "rotary frequencies by length": lambda: after_a_long_text(
        "longrope",
        factor=2.0,
        original_max_position_embeddings=32,
        short_factor=[1.0] * 4,
        long_factor=[3.0] * 4,
    ),
    "random numbers drawn": lambda: with_hook(noisy),
    "a call that fails": lambda: with_hook(raising).train(),
}


@pytest.mark.parametrize("name", MODELS)
def test_nothing_is_left_of_the_call(name):
    model = MODELS[name]()
    before, numbers = state_of(model), random_numbers()
    NTPSMonitor(model)
    assert random_numbers() == numbers
    assert state_of(model) == before
    assert torch._dynamo.eval_frame._stance.stance == "default"


def test_a_module_that_the_call_swaps_comes_back():
    """BigBird takes its sparse attention out where a text is short."""
    model = BigBirdModel(tiny("BigBirdConfig")())
    before, numbers = state_of(model), random_numbers()
    with pytest.raises(SetupError):
        NTPSMonitor(model)
    assert state_of(model) == before
    assert random_numbers() == numbers
    assert model.attention_type == "block_sparse"


def test_a_generator_of_the_models_own_comes_back():
    generator = torch.Generator().manual_seed(1)
    model, before = with_hook(lambda m, a, out: out + torch.rand((), generator=generator)), generator.get_state()
    model.generator = generator
    with own_pass(model):
        model(torch.ones(1, 3).long())
        assert not torch.equal(generator.get_state(), before)
    assert torch.equal(generator.get_state(), before)


def gradients(model: nn.Module, listen: bool, region) -> list[torch.Tensor]:
    with region:
        if listen:
            NTPSMonitor(model)
        output = model(**next(iter(loader())))
    output.loss.backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("region", [nullcontext, lambda: torch.autocast("cpu", torch.bfloat16)], ids=["", "autocast"])
def test_gradients_are_those_of_a_run_without(region):
    alone, watched = (
        gradients(LlamaForSequenceClassification(tiny_config()), listen, region())
        for listen in (False, True)
        if torch.manual_seed(0)
    )
    assert all(torch.equal(a, b) for a, b in zip(alone, watched, strict=True))


def test_training_goes_on_after_inference_mode():
    kept: dict[str, torch.Tensor] = {}
    model = with_hook(lambda m, a, out: out * kept.setdefault("scale", torch.ones(())))
    with torch.inference_mode():
        NTPSMonitor(model)
    model(torch.ones(1, 3).long()).logits.sum().backward()


def test_nothing_is_compiled():
    torch._dynamo.reset()
    counters.clear()
    model = llama()
    model.model.compile(backend="eager")
    NTPSMonitor(torch.compile(model, backend="eager"))
    assert counters["stats"]["unique_graphs"] == 0
    assert hooks_on(model) == 0
