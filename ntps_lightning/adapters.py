"""What a folder of PEFT's adapters says."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from ntps_lightning.model_files import NoModelError


def base_of(content: dict[str, Any]) -> str:
    """The model that adapters are of.

    Args:
        content: of their ``adapter_config.json``.

    Raises:
        ValueError: If they are of a kind that cannot be scored on any model.
        NoModelError: If nothing can be told of them.

    """
    if find_spec("peft") is None or find_spec("transformers") is None:
        raise NoModelError('the folder holds adapters: pip install "ntps-lightning[huggingface]" to have peft')
    import peft

    from ntps_lightning.capture.backbone import refuse_prompt_learning

    name = str(content.get("peft_type"))
    kinds: dict[str, Any] = {kind.value: config for kind, config in peft.PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    if name not in kinds:
        raise NoModelError(f"peft {peft.__version__} knows no adapters of type {name!r}: pip install -U peft")
    refuse_prompt_learning(kinds[name]())
    base = content.get("base_model_name_or_path")
    if not base:
        raise NoModelError("adapter_config.json names no base_model_name_or_path: name the folder of the base model")
    return str(base)
