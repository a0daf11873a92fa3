"""What a batch says of its samples: their labels, padding and ids, and which of them are this rank's to count."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler

from ntps_lightning.errors import SetupError

BatchItem = str | int | Callable[[Any], Any]


@dataclass(frozen=True)
class Batch:
    """What a batch says of its samples.

    Args:
        labels: ``(N,)`` class indices, or ``(N,)`` / ``(N, C)`` floating targets. Samples of class -100 are left out.
        attention_mask: ``(N, T)``, or ``None`` to take the one that the model is called with.
        input_ids: tensors one of which the model's call must carry as its ids, where they have the same shape.
        keep: ``(N,)`` bool, false at samples that another rank has already; ``None`` keeps all.

    """

    labels: Tensor
    attention_mask: Tensor | None = None
    input_ids: Sequence[Tensor] = ()
    keep: Tensor | None = None


def item(batch: Any, where: BatchItem, what: str) -> Tensor:
    """The item of a batch that ``where`` names, as a tensor."""
    if batch is None:
        raise SetupError("validation_step takes a dataloader_iter, so that no batch is seen; take (batch, batch_idx)")
    try:
        if callable(where):
            found = where(batch)
        elif isinstance(where, str) and not isinstance(batch, Mapping):
            found = getattr(batch, where)
        else:
            found = batch[where]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        keys = f" with keys {sorted(map(str, batch))}" if isinstance(batch, Mapping) else ""
        size = f" of {len(batch)}" if isinstance(batch, (list, tuple)) else ""
        raise SetupError(
            f"found no {what} at {where!r} in a batch that is a {type(batch).__name__}{keys}{size}; say where they are"
            f" with NTPSCallback({what}=...): a key, an index, an attribute, or a function of the batch"
        ) from error
    try:
        return torch.as_tensor(found)
    except (TypeError, ValueError, RuntimeError) as error:
        raise SetupError(
            f"{what} at {where!r} are a {type(found).__name__} that makes no tensor ({error}); give a function of the"
            f" batch that returns one, with NTPSCallback({what}=...)"
        ) from error


def input_ids(batch: Any) -> list[Tensor]:
    """What the model's call may carry as its ids: the batch's own, or any tensor of a tuple."""
    if isinstance(batch, Mapping):
        found = [batch.get("input_ids")]
    elif isinstance(batch, (list, tuple)):
        found = [t for t in batch if isinstance(t, Tensor) and not t.is_floating_point()]
    else:
        found = [getattr(batch, "input_ids", None)]
    return [t for t in found if isinstance(t, Tensor)]


def own_samples(trainer: Any, dataloader_idx: int, first: int, count: int) -> Tensor | None:
    """Which of a rank's samples no other rank counts.

    Args:
        trainer: the Lightning trainer.
        dataloader_idx: which of the validation dataloaders they come from.
        first: how many samples the rank has drawn before these.
        count: how many these are.

    Returns:
        ``(count,)`` bool, or ``None`` where all are its own.

    """
    if _repeats_another_rank(trainer):
        return torch.zeros(count, dtype=torch.bool)
    return _padding_duplicates(_nth_loader(trainer.val_dataloaders, dataloader_idx), first, count)


def refuse_empty_loaders(trainer: Any) -> None:
    """Lightning can be told to skip validation on ranks whose loader has length zero; the others would wait for them.

    Raises:
        SetupError: On every rank, if a rank will skip its validation.

    """
    flag = "allow_zero_length_dataloader_with_multiple_devices"
    if not any(getattr(owner, flag, False) for owner in (trainer.lightning_module, trainer.datamodule)):
        return
    loop = trainer.fit_loop.epoch_loop.val_loop
    loop.setup_data()
    skipped = torch.tensor(float(trainer.enable_validation and loop.skip), device=trainer.strategy.root_device)
    if float(trainer.strategy.reduce(skipped, reduce_op="max")):
        raise SetupError(
            "a rank has a validation dataloader of length zero, and skips validation while the other ranks wait for it"
            " to agree on the score; give every rank a batch, or an IterableDataset without length"
        )


def _repeats_another_rank(trainer: Any) -> bool:
    """Ranks that split a model over a tensor see the same samples: the first of them counts."""
    mesh = getattr(trainer.strategy, "device_mesh", None)
    names = getattr(mesh, "mesh_dim_names", None) or ()
    return "tensor_parallel" in names and mesh["tensor_parallel"].get_local_rank() != 0  # type: ignore[index]


def _padding_duplicates(loader: Any, first: int, count: int) -> Tensor | None:
    """Which of a rank's samples are its own, where a DistributedSampler repeats some to even out the ranks.

    Args:
        loader: the rank's dataloader.
        first: how many samples the rank has drawn before these.
        count: how many these are.

    Returns:
        ``(count,)`` bool, or ``None`` where nothing is repeated.

    """
    sampler = getattr(getattr(loader, "batch_sampler", None), "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    position = sampler.rank + sampler.num_replicas * torch.arange(first, first + count)
    own: Tensor = position < len(sampler.dataset)  # type: ignore[arg-type]
    return own


def _nth_loader(loaders: Any, index: int) -> Any:
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return loaders[index] if isinstance(loaders, (list, tuple)) else loaders
