"""Where models come from: found and refused before any is loaded, told apart by their content."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ntps_lightning.adapters import base_of
from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.hub import HUB_ID, why_unreachable
from ntps_lightning.model_files import NoModelError, read_json
from ntps_lightning.prescreening.content import folder_id, has_weights, module_id, wanted_files
from ntps_lightning.prescreening.loading import (
    load_adapters,
    load_model,
    load_tokenizer,
    num_layers,
    read_configuration,
    refuse_configuration,
)

# A path, an id on the hub, or a model with its tokenizer.
Source = str | Path | tuple[nn.Module, Any]


# The id of a model whose content nobody asked about.
IN_MEMORY = "in memory"


@dataclass(frozen=True)
class ModelSource:
    """A model that can be loaded.

    Args:
        name: what it is called.
        model_id: a hash of its content: of configuration, weights and, in a folder, the tokenizer; or ``IN_MEMORY``.
        tokenizer: its tokenizer.
        in_memory: whether it is the user's own, which stays on its device and is not let go.
        loader: makes the model on a device, in a dtype (``"auto"``: of its weights).
        num_layers: that its configuration declares, if it does.

    """

    name: str
    model_id: str
    tokenizer: Any
    in_memory: bool
    loader: Callable[[torch.device, str], nn.Module]
    num_layers: int | None = None

    def load(self, device: torch.device, dtype: str = "auto") -> tuple[nn.Module, Any]:
        """The model, in evaluation mode where it is loaded here, and its tokenizer.

        Raises:
            SetupError: If it cannot be loaded.

        """
        try:
            return self.loader(device, dtype), self.tokenizer
        except SetupError:
            raise
        except Exception as error:  # whatever a checkpoint or its libraries raise
            raise SetupError(f"{self.name} cannot be loaded ({type(error).__name__}: {first_line(error)})") from error


def find_model(source: Source, name: str | None = None, *, hashed: bool = True) -> ModelSource:
    """Find a model, without loading its weights.

    Args:
        source: a folder that ``save_pretrained`` wrote; a folder of PEFT's adapters, whose base it names; an id on the
            hub, whose files are fetched; or a pair of a model in memory and its tokenizer.
        name: what to call it; by default its path or id, or its class.
        hashed: whether a model in memory is told apart by its content.

    Raises:
        SetupError: If there is none, or it is of a kind that cannot be scored, as far as its files tell.

    """
    if isinstance(source, (str, Path)):
        return _of_folder(str(source), name or str(source))
    if isinstance(source, (tuple, list)) and len(source) == 2 and isinstance(source[0], nn.Module):
        model, tokenizer = source
        if not callable(tokenizer):
            raise SetupError(f"a model in memory comes with its tokenizer; got a {type(tokenizer).__name__} beside it")
        name = name or type(model).__name__
        model_id = module_id(model) if hashed else IN_MEMORY
        depth = num_layers(getattr(model, "config", None))
        return ModelSource(name, model_id, tokenizer, True, lambda device, dtype: model, depth)
    if isinstance(source, nn.Module):
        raise SetupError(f"a model in memory comes with its tokenizer: give ({type(source).__name__}, tokenizer)")
    raise SetupError(
        "models are paths, ids on the hub or pairs (model, tokenizer); got a"
        f" {type(source).__name__}{f' of {len(source)}' if isinstance(source, (tuple, list)) else ''}"
    )


def _of_folder(where: str, name: str) -> ModelSource:
    folder = _folder(where)
    try:
        if (folder / "adapter_config.json").exists():
            return _of_adapters(folder, name)
        if not (folder / "config.json").exists():
            raise SetupError(
                f"{where} has no config.json and no adapter_config.json: name a folder that save_pretrained wrote, or a"
                " hub id"
            )
        _check_weights(folder, where)
        refuse_configuration(read_json(folder / "config.json"), where)
    except SetupError:
        raise
    except (NoModelError, ValueError, OSError) as error:
        raise SetupError(f"{where}: {error}") from error
    return ModelSource(
        name,
        folder_id(folder),
        load_tokenizer([folder], where),
        False,
        lambda device, dtype: load_model(folder, device, dtype),
        _depth(folder, where),
    )


def _of_adapters(folder: Path, name: str) -> ModelSource:
    content = read_json(folder / "adapter_config.json")
    base_name = base_of(content)
    base = _folder(base_name)
    if not (base / "config.json").exists():
        raise SetupError(f"{folder} holds adapters of {base_name}, which has no config.json")
    _check_weights(folder, str(folder))
    _check_weights(base, base_name)
    refuse_configuration(read_json(base / "config.json"), base_name)
    return ModelSource(
        name,
        f"{folder_id(folder)} on {folder_id(base)}",
        load_tokenizer([folder, base], str(folder)),
        False,
        lambda device, dtype: load_adapters(folder, base, content, device, dtype),
        _depth(base, base_name),
    )


def _depth(folder: Path, where: str) -> int | None:
    try:
        return num_layers(read_configuration(folder))
    except Exception as error:  # whatever a configuration raises that is no such
        raise SetupError(f"the configuration of {where} cannot be read ({first_line(error)})") from error


def _check_weights(folder: Path, where: str) -> None:
    if not has_weights(folder):
        raise SetupError(f"{where} holds no weights (.safetensors, or pytorch_model.bin)")


def _folder(where: str) -> Path:
    path = Path(where).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise SetupError(f"{where} is a file: name the folder that holds the model's config.json")
    if not HUB_ID.fullmatch(where):
        raise SetupError(f"there is no folder {where}: name one that save_pretrained wrote, or a hub id")
    return _fetched(where)


def _fetched(name: str) -> Path:
    """The files of a repository on the hub, those that are needed, in its client's cache."""
    from huggingface_hub import HfApi, snapshot_download

    unreachable = why_unreachable()
    try:
        if unreachable:
            return Path(snapshot_download(name, local_files_only=True))
        return Path(snapshot_download(name, allow_patterns=wanted_files(HfApi().list_repo_files(name))))
    except Exception as error:  # no such repository, a gated one, no network, no room, ...
        if unreachable:
            raise SetupError(
                f"there is no folder {name}, and {unreachable}, if that is a hub id: name a folder, or fetch it where"
                f" it can (hf download {name})"
            ) from error
        raise SetupError(
            f"there is no folder {name}, and the hub did not hand out its files ({type(error).__name__}:"
            f" {first_line(error)}): check the name, or log in (hf auth login)"
        ) from error
