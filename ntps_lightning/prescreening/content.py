"""What a model is told apart by: hashes of what it is made of, not of what it is called."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import nn

# What belongs to the tokenizer or says how the model is built; weights come beside.
_SMALL = (
    "config.json",
    "adapter_config.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "*.model",
    "*.tiktoken",
)
_CHUNK = 2**20
# How the hub's cache calls large files: by the SHA-256 of their content.
_SHA256 = re.compile(r"[0-9a-f]{64}")


def wanted_files(names: Iterable[str]) -> list[str]:
    """Of a folder or a repository those that a model is made of: one kind of weights, configurations, the tokenizer."""
    top = sorted(name for name in names if "/" not in name)
    tensors = [name for name in top if name.endswith(".safetensors") and not name.startswith("consolidated")]
    pickles = [name for name in top if re.fullmatch(r"(pytorch|adapter)_model.*\.bin", name)]
    indices = [name for name in top if name.endswith(".index.json")]
    small = [name for name in top if any(Path(name).match(pattern) for pattern in _SMALL)]
    return sorted({*(tensors or pickles), *indices, *small})


def has_weights(folder: Path) -> bool:
    """Whether some are there."""
    return any(name.endswith((".safetensors", ".bin")) for name in wanted_files(_names(folder)))


def folder_id(folder: Path) -> str:
    """A hash of the files that a model is made of, of all their bytes; of large ones in the hub's cache by their names,
    which are such hashes."""
    parts = [f"{name} {_of_file(folder / name)}" for name in wanted_files(_names(folder))]
    return sha256("\n".join(parts).encode()).hexdigest()


def module_id(model: nn.Module) -> str:
    """A hash of a model in memory: of configuration, weights, and of adapters which are active and how they are built.

    What else may change its states, such as a hook, is not in it.
    """
    found = sha256(type(model).__name__.encode())
    config: Any = getattr(model, "config", None)
    if hasattr(config, "to_json_string"):
        found.update(config.to_json_string().encode())
    found.update(json.dumps(_of_adapters(model), sort_keys=True, default=repr).encode())
    for name, tensor in model.state_dict().items():
        if isinstance(tensor, torch.Tensor):
            found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _of_adapters(model: nn.Module) -> list[Any]:
    """What PEFT's adapters do beside their weights: configurations, and in each layer which count, and how much."""
    configs = {name: vars(config) for name, config in dict(getattr(model, "peft_config", None) or {}).items()}
    names = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
    layers = [
        (name, [repr(getattr(module, each)) for each in names if hasattr(module, each)])
        for name, module in model.named_modules()
        if hasattr(module, "disable_adapters")
    ]
    return [configs, layers]


def _names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.is_file()]


def _of_file(path: Path) -> str:
    blob = path.resolve()
    if blob.parent.name == "blobs" and _SHA256.fullmatch(blob.name):
        return blob.name
    found = sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            found.update(chunk)
    return found.hexdigest()
