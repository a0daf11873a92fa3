"""A bounded choice of the samples whose pooled states are kept: the lowest hashes, whatever order they come in.

All rows of a group are kept or none, and a group that was dropped stays out: which are kept depends on the groups
alone, on neither batches, their order, nor how they are split over processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ntps_lightning.functional.hashing import mix, mix_keys, mix_rows
from ntps_lightning.functional.kept import KeptRows

_NONE_DROPPED = torch.iinfo(torch.int64).max
# Columns of the keys.
_GROUP, _ID, _TARGET, _COUNT, _CONFLICT = range(5)


@dataclass(frozen=True)
class KeptSamples:
    """Room for K rows.

    Args:
        keys: ``(K, 5)`` int64: hashes of each row's group, of its sample and of its target, of how many samples it is
            the row (0: the room is empty), and whether a sample of the same hash had another target.
        states: ``(K, d)`` float32 pooled states.
        targets: ``(K,)`` int64 classes or ``(K, C)`` float32 targets.
        limit: ``()`` int64, the lowest hash of a group that was dropped.

    """

    keys: Tensor
    states: Tensor
    targets: Tensor
    limit: Tensor

    @classmethod
    def empty(cls, capacity: int, hidden_size: int, num_outputs: int, *, classes: bool = True) -> KeptSamples:
        """Without rows."""
        shapes = kept_shapes(capacity, hidden_size, num_outputs, classes=classes)
        return cls(**{name: torch.full(shape, fill, dtype=dtype) for name, (shape, dtype, fill) in shapes.items()})

    def add_(self, states: Tensor, targets: Tensor, sample_ids: Tensor, group_ids: Tensor | None) -> None:
        """Add the samples of a batch, in place.

        Args:
            states: ``(N, d)`` pooled states.
            targets: ``(N,)`` int64 classes or ``(N, C)`` targets.
            sample_ids: ``(N,)`` int64, equal for copies of a sample.
            group_ids: ``(N,)`` int64, equal for samples that belong together; ``None``: each is a group.

        """
        if not len(self.keys):
            return
        samples = mix(sample_ids.to(self.keys.device))
        groups = samples if group_ids is None else mix(group_ids.to(self.keys.device))
        target = (targets if targets.ndim == 1 else mix_rows(targets.float())).to(self.keys.device)
        new = torch.stack([groups, samples, target, torch.ones_like(samples), torch.zeros_like(samples)], 1)
        chosen, keys, limit = _lowest(torch.cat([self.keys, new]), self.limit, len(self.keys))
        self.limit.copy_(limit)
        stay = chosen < len(self.keys)
        taken = chosen[stay]
        free = torch.ones(len(self.keys), dtype=torch.bool, device=taken.device)
        free[taken] = False
        slots = free.nonzero()[: int((~stay).sum()), 0]
        come = chosen[~stay] - len(self.keys)
        self.keys.zero_()
        self.keys[taken], self.keys[slots] = keys[stay], keys[~stay]
        self.states[slots] = states[come.to(states.device)].to(self.states)
        self.targets[slots] = targets[come.to(targets.device)].to(self.targets)

    def merged(self, others: Sequence[KeptSamples]) -> KeptSamples:
        """With what others kept of other samples."""
        parts = [self, *others]
        keys, states, targets = (torch.cat([getattr(p, name) for p in parts]) for name in ("keys", "states", "targets"))
        limit = torch.stack([part.limit for part in parts]).min()
        return KeptSamples(keys, states, targets, limit).trimmed(limit, len(self.keys))

    def without_rows(self) -> KeptSamples:
        """As if nothing had been added."""
        return replace(self, keys=torch.zeros_like(self.keys), limit=torch.full_like(self.limit, _NONE_DROPPED))

    def placed(self, keys: Tensor, limit: Tensor, part: int) -> KeptSamples:
        """The rows that stay of those of several processes, at their places; zero where they are another's.

        Args:
            keys: ``(W, K, 5)`` of every process.
            limit: the lowest of theirs.
            part: which of the W this is.

        """
        capacity = len(self.keys)
        chosen, kept, limit = _lowest(keys.flatten(0, 1), limit, capacity)
        place = (chosen // max(capacity, 1) == part).nonzero()[:, 0]
        row = chosen[place] - part * capacity
        states, targets = torch.zeros_like(self.states), torch.zeros_like(self.targets)
        states[place], targets[place] = self.states[row], self.targets[row]
        return KeptSamples(_padded(kept, capacity), states, targets, limit)

    def trimmed(self, limit: Tensor, capacity: int) -> KeptSamples:
        """The lowest of these rows, in an order that depends on them alone."""
        chosen, keys, limit = _lowest(self.keys, limit, capacity)
        keys, states, targets = (_padded(t, capacity) for t in (keys, self.states[chosen], self.targets[chosen]))
        return KeptSamples(keys, states, targets, limit)

    def rows(self, num_outputs: int) -> tuple[KeptRows, int]:
        """The rows whose targets are known, and how many have been left out since copies of them have others.

        They stand in the order of their hashes, so that they are the same bits however they were brought together.

        """
        found = self.trimmed(self.limit, len(self.keys))
        filled = found.keys[:, _COUNT] > 0
        known = filled & (found.keys[:, _CONFLICT] == 0)
        keys, targets = found.keys[known], found.targets[known]
        hashes, groups = torch.unique_consecutive(keys[:, _GROUP], return_inverse=True)
        order = torch.arange(len(hashes), device=hashes.device)
        if targets.ndim == 1:
            targets = torch.nn.functional.one_hot(targets, num_outputs)
        weights = keys[:, _COUNT]
        counts = torch.zeros_like(hashes).index_add_(0, groups, weights)
        rows = KeptRows(
            states=found.states[known].double(),
            targets=targets.double(),
            weights=weights.double(),
            groups=groups,
            halves=order % 2 == 0,
            digest=int(mix_keys(keys[:, :_CONFLICT])),
            group_digest=int(mix_keys(torch.stack([hashes, counts], 1))),
        )
        return rows, int((filled & ~known).sum())

    def to(self, device: torch.device | str) -> KeptSamples:
        """The same on another device."""
        return replace(self, **{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def kept_shapes(
    capacity: int, hidden_size: int, num_outputs: int, *, classes: bool = True
) -> dict[str, tuple[tuple[int, ...], torch.dtype, int]]:
    """Shape, dtype and empty value of every field of :class:`KeptSamples`."""
    targets = ((capacity,), torch.int64, 0) if classes else ((capacity, num_outputs), torch.float32, 0)
    return {
        "keys": ((capacity, 5), torch.int64, 0),
        "states": ((capacity, hidden_size), torch.float32, 0),
        "targets": targets,
        "limit": ((), torch.int64, _NONE_DROPPED),
    }


def _padded(rows: Tensor, capacity: int) -> Tensor:
    return torch.cat([rows, rows.new_zeros(capacity - len(rows), *rows.shape[1:])])


def _lowest(keys: Tensor, limit: Tensor, capacity: int) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the lowest groups that fit, their keys with copies counted, and the lowest group that does not."""
    candidates = ((keys[:, _COUNT] > 0) & (keys[:, _GROUP] < limit)).nonzero()[:, 0]
    order = candidates[keys[candidates, _ID].argsort(stable=True)]
    order = order[keys[order, _GROUP].argsort(stable=True)]
    keys = keys[order]
    _, copy_of = torch.unique_consecutive(keys[:, [_GROUP, _ID]], dim=0, return_inverse=True)
    count = int(copy_of[-1]) + 1 if len(copy_of) else 0
    first = torch.full((count,), len(keys), device=keys.device).scatter_reduce_(
        0, copy_of, torch.arange(len(keys), device=keys.device), "amin"
    )
    conflict = (keys[:, _TARGET] != keys[first[copy_of], _TARGET]) | (keys[:, _CONFLICT] > 0)
    found = keys[first].clone()
    found[:, _COUNT] = torch.zeros_like(first).index_add_(0, copy_of, keys[:, _COUNT])
    found[:, _CONFLICT] = torch.zeros_like(first).scatter_reduce_(0, copy_of, conflict.long(), "amax")
    if count <= capacity:
        return order[first], found, limit
    limit = found[capacity, _GROUP]  # the first group of which not all rows fit
    fits = found[:, _GROUP] < limit
    return order[first[fits]], found[fits], limit
