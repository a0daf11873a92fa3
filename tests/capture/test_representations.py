from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    LlamaModel,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    OPTConfig,
    RwkvConfig,
    RwkvForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTModel,
)

from ntps_lightning import NextTokenPerceptionScore, capture_representations
from ntps_lightning.capture.backbone import find_backbone
from tests.support.models import HIDDEN, LAYERS, VOCAB, LoraModule, hooks_on, tiny_config


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, VOCAB, (4, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def lora(model: nn.Module, **options) -> nn.Module:
    return get_peft_model(
        model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **options)
    )


MODELS = {
    "causal LM": lambda: LlamaForCausalLM(tiny_config()),
    "classifier": lambda: LlamaForSequenceClassification(tiny_config()),
    "bare decoder": lambda: LlamaModel(tiny_config()),
    "LoRA": lambda: lora(LlamaForCausalLM(tiny_config())),
    "LoRA on a bare decoder": lambda: lora(LlamaModel(tiny_config())),
    "tuple layers": lambda: AutoModelForCausalLM.from_config(
        BloomConfig(vocab_size=VOCAB, hidden_size=HIDDEN, n_layer=LAYERS, n_head=2)
    ),
    "positional": lambda: AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=VOCAB, n_embd=HIDDEN, n_layer=LAYERS, n_head=2)
    ),
    "projected": lambda: AutoModelForCausalLM.from_config(
        OPTConfig(
            vocab_size=VOCAB,
            hidden_size=HIDDEN,
            ffn_dim=32,
            num_hidden_layers=LAYERS,
            num_attention_heads=2,
            word_embed_proj_dim=8,
            do_layer_norm_before=False,
        )
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_equals_output_hidden_states_to_the_bit(name, batch):
    model = MODELS[name]().eval()
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).hidden_states
    hooks_of_transformers = hooks_on(model)
    with torch.no_grad(), capture_representations(model, layers="all") as representations:
        model(**batch)
    assert list(representations) == list(range(LAYERS + 1))
    assert all(torch.equal(representations[i], expected[i]) for i in representations)
    assert torch.equal(representations[-1], expected[-1])
    assert torch.equal(representations.attention_mask, batch["attention_mask"])
    assert hooks_on(model) == hooks_of_transformers


def test_plain_pytorch_end_to_end(batch):
    model = LlamaForCausalLM(tiny_config()).eval()
    metric = NextTokenPerceptionScore(HIDDEN, num_classes=2)
    for _ in range(2):
        with torch.no_grad(), capture_representations(model) as representations:
            model(**batch)
        metric.update(representations[-1], torch.tensor([0, 1, 0, 1]), representations.attention_mask)
    assert metric.details().num_samples == 8


def test_the_latest_pass_counts_and_generation_is_left_out(batch):
    model = LlamaForCausalLM(tiny_config()).eval()
    other = {name: value[:2] for name, value in batch.items()}
    with torch.no_grad(), capture_representations(model) as representations:
        model(**batch)
        model(**other, use_cache=True)
        model.generate(**batch, max_new_tokens=3, do_sample=False)
    assert representations[-1].shape[0] == 2


def test_masks_and_ids_given_by_position(batch):
    model = LlamaForCausalLM(tiny_config()).eval()
    with torch.no_grad(), capture_representations(model) as representations:
        model(batch["input_ids"], batch["attention_mask"])
    assert torch.equal(representations.attention_mask, batch["attention_mask"])
    with torch.no_grad(), capture_representations(model) as representations:
        model(inputs_embeds=model.get_input_embeddings()(batch["input_ids"]), return_dict=False)
    assert representations.attention_mask is None
    assert representations[-1].shape == (4, 7, HIDDEN)


def test_a_4d_mask_is_no_padding_mask(batch):
    model = LlamaForCausalLM(tiny_config()).eval()
    with torch.no_grad(), capture_representations(model) as representations:
        model(batch["input_ids"], attention_mask=torch.zeros(4, 1, 7, 7))
    with pytest.raises(ValueError, match=r"not \(N, T\) but one of shape \(4, 1, 7, 7\)"):
        _ = representations.attention_mask


def test_hooks_go_on_exception(batch):
    model = LlamaForCausalLM(tiny_config())
    with pytest.raises(ZeroDivisionError), capture_representations(model):
        assert hooks_on(model) > 0
        raise ZeroDivisionError
    assert hooks_on(model) == 0


def test_a_lightning_module_is_searched():
    module = LoraModule()
    assert find_backbone(module).decoder is module.model.base_model.model.model


@pytest.mark.parametrize("layers", [3, -4, [0, 9], [], "last", [1.0]])
def test_layers_out_of_range(layers):
    with (
        pytest.raises(ValueError, match=r"indices in \[-3, 2\]|layers is empty"),
        capture_representations(LlamaModel(tiny_config()), layers=layers),
    ):
        pass


def test_what_was_not_captured_is_said(batch):
    model = LlamaModel(tiny_config())
    with capture_representations(model) as representations:
        pass
    with pytest.raises(KeyError, match="no forward pass of LlamaModel was seen"):
        _ = representations[-1]
    with torch.no_grad(), capture_representations(model, layers=[1]) as representations:
        model(**batch)
    for layer in (-1, 0, 4, -5):
        with pytest.raises(KeyError, match=r"only layers \[1\]"):
            _ = representations[layer]
    assert representations[1] is representations[-2]


def prompt_tuned():
    config = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return get_peft_model(LlamaForCausalLM(tiny_config()), config)


def prefix_tuned():
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    return get_peft_model(LlamaForCausalLM(tiny_config()), config)


def encoder_decoder():
    sizes = {"d_model": 8, "d_ff": 8, "num_layers": 1, "num_heads": 1, "d_kv": 8}
    return T5ForConditionalGeneration(T5Config(vocab_size=9, **sizes))


def state_space():
    return MambaForCausalLM(MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1))


def chunked_state_space():
    sizes = {"num_heads": 2, "head_dim": 8, "n_groups": 1, "state_size": 4}
    return Mamba2ForCausalLM(Mamba2Config(vocab_size=9, hidden_size=8, num_hidden_layers=1, **sizes))


def recurrent():
    return RwkvForCausalLM(RwkvConfig(vocab_size=9, hidden_size=8, num_hidden_layers=2))


def vision():
    sizes = {"intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 8, "patch_size": 4}
    return ViTModel(ViTConfig(hidden_size=8, **sizes))


def two_models():
    return nn.ModuleList([LlamaModel(tiny_config()), LlamaModel(tiny_config())])


def time_first():
    layer = nn.TransformerEncoderLayer(HIDDEN, 2)
    return nn.ModuleDict({"backbone": nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)})


def unsupported(row, make, message):
    note = f"`{message}`"
    return pytest.param(make, message, id=row, marks=pytest.mark.compatibility("Not supported", row, note))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nn.Linear(2, 2), "it holds none"),
        unsupported("encoder-decoder models", encoder_decoder, "encoder-decoder"),
        unsupported("state-space models", state_space, "state-space"),
        (chunked_state_space, "state-space"),
        (recurrent, "state-space"),
        unsupported("vision models", vision, "takes no input_ids"),
        unsupported("prompt tuning", prompt_tuned, "prompt and prefix tuning"),
        unsupported("prefix tuning", prefix_tuned, "prompt and prefix tuning"),
        unsupported("several models, none named", two_models, "it holds 2: '0', '1'; name the one to score"),
        unsupported("plain PyTorch with `batch_first=False`", time_first, "build it with batch_first=True"),
    ],
)
def test_unsupported_models_get_one_clear_error(make, message):
    with pytest.raises(ValueError, match=message):
        find_backbone(make(), model="backbone" if make is time_first else None)
