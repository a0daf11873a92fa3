"""Models out of folders: with the class that was saved, and adapters on their base."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from ntps_lightning.capture.backbone import find_backbone
from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.model_files import read_json

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
    known = kind in transformers.CONFIG_MAPPING
    if "auto_map" in content and not (known and _classes(content.get("architectures"))):
        raise _own_code(f"{where} (model_type {kind!r})")
    if known:
        return
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
                return transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            except Exception as error:  # whatever its files or a package that it needs raise
                if _brings_tokenizer(folder):
                    raise _own_code(f"the tokenizer of {where}") from error
                raise SetupError(f"the tokenizer of {where} cannot be loaded ({first_line(error)})") from error
    raise SetupError(
        f"{where} holds no tokenizer: save it there (tokenizer.save_pretrained), or give (model, tokenizer)"
    )


def load_model(folder: Path, device: torch.device, dtype: str) -> nn.Module:
    """In evaluation mode.

    Raises:
        SetupError: If weights of its decoder are not in its files.

    """
    return _loaded(_class_of(read_configuration(folder)), folder, device, dtype).eval()


def load_adapters(folder: Path, base: Path, content: dict[str, Any], device: torch.device, dtype: str) -> nn.Module:
    """On their base, in evaluation mode.

    Raises:
        SetupError: If they do not fit it, or it lacks weights of its decoder.

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
        kind = _class_of(read_configuration(base))
    model = _loaded(kind, base, device, dtype, **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            found: nn.Module = peft.PeftModel.from_pretrained(model, str(folder))
        except UserWarning as error:
            raise SetupError(f"the adapters in {folder} do not fit {base}: {first_line(error)}") from error
    return found.to(device).eval()


def _loaded(kind: str, folder: Path, device: torch.device, dtype: str, **options: Any) -> nn.Module:
    placed = (
        {"device_map": {"": str(device)}} if getattr(read_configuration(folder), "quantization_config", None) else {}
    )
    model: nn.Module
    model, told = getattr(transformers, kind).from_pretrained(
        folder, dtype=dtype, trust_remote_code=False, output_loading_info=True, **placed, **options
    )
    _refuse_gaps(model, told, folder)
    return model if placed else model.to(device)


def _refuse_gaps(model: nn.Module, told: Mapping[str, Any], folder: Path) -> None:
    """A head may be new; weights that the states come out of may not."""
    decoder = find_backbone(model).decoder
    prefix = next(f"{name}." if name else "" for name, module in model.named_modules() if module is decoder)
    mismatched = {each if isinstance(each, str) else each[0] for each in told["mismatched_keys"]}
    gaps = sorted(name for name in {*told["missing_keys"], *mismatched} if name.startswith(prefix))
    if gaps:
        spare = sorted(told["unexpected_keys"])
        instead = f"; it has {spare[0]}, which {type(model).__name__} does not take" if spare else ""
        raise SetupError(
            f"{folder} lacks {len(gaps)} weights of {type(model).__name__}, such as {gaps[0]}{instead}: save the model"
            " itself (of a compiled or wrapped one what it wraps) with save_pretrained"
        )


def read_configuration(folder: Path) -> Any:
    """Of a class that transformers has."""
    return transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)


def num_layers(config: Any) -> int | None:
    """Of the decoder, if the configuration says how many."""
    if hasattr(config, "get_text_config"):
        config = config.get_text_config(decoder=True)
    found = getattr(config, "num_hidden_layers", None)
    return found if isinstance(found, int) else None


def _class_of(config: Any) -> str:
    names = _classes(config.architectures)
    return names[0] if names else "AutoModel"


def _classes(names: Sequence[str] | None) -> list[str]:
    """Those that transformers has."""
    return [name for name in names or () if hasattr(transformers, name)]


def _brings_tokenizer(folder: Path) -> bool:
    path = folder / "tokenizer_config.json"
    return path.exists() and "AutoTokenizer" in (read_json(path).get("auto_map") or {})


def _own_code(what: str) -> SetupError:
    return SetupError(
        f"{what} brings code of its own, which is not run: load it with trust_remote_code=True, if you trust it, and"
        " give the pair (model, tokenizer)"
    )
