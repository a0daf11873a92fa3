"""Models out of folders: with the class that was saved, and adapters on their base."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from ntps_lightning.errors import SetupError
from ntps_lightning.hub import first_line

# The class that adapters were trained in, by what PEFT calls their task.
_OF_TASKS = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "FEATURE_EXTRACTION": "AutoModel",
}
_HEADS = ("score.weight", "classifier.weight")


def refuse_configuration(content: dict[str, Any], where: str) -> None:
    """Refuse what a ``config.json`` tells not to be a decoder that can be loaded.

    Raises:
        SetupError: If it does.

    """
    kind = content.get("model_type")
    if content.get("is_encoder_decoder"):
        raise SetupError(f"{where} is an encoder-decoder; decoder-only language models are supported")
    if kind in transformers.CONFIG_MAPPING:
        return
    if "auto_map" in content:
        raise SetupError(
            f"{where} (model_type {kind!r}) brings code of its own, which is not run: load it with"
            " trust_remote_code=True, if you trust it, and give the pair (model, tokenizer)"
        )
    raise SetupError(
        f"transformers {transformers.__version__} knows no model_type {kind!r}, which {where} is:"
        " pip install -U transformers, or is this no language model?"
    )


def load_tokenizer(folders: Sequence[Path], where: str) -> Any:
    """The tokenizer of the first folder that has one.

    Raises:
        SetupError: If none has.

    """
    for folder in folders:
        if any(folder.glob("tokenizer*")) or any(folder.glob("vocab*")) or any(folder.glob("*.model")):
            try:
                return transformers.AutoTokenizer.from_pretrained(folder)
            except Exception as error:  # whatever its files or a package that it needs raise
                raise SetupError(f"the tokenizer of {where} cannot be loaded ({first_line(error)})") from error
    raise SetupError(
        f"{where} holds no tokenizer: save it there (tokenizer.save_pretrained), or give (model, tokenizer)"
    )


def load_model(folder: Path, device: torch.device, dtype: str) -> nn.Module:
    """In evaluation mode."""
    config = transformers.AutoConfig.from_pretrained(folder)
    names = [name for name in config.architectures or () if hasattr(transformers, name)]
    return _loaded(names[0] if names else "AutoModel", folder, device, dtype).eval()


def load_adapters(folder: Path, base: Path, content: dict[str, Any], device: torch.device, dtype: str) -> nn.Module:
    """On their base, in evaluation mode.

    Raises:
        SetupError: If they do not fit it.

    """
    import peft

    kind = _OF_TASKS.get(str(content.get("task_type")))
    heads = [
        tensor
        for name, tensor in peft.utils.load_peft_weights(str(folder), device="cpu").items()
        if name.endswith(_HEADS)
    ]
    options = {"num_labels": len(heads[0])} if heads else {}
    if kind is None:
        config = transformers.AutoConfig.from_pretrained(base)
        kind = next((name for name in config.architectures or () if hasattr(transformers, name)), "AutoModel")
    model = _loaded(kind, base, device, dtype, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            found: nn.Module = peft.PeftModel.from_pretrained(model, str(folder))
        except UserWarning as error:
            raise SetupError(f"the adapters in {folder} do not fit {base}: {first_line(error)}") from error
    return found.to(device).eval()


def _loaded(kind: str, folder: Path, device: torch.device, dtype: str, **options: Any) -> nn.Module:
    config = transformers.AutoConfig.from_pretrained(folder)
    placed = {"device_map": {"": str(device)}} if getattr(config, "quantization_config", None) else {}
    model: nn.Module = getattr(transformers, kind).from_pretrained(folder, dtype=dtype, **placed, **options)
    return model if placed else model.to(device)
