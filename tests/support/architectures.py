"""Tiny random configs: of the decoders that the tests compare with ``output_hidden_states=True``, and of encoders."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import transformers as hf
from packaging.version import Version
from transformers import PretrainedConfig

from tests.support.models import CLASSES, HIDDEN, LAYERS, VOCAB

VERSION = Version(hf.__version__)
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "num_labels": CLASSES}
SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 1, "head_dim": 8}
MOE = GROUPED | {"moe_intermediate_size": 16, "num_experts": 4, "num_experts_per_tok": 2}
ROUTED = {
    "moe_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
}
LATENT = {
    "num_key_value_heads": 2,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
STATE = {
    "mamba_d_state": 4,
    "mamba_n_heads": 4,
    "mamba_d_head": 8,
    "mamba_n_groups": 1,
    "mamba_chunk_size": 4,
    "num_key_value_heads": 1,
}
DELTA = {
    "linear_key_head_dim": 4,
    "linear_value_head_dim": 4,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 2,
    "layer_types": ["linear_attention", "full_attention"],
}
GPT = {"vocab_size": VOCAB, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_positions": 64}
SECTIONS = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10_000.0}
ROPE = "rope_parameters" if VERSION.major >= 5 else "rope_scaling"
QWEN_TEXT = GROUPED | {ROPE: SECTIONS}
QWEN_VISION = {"depth": 1, "num_heads": 2, "patch_size": 4}
SIGLIP = {
    "hidden_size": HIDDEN,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 8,
    "patch_size": 4,
}
OPT = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "ffn_dim": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def build(kind: str, **options: Any) -> PretrainedConfig:
    """Or skips the test, where this version of transformers lacks the model."""
    if not hasattr(hf, kind):
        pytest.skip(f"transformers {hf.__version__} has no {kind}")
    config = getattr(hf, kind)
    if options.get("use_bidirectional_attention") and not hasattr(config(), "use_bidirectional_attention"):
        pytest.skip(f"transformers {hf.__version__} has no {kind}.use_bidirectional_attention")
    return config(**options)


def tiny(kind: str, sizes: dict[str, Any] = SIZES, **options: Any) -> partial[PretrainedConfig]:
    return partial(build, kind, **SPECIAL | sizes | options)


def with_vision(kind: str, vision: dict[str, Any], text: dict[str, Any], **options: Any) -> partial[PretrainedConfig]:
    return partial(build, kind, vision_config=vision, text_config=SPECIAL | text, **SPECIAL | options)


ARCHITECTURES = {
    "Llama": tiny("LlamaConfig"),
    "Mistral": tiny("MistralConfig", GROUPED, sliding_window=4),
    "Mixtral": tiny("MixtralConfig", GROUPED, num_local_experts=4),
    "Qwen2": tiny("Qwen2Config", GROUPED),
    "Qwen2-MoE": tiny("Qwen2MoeConfig", MOE, shared_expert_intermediate_size=16),
    "Qwen2-VL": with_vision(
        "Qwen2VLConfig",
        QWEN_VISION | {"embed_dim": HIDDEN, "hidden_size": HIDDEN},
        QWEN_TEXT,
        vision_start_token_id=3,
    ),
    "Qwen2.5-VL": with_vision(
        "Qwen2_5_VLConfig",
        QWEN_VISION | {"hidden_size": HIDDEN, "intermediate_size": 32, "out_hidden_size": HIDDEN},
        QWEN_TEXT,
        vision_start_token_id=3,
    ),
    "Qwen3": tiny("Qwen3Config", GROUPED),
    "Qwen3-MoE": tiny("Qwen3MoeConfig", MOE),
    "Qwen3-VL": with_vision(
        "Qwen3VLConfig",
        QWEN_VISION
        | {
            "hidden_size": HIDDEN,
            "intermediate_size": 32,
            "out_hidden_size": HIDDEN,
            "num_position_embeddings": 16,
            "deepstack_visual_indexes": [0],
        },
        QWEN_TEXT,
    ),
    "Gemma": tiny("GemmaConfig", GROUPED),
    "Gemma 2": tiny("Gemma2Config", GROUPED, sliding_window=4),
    "Gemma 3 (text)": tiny("Gemma3TextConfig", GROUPED, sliding_window=4),
    "Gemma 3 (multimodal)": with_vision(
        "Gemma3Config",
        SIGLIP,
        GROUPED | {"sliding_window": 4},
        mm_tokens_per_image=4,
    ),
    "Gemma 4 (text)": tiny(
        "Gemma4TextConfig",
        GROUPED,
        sliding_window=4,
        hidden_size_per_layer_input=4,
        vocab_size_per_layer_input=VOCAB,
        num_kv_shared_layers=0,
        global_head_dim=8,
    ),
    "Phi": tiny("PhiConfig"),
    "Phi-3": tiny("Phi3Config", original_max_position_embeddings=64),
    "OpenAI GPT": tiny("OpenAIGPTConfig", GPT),
    "GPT-2": tiny("GPT2Config", GPT),
    "GPT-NeoX": tiny("GPTNeoXConfig"),
    "GPT-Neo": tiny(
        "GPTNeoConfig",
        {
            "vocab_size": VOCAB,
            "hidden_size": HIDDEN,
            "num_layers": LAYERS,
            "num_heads": 2,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
        },
    ),
    "GPT-J": tiny("GPTJConfig", GPT, rotary_dim=4),
    "GPT-BigCode": tiny("GPTBigCodeConfig", GPT),
    "GPT-OSS": tiny("GptOssConfig", GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=4),
    "OPT": tiny("OPTConfig", OPT, word_embed_proj_dim=HIDDEN),
    "OPT with projections": tiny("OPTConfig", OPT, word_embed_proj_dim=8, do_layer_norm_before=False),
    "Bloom": tiny("BloomConfig", {"vocab_size": VOCAB, "hidden_size": HIDDEN, "n_layer": LAYERS, "n_head": 2}),
    "MPT": tiny("MptConfig", {"vocab_size": VOCAB, "d_model": HIDDEN, "n_layers": LAYERS, "n_heads": 2}),
    "Falcon": tiny(
        "FalconConfig",
        {"vocab_size": VOCAB, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2},
    ),
    "OLMo": tiny("OlmoConfig"),
    "OLMo 2": tiny("Olmo2Config"),
    "OLMo 3": tiny("Olmo3Config", sliding_window=4),
    "OLMoE": tiny("OlmoeConfig", num_experts=4, num_experts_per_tok=2),
    "StableLM": tiny("StableLmConfig", num_key_value_heads=2),
    "Cohere": tiny("CohereConfig"),
    "Cohere 2": tiny("Cohere2Config", GROUPED, sliding_window=4),
    "Starcoder2": tiny("Starcoder2Config", num_key_value_heads=1),
    "SmolLM3": tiny("SmolLM3Config", GROUPED),
    "Granite": tiny("GraniteConfig"),
    "Granite MoE": tiny("GraniteMoeConfig", num_local_experts=4, num_experts_per_tok=2),
    "DeepSeek-V2": tiny("DeepseekV2Config", SIZES | LATENT | ROUTED),
    "DeepSeek-V3": tiny("DeepseekV3Config", SIZES | LATENT | ROUTED),
    "Llama 4 (text)": tiny(
        "Llama4TextConfig", GROUPED, intermediate_size_mlp=32, num_local_experts=4, interleave_moe_layer_step=2
    ),
    "Llama 4 (multimodal)": with_vision(
        "Llama4Config",
        SIGLIP | {"vision_output_dim": 16, "projector_input_dim": 16, "projector_output_dim": 16},
        GROUPED | {"intermediate_size_mlp": 32, "num_local_experts": 4},
    ),
    "GLM": tiny("GlmConfig", GROUPED),
    "GLM-4": tiny("Glm4Config", GROUPED),
    "GLM-4-MoE": tiny("Glm4MoeConfig", GROUPED | ROUTED),
    "Nemotron": tiny("NemotronConfig", num_key_value_heads=2, head_dim=8),
    "EXAONE 4": tiny("Exaone4Config", GROUPED, sliding_window=4, sliding_window_pattern=2),
    "Ministral": tiny("MinistralConfig", GROUPED, sliding_window=4),
    "Seed-OSS": tiny("SeedOssConfig", GROUPED),
    "Apertus": tiny("ApertusConfig"),
    "ERNIE 4.5": tiny("Ernie4_5Config", GROUPED),
    "MiniMax": tiny("MiniMaxConfig", GROUPED, num_local_experts=4, layer_types=["linear_attention", "full_attention"]),
    "LFM2": tiny("Lfm2Config", num_key_value_heads=1, layer_types=["conv", "full_attention"]),
    "Qwen3-Next": tiny("Qwen3NextConfig", MOE | DELTA, shared_expert_intermediate_size=16),
    "Qwen3.5 (text)": tiny("Qwen3_5TextConfig", GROUPED | DELTA),
    "Kimi Linear": tiny(
        "KimiLinearConfig",
        SIZES | LATENT,
        q_lora_rank=None,
        moe_intermediate_size=16,
        num_local_experts=4,
        num_experts_per_tok=2,
        layer_types=["linear_attention", "full_attention"],
        linear_head_dim=8,
        linear_num_heads=2,
    ),
    "Jamba": tiny(
        "JambaConfig",
        num_key_value_heads=1,
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
        mamba_d_state=4,
        use_mamba_kernels=False,
    ),
    "Bamba": tiny("BambaConfig", SIZES | STATE, attn_layer_indices=[1]),
    "Falcon-H1": tiny("FalconH1Config", SIZES | STATE, mamba_d_ssm=32),
    "Granite 4 hybrid": tiny(
        "GraniteMoeHybridConfig",
        SIZES | STATE,
        num_local_experts=4,
        shared_intermediate_size=16,
        layer_types=["mamba", "attention"],
    ),
    "Zamba2": tiny(
        "Zamba2Config",
        mamba_d_state=4,
        n_mamba_heads=4,
        chunk_size=4,
        layers_block_type=["mamba", "hybrid"],
        use_mamba_kernels=False,
    ),
    "RecurrentGemma": tiny(
        "RecurrentGemmaConfig",
        num_key_value_heads=1,
        block_types=["recurrent", "attention"],
        attention_window_size=4,
    ),
}

ENCODERS = {
    "BERT": tiny("BertConfig"),
    "RoBERTa": tiny("RobertaConfig"),
    "RoBERTa, pre-norm": tiny("RobertaPreLayerNormConfig"),
    "XLM-RoBERTa": tiny("XLMRobertaConfig"),
    "CamemBERT": tiny("CamembertConfig"),
    "ELECTRA": tiny("ElectraConfig"),
    "ERNIE": tiny("ErnieConfig"),
    "MegatronBERT": tiny("MegatronBertConfig"),
    "RemBERT": tiny("RemBertConfig"),
    "BigBird": tiny("BigBirdConfig"),
    "RoFormer": tiny("RoFormerConfig"),
    "data2vec (text)": tiny("Data2VecTextConfig"),
    "DistilBERT": tiny("DistilBertConfig"),
    "DeBERTa": tiny("DebertaConfig"),
    "DeBERTa-v2": tiny("DebertaV2Config"),
    "MPNet": tiny("MPNetConfig"),
    "MobileBERT": tiny("MobileBertConfig"),
    "ConvBERT": tiny("ConvBertConfig"),
    "Longformer": tiny("LongformerConfig"),
    "Nyströmformer": tiny("NystromformerConfig"),
    "LayoutLM": tiny("LayoutLMConfig"),
    "ESM": tiny("EsmConfig"),
    "ModernBERT": tiny("ModernBertConfig"),
    "EuroBERT": tiny("EuroBertConfig"),
    "Nomic BERT": tiny("NomicBertConfig"),
    "XLNet": tiny("XLNetConfig", {"vocab_size": VOCAB, "d_model": HIDDEN, "n_layer": LAYERS, "n_head": 2}),
    "Gemma 3 with bidirectional attention": tiny(
        "Gemma3TextConfig", GROUPED, sliding_window=4, use_bidirectional_attention=True
    ),
}

# Its layers work on several streams at once: only the states after the final norm are (N, T, d).
GEMMA_3N = tiny(
    "Gemma3nTextConfig",
    GROUPED,
    sliding_window=4,
    hidden_size_per_layer_input=4,
    vocab_size_per_layer_input=VOCAB,
    num_kv_shared_layers=0,
    laurel_rank=4,
    altup_num_inputs=2,
    activation_sparsity_pattern=[0.0] * LAYERS,
)

# transformers has no AutoModelForSequenceClassification for these, and before 5.20 none for some others.
NEWEST = Version("5.20")
NO_CLASSIFIER = frozenset(
    {
        "Qwen2-VL",
        "Qwen2.5-VL",
        "Qwen3-VL",
        "Gemma 4 (text)",
        "OLMoE",
        "Cohere",
        "Cohere 2",
        "Granite",
        "Granite MoE",
        "Llama 4 (text)",
        "Llama 4 (multimodal)",
        "GLM-4-MoE",
        "Apertus",
        "ERNIE 4.5",
        "LFM2",
        "Kimi Linear",
        "Bamba",
        "Falcon-H1",
        "Granite 4 hybrid",
        "RecurrentGemma",
    }
)
