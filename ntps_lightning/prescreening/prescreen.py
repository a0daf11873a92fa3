"""Models on data sets before any finetuning: one pass of each over each."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.capture.backbone import Layers
from ntps_lightning.distributed import from_first_rank, rank_and_world_size, together
from ntps_lightning.errors import SetupError, first_line
from ntps_lightning.prescreening.cache import Cache, Key, default_folder, renamed
from ntps_lightning.prescreening.devices import check_dtype, read_device
from ntps_lightning.prescreening.forward import measure_layers
from ntps_lightning.prescreening.measured import Measured
from ntps_lightning.prescreening.models import IN_MEMORY, ModelSource, Source, find_model
from ntps_lightning.prescreening.progress import told
from ntps_lightning.prescreening.result import Prescreen
from ntps_lightning.prescreening.texts import TextSet, read_texts
from ntps_lightning.prescreening.tokens import read_tokens

# Raised where numbers change while the package's version does not.
_NUMBERS = 1
_PACKAGES = ("ntps-lightning", "torch", "transformers")


def prescreen(
    models: Source | Sequence[Source] | Mapping[str, Source],
    data: Any,
    *,
    text: str = "text",
    label: str = "label",
    group: str | None = None,
    regression: bool = False,
    layers: Layers = "all",
    limit: int | None = None,
    max_length: int | None = 512,
    dtype: str = "auto",
    device: str | torch.device | None = None,
    seed: int = 0,
    cache: str | Path | None = None,
) -> Prescreen:
    """What a linear probe reads of each layer of each model on each data set, and how sure that is.

    Data are read and models are found before any is loaded. Each model is loaded once, runs once over each set of
    texts, and is let go. What was measured is kept on disk at once, so that a run that is broken off, or repeated with
    one model or set more, measures only what is new. (Where a new model's tokenizer sees texts as equal, or as empty,
    that the others told apart, it measures those too: all models read the same texts in the same groups.) Files are
    told apart by the content of models and data, the settings and the versions of this package, torch and transformers,
    not by names or devices. A model that fails costs a remark; where all do, the first error is raised.

    With ``torch.distributed`` every rank calls it with the same arguments, and texts are shared out. Numbers are the
    same each time on a CPU; on a GPU, where calls are as large as memory allows, but for rounding.

    Args:
        models: one or several, or a mapping of names to these: a folder that ``save_pretrained`` wrote, a folder of
            PEFT's adapters, an id on the hub, or a pair of a model in memory and its tokenizer, which is measured where
            and as it is.
        data: a labelled set (see :func:`~ntps_lightning.prescreening.texts.read_texts`), a list of paths or ids of
            such, or a mapping of names to sets.
        text: column of the texts.
        label: column of the classes or targets.
        group: column of what texts share that are not independent, such as a document or an author.
        regression: labels are targets, one number a text.
        layers: indices into what ``output_hidden_states=True`` returns, or ``"all"``.
        limit: the most texts of a set, chosen by a hash of each; ``None`` takes all.
        max_length: tokens after which a text ends; ``None``, or where the model takes fewer: at those.
        dtype: of the weights: ``"auto"`` as they were saved, ``"float32"``, ``"bfloat16"``, ``"float16"``,
            ``"float64"``.
        device: by default a GPU where CUDA has one, else the CPU.
        seed: of the choice of texts.
        cache: the folder of what was measured, by default ``ntps_lightning/prescreen`` in the user's cache. A model in
            memory is kept only where a folder is named: by configuration, weights and adapters, so that whoever hooks
            or patches it leaves that out.

    Raises:
        SetupError: (a ``ValueError``) If data, models or options are not what they should be; nothing was loaded then.
            Or where no model could be measured.

    """
    folder = default_folder() if cache is None else Path(cache).expanduser()
    reading: dict[str, Any] = {
        "text": text,
        "label": label,
        "group": group,
        "regression": regression,
        "limit": limit,
        "seed": seed,
    }
    with together():
        _check(layers, max_length)
        check_dtype(dtype)
        place = read_device(device)
        if folder.exists() and not folder.is_dir():
            raise SetupError(f"cache must be a folder, {folder} is a file")
        sets = [read_texts(source, name=name, **reading) for name, source in _named_data(data, {text, label})]
        sources = [_found(source, name, hashed=cache is not None) for name, source in _named_models(models)]
        _refuse_twice([texts.name for texts in sets], "data sets", "data")
        _refuse_twice([source.name for source in sources], "models", "models")
        _check_in_memory(sources, dtype, device)
        _check_depths(sources, layers)
        tokenizers = {source.name: source.tokenizer for source in sources}
        seen = [read_tokens(texts, tokenizers, max_length) for texts in sets]
    chosen = {"layers": layers if isinstance(layers, (str, int)) else list(layers), "max_length": max_length}
    versions = {name: _version(name) for name in _PACKAGES}
    kept = {**chosen, "dtype": dtype, "versions": versions, "numbers": _NUMBERS}
    run = _Run(Cache(folder, kept), place, dtype, chosen, versions)
    measured = [each for source in sources for each in run.measure(source, seen)]
    if not measured and run.first is not None:
        if isinstance(run.first, SetupError):
            raise run.first
        raise SetupError(
            f"no model could be measured ({type(run.first).__name__}: {first_line(run.first)})"
        ) from run.first
    settings = {**reading, **chosen, "dtype": dtype, "device": ", ".join(sorted({each.device for each in measured}))}
    return Prescreen(tuple(measured), settings, versions, tuple(run.remarks))


class _Run:
    """Models one after the other.

    Args:
        cache: what was measured before.
        device: where models are loaded.
        dtype: of their weights.
        options: of a pass.
        versions: of packages.

    Attributes:
        remarks: what went wrong.
        first: the first error that cost a measurement.

    """

    def __init__(
        self,
        cache: Cache,
        device: torch.device,
        dtype: str,
        options: Mapping[str, Any],
        versions: Mapping[str, str],
    ) -> None:
        self.remarks: list[str] = []
        self.first: Exception | None = None
        self._cache = cache
        self._device = device
        self._dtype = dtype
        self._options = options
        self._versions = versions
        self._measured = False
        self._waiting: list[str] = []
        self._keys: dict[str, Key] = {}

    def measure(self, source: ModelSource, seen: Sequence[tuple[TextSet, Mapping[str, str]]]) -> list[Measured]:
        """A model on each set, where it has not been measured before; it is loaded only then.

        Args:
            source: the model.
            seen: the sets, and for each model a hash of their tokens.

        """
        sets = [texts for texts, _ in seen]
        self._keys = {
            texts.name: Key(source.model_id, texts.data_id, tokens[source.name])
            for texts, tokens in seen
            if source.model_id != IN_MEMORY and tokens[source.name]
        }
        found = {texts.name: self._before(texts) for texts in sets}
        missing = [texts for texts in sets if found[texts.name] is None]
        try:
            if missing:
                found |= self._anew(source, missing)
        finally:
            gc.collect()
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
        if any(found.values()):
            self._succeeded()
        return [
            renamed(measured, source.name, texts.name, texts.remarks)
            for texts in sets
            if (measured := found[texts.name]) is not None
        ]

    def _before(self, texts: TextSet) -> Measured | None:
        found, remark = None, ""
        if rank_and_world_size()[0] == 0 and texts.name in self._keys:
            found, remark = self._cache.read(self._keys[texts.name])
        found, remark = from_first_rank((found, remark))
        self._remark(remark)
        return found

    def _anew(self, source: ModelSource, sets: Sequence[TextSet]) -> dict[str, Measured | None]:
        found: dict[str, Measured | None] = {}
        try:
            with together():
                model, tokenizer = source.load(self._device, self._dtype)
        except Exception as error:
            self._failed(source.name, error)
            return found
        for texts in sets:
            try:
                found[texts.name] = self._on(source, model, tokenizer, texts)
            except Exception as error:  # whatever somebody's model or tokenizer raises costs this measurement alone
                self._failed(f"{source.name} on {texts.name}", error)
        return found

    def _on(self, source: ModelSource, model: nn.Module, tokenizer: Any, texts: TextSet) -> Measured:
        begin = time.perf_counter()
        found = measure_layers(model, tokenizer, texts, what=f"{source.name} on {texts.name}", **self._options)
        measured = Measured(
            model=source.name,
            data=texts.name,
            model_id=source.model_id,
            data_id=texts.data_id,
            num_samples=found.num_samples,
            num_kept=found.num_kept,
            class_names=texts.class_names,
            hidden_size=found.hidden_size,
            layers=found.layers,
            seconds=from_first_rank(time.perf_counter() - begin),
            remarks=found.remarks,
            versions=self._versions,
            device=str(next(model.parameters(), torch.empty(0, device=self._device)).device),
        )
        if rank_and_world_size()[0] == 0 and texts.name in self._keys:
            self._remark(self._cache.write(self._keys[texts.name], measured))
        return measured

    def _failed(self, where: str, error: Exception) -> None:
        """Told at once, but for the first error, which is raised where nothing can be measured."""
        said = str(error) if isinstance(error, SetupError) else first_line(error)
        self._remark(f"not measured: {where}: {said}", wait=self.first is None and not self._measured)
        self.first = self.first or _without_frames(error)

    def _succeeded(self) -> None:
        self._measured = True
        waiting, self._waiting = self._waiting, []
        for remark in waiting:
            rank_zero_warn(remark)

    def _remark(self, remark: str, *, wait: bool = False) -> None:
        if not remark:
            return
        self.remarks.append(remark)
        if wait:
            self._waiting.append(remark)
        else:
            rank_zero_warn(remark)


def _without_frames(error: Exception) -> Exception:
    """They would hold the model, and its memory."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _check(layers: Any, max_length: Any) -> None:
    indices = [layers] if isinstance(layers, int) else layers
    sound = isinstance(indices, (list, tuple, range)) and len(indices) and all(type(index) is int for index in indices)
    if layers != "all" and not sound:
        raise SetupError(f'layers must be "all", an index or a list of these, got {layers!r}')
    if max_length is not None and (not isinstance(max_length, int) or max_length < 2):
        raise SetupError(f"max_length must be a number of tokens, at least 2, or None, got {max_length!r}")


def _named_data(data: Any, columns: set[str]) -> Iterable[tuple[str | None, Any]]:
    """Of one set, or of several by name; paths are names, and a ``DatasetDict`` names its splits."""
    if isinstance(data, (list, tuple)) and data and all(isinstance(each, (str, Path)) for each in data):
        return [(str(each), each) for each in data]
    if not isinstance(data, Mapping):
        return [(None, data)]
    if columns <= set(data):
        raise SetupError(
            f"data is a mapping of the columns {sorted(columns)}, not of names to sets: give rows, such as"
            " pandas.DataFrame(data)"
        )
    if not data:
        raise SetupError("data holds no set: give a labelled set, or a mapping of names to sets")
    return [(str(name), source) for name, source in data.items()]


def _named_models(models: Any) -> Iterable[tuple[str | None, Any]]:
    found: list[tuple[str | None, Any]]
    if isinstance(models, Mapping):
        found = [(str(name), source) for name, source in models.items()]
    elif isinstance(models, (str, Path, nn.Module)) or (isinstance(models, tuple) and _is_pair(models)):
        found = [(None, models)]
    elif isinstance(models, Iterable):
        found = [(None, source) for source in models]
    else:
        found = [(None, models)]
    if not found:
        raise SetupError("models holds no model: give at least one path, hub id or pair (model, tokenizer)")
    return found


def _found(source: Any, name: str | None, *, hashed: bool) -> ModelSource:
    """All of its weights are read, for their hash."""
    with told(f"reading {name or (source if isinstance(source, (str, Path)) else 'a model')}"):
        return find_model(source, name, hashed=hashed)


def _is_pair(models: tuple[Any, ...]) -> bool:
    return len(models) == 2 and isinstance(models[0], nn.Module)


def _refuse_twice(names: Sequence[str], what: str, argument: str) -> None:
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise SetupError(f"two {what} are called {twice!r}: name them, {argument}={{'a': ..., 'b': ...}}")


def _check_in_memory(sources: Sequence[ModelSource], dtype: str, device: Any) -> None:
    for source in sources:
        if source.in_memory and (dtype != "auto" or device is not None):
            raise SetupError(
                f"{source.name} is in memory, and is measured where and as it is: leave out dtype and device"
            )


def _check_depths(sources: Sequence[ModelSource], layers: Layers) -> None:
    """As far as configurations tell, before weights are loaded."""
    wanted = [] if isinstance(layers, str) else [layers] if isinstance(layers, int) else layers
    for source in sources:
        depth = source.num_layers
        outside = [] if depth is None else [index for index in wanted if not -depth - 1 <= index <= depth]
        if outside:
            raise SetupError(
                f"layers must be all or indices in [{-1 - (depth or 0)}, {depth}] for {source.name}, got {outside[0]}"
            )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
