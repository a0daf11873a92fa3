"""NTPS as a torchmetrics metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import rank_zero_warn
from torchmetrics.utilities.distributed import gather_all_tensors
from torchmetrics.utilities.plot import _AX_TYPE, _PLOT_OUT_TYPE
from typing_extensions import Unpack, override

from ntps_lightning.distributed import gather_tensor, rank_and_world_size, rank_in, sum_over_ranks_, together
from ntps_lightning.functional.accumulate import accumulate_
from ntps_lightning.functional.details import NTPSDetails, few_samples_warning
from ntps_lightning.functional.inputs import to_tensor
from ntps_lightning.functional.kept_samples import KeptSamples, kept_shapes
from ntps_lightning.functional.moments import Moments, moment_shapes
from ntps_lightning.functional.options import ScoreKeywords, ScoreOptions
from ntps_lightning.functional.packed_batch import PackedBatch
from ntps_lightning.functional.score import score_details
from ntps_lightning.functional.targets import check_classes, read_labels

# More than any rank sees, so that positions of different ranks differ.
_MOST_SAMPLES_OF_A_RANK = 2**40


class MetricKeywords(ScoreKeywords, total=False):
    """The options of the score, and those of :class:`torchmetrics.Metric`."""

    compute_on_cpu: bool
    dist_sync_on_step: bool
    process_group: Any
    dist_sync_fn: Callable[..., Any] | None
    distributed_available_fn: Callable[..., Any] | None
    sync_on_compute: bool
    compute_with_cache: bool


class NextTokenPerceptionScore(Metric):
    r"""Next Token Perception Score (`arXiv 2505.17169 <https://arxiv.org/abs/2505.17169>`_), accumulated over batches.

    The share of the subspace that the labels need which lies in the subspace that next-token prediction favours:
    :math:`\|P U\|_F^2 / \|U\|_F^2`, see :func:`~ntps_lightning.next_token_perception_score`. All states are sums over
    samples in float64, ``3 d^2 + d C`` numbers, and ``C^2`` for targets: batches, their order and their split over
    ranks change nothing but rounding. Products of float32 and narrower hidden states are float32.

    As input to ``forward`` and ``update`` the metric accepts the following input:

        - ``hidden_states`` (:class:`~torch.Tensor`): ``(N, T, d)`` of one layer, any floating dtype.
        - ``labels`` (:class:`~torch.Tensor`): ``(N,)`` integer class indices; with ``num_outputs``, ``(N,)`` or
          ``(N, num_outputs)`` floating regression targets, or ``(N, num_outputs)`` multi-hot integers.
        - ``attention_mask`` (:class:`~torch.Tensor`, optional): ``(N, T)``, 1 at valid tokens and 0 at padding, or at
          any others that are not to count, wherever they stand; or a
          :class:`~ntps_lightning.functional.PackedBatch`, worked out once for all layers.
        - ``sample_ids`` (:class:`~torch.Tensor`, optional): ``(N,)`` integers, equal for copies of a sample, by which
          rows are kept for held-out numbers; by default the rank and the position among its samples, so that of metrics
          which are merged the rows of the first alone are kept.
        - ``group_ids`` (:class:`~torch.Tensor`, optional): ``(N,)`` integers, equal for samples that are not
          independent, such as windows of one text: held-out numbers leave them out together.

    As output of ``forward`` and ``compute`` the metric returns the following output:

        - ``ntps`` (:class:`~torch.Tensor`): a scalar float64 tensor in [0, 1], higher is better; of ``forward`` NaN,
          with a warning, where the batch has no score of its own (a single class).

    :meth:`details` returns what is needed to read it: null, lift, curves over k, and what a probe reads held out.

    Args:
        hidden_size: size d of the hidden states.
        num_classes: number of classes C.
        kept: pooled states that are kept for held-out numbers, float32: those with the lowest hashes of their ids, the
            same however batches are made and split over ranks. 0 keeps none.
        controls: also measure what the same tokens would show in any order, ``held_out.bag_r2``: ``d^2`` numbers more,
            and float64 products that double the time of adding a batch on a CPU.
        num_outputs: number of targets instead of classes: real ones, or labels of which a sample has any number. Each
            is divided by its standard deviation, so that all count alike.
        kwargs: ``k``, ``ridge``, ``center``, ``orthonormal``, ``pooling`` and ``precision``, see
            :class:`~ntps_lightning.ScoreOptions`; and those of :class:`torchmetrics.Metric`.

    Attributes:
        options: the :class:`~ntps_lightning.ScoreOptions`.

    Raises:
        ValueError: If not exactly one of ``num_classes`` and ``num_outputs`` is given, if an option is out of range,
            if ``update`` gets bad input (nothing is added then), or if ``compute`` finds no sample or a single class.

    Example:
        >>> import torch
        >>> from ntps_lightning import NextTokenPerceptionScore
        >>> generator = torch.Generator().manual_seed(0)
        >>> metric = NextTokenPerceptionScore(hidden_size=16, num_classes=2, k=4)
        >>> for _ in range(4):
        ...     hidden_states = torch.randn(100, 12, 16, generator=generator)
        ...     metric.update(hidden_states, labels=(hidden_states.mean(1)[:, 0] > 0).long())
        >>> print(f"{metric.compute():.4f}, shuffled labels: {metric.details().null:.4f}")
        0.3994, shuffled labels: 0.2650

    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    num_samples: Tensor
    _first_id: int
    _ids_made_up: bool
    kept_keys: Tensor
    kept_targets: Tensor

    def __init__(
        self,
        hidden_size: int,
        num_classes: int | None = None,
        *,
        num_outputs: int | None = None,
        kept: int = 2048,
        controls: bool = False,
        **kwargs: Unpack[MetricKeywords],
    ) -> None:
        names = {field.name for field in fields(ScoreOptions)}
        options: Any = {name: value for name, value in kwargs.items() if name in names}
        super().__init__(**{name: value for name, value in kwargs.items() if name not in names})
        if (num_classes is None) == (num_outputs is None):
            raise ValueError(
                f"give num_classes (classification) or num_outputs (regression), got num_classes={num_classes},"
                f" num_outputs={num_outputs}"
            )
        size = num_classes or num_outputs or 0
        if kept < 0:
            raise ValueError(f"kept must be a number of rows, or 0 for none, got {kept}")
        if hidden_size < 1 or size < (1 if num_classes is None else 2):
            raise ValueError(
                f"need hidden_size >= 1 and at least 2 classes or 1 output, got hidden_size={hidden_size},"
                f" num_classes={num_classes}, num_outputs={num_outputs}"
            )
        self.options = ScoreOptions(**options)
        self.options.check_hidden_size(hidden_size)
        self.hidden_size = hidden_size
        self.num_classes = num_classes
        self.num_outputs = num_outputs
        self._first_id = 0
        self._ids_made_up = False
        self.kept = kept
        self.controls = controls and kept > 0
        for name in self._state_specs():
            reduction = None if name.startswith("kept_") else "sum"
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx=reduction)
        # Always zero: a MetricCollection shares states between metrics whose states have the same names and values.
        self.add_state(f"pooling_{self.options.pooling}", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self._expand_defaults()
        self.reset()

    @override
    def update(
        self,
        hidden_states: Tensor,
        labels: Tensor,
        attention_mask: Tensor | PackedBatch | None = None,
        sample_ids: Tensor | None = None,
        group_ids: Tensor | None = None,
    ) -> None:
        """Add a batch; for shapes and dtypes see the class.

        Raises:
            ValueError: If shapes disagree, a label is out of range, a sample has no valid token, a value is not finite
                or ids are no integers. Nothing is added then.

        """
        targets = self._read(labels)
        ids = None if sample_ids is None else _read_ids(sample_ids, "sample_ids", len(targets))
        groups = None if group_ids is None else _read_ids(group_ids, "group_ids", len(targets))
        if ids is None:
            first = self._first_id + int(self.num_samples) + rank_and_world_size()[0] * _MOST_SAMPLES_OF_A_RANK
            ids = torch.arange(first, first + len(targets))
            self._ids_made_up = True
        pooled = accumulate_(
            self._moments(),
            to_tensor(hidden_states, "hidden_states", "floating (N, T, d)"),
            targets,
            attention_mask,
            pooling=self.options.pooling,
            precision=self.options.precision,
        )
        self._kept().add_(pooled, targets, ids, groups)

    @override
    def compute(self) -> Tensor:
        """NTPS of all samples on all ranks, a scalar float64 tensor.

        Raises:
            ValueError: If there is no sample or a single class.

        """
        return torch.tensor(self._solve(whole_curve=False).score, dtype=torch.float64, device=self.device)

    def details(self, *, whole_curve: bool = True, sync: bool = True, estimators: bool = False) -> NTPSDetails:
        """The score and what is needed to read it, of all samples on all ranks. Every rank must call it.

        Args:
            whole_curve: curves over every k; else up to ``k`` alone, which is many times faster where d is large.
            sync: sum over all ranks first; else this rank alone is asked, and others need not call.
            estimators: also the learning curve, RankMe, H-score and LogME.

        Raises:
            ValueError: If there is no sample or a single class.

        """
        with self.sync_context(
            dist_sync_fn=self.dist_sync_fn, should_sync=sync and self._to_sync, should_unsync=self._should_unsync
        ):
            return self._solve(whole_curve, estimators)

    def reduce_(self, dst: int) -> None:
        """Move the samples of all ranks to rank ``dst``, in place; every rank must call it.

        The others' states mean nothing then, until they are reset. Unlike a sync it takes no copy of the states.
        """
        self._sum_over_ranks_(dst, self.process_group)

    def grow(self, num_classes: int) -> None:
        """Make room for classes up to ``num_classes``; those seen so far keep their sums. Never shrinks."""
        if self.num_classes is None or num_classes <= self.num_classes:
            return
        self.num_classes = num_classes
        self._expand_defaults()
        for name, (shape, _, _) in self._state_specs().items():
            old: Tensor = getattr(self, name)
            new = old.new_zeros(shape)
            new[tuple(map(slice, old.shape))] = old
            setattr(self, name, new)

    def move_classes(self, places: Sequence[int]) -> None:
        """Renumber the classes: class i becomes ``places[i]``; those that are not named hold nothing yet."""
        index = torch.tensor(places, dtype=torch.long, device=self.device)
        for name in ("target_sum", "pooled_target"):
            old: Tensor = getattr(self, name)
            setattr(self, name, torch.zeros_like(old).index_copy_(-1, index, old[..., : len(index)]))
        self.kept_targets = index[self.kept_targets]
        self.kept_keys = torch.cat([self.kept_keys[:, :2], self.kept_targets[:, None], self.kept_keys[:, 3:]], 1)

    @override
    def plot(self, val: Tensor | Sequence[Tensor] | None = None, ax: _AX_TYPE | None = None) -> _PLOT_OUT_TYPE:
        """Plot a single or multiple values from the metric.

        Args:
            val: Either a single result from calling ``forward`` or ``compute`` or a list of these results. If no
                value is provided, ``compute`` is called and its result plotted.
            ax: A matplotlib axis to plot to.

        Returns:
            Figure and axis.

        Raises:
            ModuleNotFoundError: If matplotlib is not installed.

        """
        return self._plot(val, ax)

    def _state_specs(self) -> dict[str, tuple[tuple[int, ...], torch.dtype, int]]:
        """Shape, dtype and empty value of every state."""
        d, size, classes = self.hidden_size, self.num_classes or self.num_outputs or 0, self.num_outputs is None
        shapes = moment_shapes(d, size, classes=classes, controls=self.controls)
        kept = kept_shapes(self.kept, d, size, classes=classes)
        sums = {name: (shape, torch.float64, 0) for name, shape in shapes.items()}
        return sums | {f"kept_{name}": spec for name, spec in kept.items()}

    def _read(self, labels: Any) -> Tensor:
        """Class indices in range, or as many targets as were declared."""
        targets = read_labels(labels, self.num_classes)
        if self.num_classes is not None:
            if targets.ndim == 2:
                raise ValueError(
                    f"labels are multi-hot, of shape {tuple(targets.shape)}, but num_classes={self.num_classes} means"
                    f" one class index a sample; make the metric with num_outputs={self.num_classes}"
                )
            check_classes(targets, self.num_classes)
        elif targets.ndim == 1:
            raise ValueError(
                f"labels are (N,) class indices, but num_outputs={self.num_outputs} means floating regression targets"
                " or (N, C) multi-hot integers; make the metric with num_classes"
            )
        elif targets.shape[1] != self.num_outputs:
            raise ValueError(f"targets have {targets.shape[1]} outputs, expected num_outputs={self.num_outputs}")
        return targets

    def _moments(self) -> Moments:
        return Moments(**{field.name: getattr(self, field.name) for field in fields(Moments)})

    def _kept(self) -> KeptSamples:
        return KeptSamples(**{field.name: getattr(self, f"kept_{field.name}") for field in fields(KeptSamples)})

    def _set_kept(self, kept: KeptSamples) -> None:
        for field in fields(KeptSamples):
            setattr(self, f"kept_{field.name}", getattr(kept, field.name))

    @override
    def _forward_reduce_state_update(self, *args: Any, **kwargs: Any) -> Tensor:
        """What ``forward`` does: the batch is scored in a metric of its own, so that whatever is wrong with it leaves
        the sums as they are. One that is added but has no score of its own, such as that of one class, gives NaN.
        """
        batch: Any = self.clone()
        batch.reset()
        batch._first_id = int(self._first_id + self.num_samples)
        batch._to_sync = self.dist_sync_on_step
        batch.update(*args, **kwargs)
        self._ids_made_up = batch._ids_made_up
        self._take({name: getattr(batch, name) for name in self._defaults}, batch._kept())
        self._update_count += 1
        self._computed = None
        try:
            score: Tensor = batch.compute()
            return score
        except ValueError as error:
            rank_zero_warn(f"the batch is added, but has no score of its own: {error}")
            return torch.tensor(torch.nan, dtype=torch.float64, device=self.device)

    @override
    def _reduce_states(self, incoming_state: dict[str, Any]) -> None:
        """Take the samples of another metric in, as ``merge_state`` does; its rows only where they were told by ids."""
        other = KeptSamples(**{field.name: incoming_state[f"kept_{field.name}"] for field in fields(KeptSamples)})
        self._take(incoming_state, other.without_rows() if self._ids_made_up else other)

    def _take(self, incoming_state: dict[str, Any], other: KeptSamples) -> None:
        self._set_kept(self._kept().merged([other]))
        for name in self._sums():
            setattr(self, name, getattr(self, name) + incoming_state[name])

    @override
    def _sync_dist(self, dist_sync_fn: Callable[..., Any] = gather_all_tensors, process_group: Any = None) -> None:
        """A few sums in place, where torchmetrics would gather a copy of every state from every rank."""
        if dist_sync_fn is not gather_all_tensors:
            super()._sync_dist(dist_sync_fn, process_group)
            of_ranks = zip(*(getattr(self, f"kept_{field.name}") for field in fields(KeptSamples)), strict=True)
            first, *others = (KeptSamples(*parts) for parts in of_ranks)
            self._set_kept(first.merged(others))
            return
        self._sum_over_ranks_(None, process_group or self.process_group)

    def _sum_over_ranks_(self, dst: int | None, group: Any) -> None:
        sum_over_ranks_([getattr(self, name) for name in self._sums()], dst, group)
        if self.kept:
            kept = self._kept()
            limit = gather_tensor(kept.limit, group).min()
            keys = gather_tensor(kept.keys, group)
            with together(group):
                placed = kept.placed(keys, limit, rank_in(group))
            for rows in (placed.states, placed.targets):
                sum_over_ranks_([rows], dst, group)
            self._set_kept(placed)

    def _sums(self) -> list[str]:
        return [name for name in self._defaults if not name.startswith("kept_")]

    def _solve(self, whole_curve: bool, estimators: bool = False) -> NTPSDetails:
        kept = self._kept() if self.kept else None
        details = score_details(
            self._moments(), kept, whole_curve=whole_curve, estimators=estimators, **asdict(self.options)
        )
        warning = few_samples_warning(details)
        if warning:
            rank_zero_warn(warning)
        return details

    def _expand_defaults(self) -> None:
        """Reset to one number seen as many, where torchmetrics would keep a second tensor of every state's size."""
        for name, (shape, dtype, empty) in self._state_specs().items():
            self._defaults[name] = torch.full((), empty, dtype=dtype, device=self.device).expand(shape)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], exclude_state: Sequence[str] = "") -> NextTokenPerceptionScore:
        """Move to a device, never to another dtype: a module's ``.to(bfloat16)`` would ruin the sums."""
        super()._apply(lambda tensor: tensor.to(fn(tensor.new_zeros(0)).device), exclude_state)
        self._expand_defaults()
        return self


def _read_ids(ids: Any, name: str, count: int) -> Tensor:
    ids = to_tensor(ids, name, "(N,) integers")
    if ids.is_floating_point() or ids.is_complex() or tuple(ids.shape) != (count,):
        raise ValueError(f"{name} must be integers of shape (N,) = ({count},), got {ids.dtype} {tuple(ids.shape)}")
    whole: Tensor = ids.long()
    return whole
