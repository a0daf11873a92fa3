"""Which samples are this rank's to count, and ranks that would leave the others waiting."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DistributedSampler
from torchmetrics.utilities import rank_zero_warn

from ntps_lightning.errors import SetupError
from ntps_lightning.watch.side_pass import Place

# PyTorch's and Lightning's, by name, since Lightning comes under two.
_IN_ORDER = {"BatchSampler", "DistributedSampler", "DistributedSamplerWrapper"}


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


def place_of(trainer: Any) -> Place | None:
    """This rank's place among those that share out a side set, where some split the model over a tensor."""
    mesh = getattr(trainer.strategy, "device_mesh", None)
    if "data_parallel" not in (getattr(mesh, "mesh_dim_names", None) or ()):
        return None
    data = mesh["data_parallel"]  # type: ignore[index]
    return Place(data.get_local_rank(), data.size(), counts=not _repeats_another_rank(trainer))


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

    Only where its order is that of the batches; a batch sampler that reorders samples hides which ones are repeated.

    Args:
        loader: the rank's dataloader.
        first: how many samples the rank has drawn before these.
        count: how many these are.

    Returns:
        ``(count,)`` bool, or ``None`` where nothing is repeated.

    """
    batch_sampler = getattr(loader, "batch_sampler", None)
    sampler = getattr(batch_sampler, "sampler", None) or getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or sampler.drop_last:
        return None
    repeated = sampler.total_size - len(sampler.dataset)  # type: ignore[arg-type]
    reordering = [type(each).__name__ for each in (batch_sampler, sampler) if each is not None and not _in_order(each)]
    if repeated and reordering:
        if first == 0:
            rank_zero_warn(
                f"the {repeated} samples that DistributedSampler repeats to even out the ranks cannot be told, since"
                f" {reordering[0]} may reorder them: they count twice in NTPS"
            )
        return None
    position = sampler.rank + sampler.num_replicas * torch.arange(first, first + count)
    own: Tensor = position < len(sampler.dataset)  # type: ignore[arg-type]
    return own


def _in_order(sampler: Any) -> bool:
    return type(sampler).__iter__.__qualname__.partition(".")[0] in _IN_ORDER


def _nth_loader(loaders: Any, index: int) -> Any:
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    return loaders[index] if isinstance(loaders, (list, tuple)) else loaders
