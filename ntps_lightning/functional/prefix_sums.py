r"""Sums over prefixes: one product of the prefix sums with themselves and with the next tokens.

At every token but the first of its sample stands a row :math:`[c_t, x_{t+1}, 1, t]`. The product of all rows with their
first d columns holds every sum over prefixes that the score needs.

Products are float32 (float64 of float64 hidden states), and their sums float64. They are taken of residuals from an
origin for each step that samples share (see :mod:`~ntps_lightning.functional.origins`) and one for all others; what
residuals leave out is added in float64 (METHOD 22).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from ntps_lightning.functional.finite import refuse_unsummable
from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.origins import Origins, find_origins
from ntps_lightning.functional.packed_batch import Part

# The tokens of one product; each takes 2 d + 2 numbers of scratch memory.
_MAX_TOKENS = 4096
# Of a symmetric product only the blocks from the diagonal down are computed, so many columns at a time.
_MAX_BLOCK = 768
# Below this sum of squares float32 products lose digits.
_VANISHING = 1e-15
# Rows that begin on a cache line are multiplied a tenth faster.
_ALIGNMENT = 16


@dataclass(frozen=True)
class PrefixSums:
    r"""The sums over prefixes of some samples, of residuals :math:`\tilde x_t = x_t - o_t`.

    Args:
        steps: ``(K, d)`` the origins of the first K steps.
        other: ``(d,)`` the origin of all others.
        blocks: sums of the products of :func:`_column_blocks`; the rows of the first K steps have zeros for ``1`` and
            ``t``.
        eps: machine epsilon of the products.
        prefix_residuals: ``(K, d)`` sums over samples of the prefix sums of residuals before each of the first K steps.
        token_residuals: ``(K, d)`` sums over samples of the residuals at each of them.
        residuals: ``(N, d)`` sum of the residuals of each sample.
        lengths: ``(N,)`` tokens of each sample, float64 as all that follows.

    """

    steps: Tensor
    other: Tensor
    blocks: list[Tensor]
    eps: float
    prefix_residuals: Tensor
    token_residuals: Tensor
    residuals: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> PrefixSums:
        """The same on another device."""
        blocks = [block.to(device) for block in self.blocks]
        tensors = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name not in ("blocks", "eps")}
        return PrefixSums(blocks=blocks, eps=self.eps, **tensors)

    def check(self) -> tuple[bool, float]:
        """Whether all is finite, and the sum of the squares of the prefix sums of residuals."""
        d = len(self.other)
        total = sum((block.sum() for block in self.blocks), self.residuals.sum())
        starts = (low for low, _ in _column_blocks(d))
        diagonals = [block.diagonal().sum() for _, block in zip(starts, self.blocks, strict=False)]
        found = torch.stack([total, sum(diagonals, torch.zeros_like(total))]).tolist()
        return math.isfinite(found[0]), found[1]

    def times(self, factor: float) -> PrefixSums:
        """Those of hidden states that are ``factor`` times as large."""
        linear = ("steps", "other", "prefix_residuals", "token_residuals", "residuals")
        blocks = [torch.cat([block[:-2] * factor**2, block[-2:] * factor]) for block in self.blocks]
        return replace(self, blocks=blocks, **{name: getattr(self, name) * factor for name in linear})

    def totals(self) -> Tensor:
        """``(N, d)`` sum of the tokens of each sample."""
        own = self.lengths.long().clamp(max=len(self.steps))
        common = self.steps.cumsum(0)[own - 1]
        return (self.residuals + common).addr_(self.lengths - own, self.other)

    def add_to_(self, moments: Moments) -> None:
        """Add them to ``moments`` in place, as measured from no origin."""
        steps, other, lengths = self.steps, self.other, self.lengths
        d = len(other)
        at = torch.arange(len(steps), dtype=lengths.dtype, device=lengths.device)
        counts = (lengths > at[:, None]).sum(1).double()
        counts[0] = 0  # no row stands at a first token
        blocks = list(zip(_column_blocks(d), self.blocks, strict=False))
        tail = torch.cat([block[-2:] for _, block in blocks], 1) if blocks else other.new_zeros(2, d)
        # Rows of the first K steps, each with its own common part, and of all others, whose common part is a + t o.
        before = steps.cumsum(0) - steps
        a = before[-1] + steps[-1] - len(steps) * other
        n0, n1, n2 = _position_sums(lengths)
        m0, m1, m2 = n0 - counts.sum(), n1 - counts @ at, n2 - counts @ at.square()
        x0 = self.residuals.sum(0) - self.token_residuals.sum(0)
        # By parts: the sum over rows of t times the token.
        weighted = (lengths - 1) @ self.residuals - tail[0] - self.prefix_residuals[1:].sum(0)
        x1 = weighted - at @ self.token_residuals
        zero, none = torch.zeros_like(other), other.new_zeros(2)
        left = [
            torch.cat([tail[0], x0, torch.stack([m0, m1])]),
            torch.cat([tail[1], x1, torch.stack([m1, m2])]),
            torch.cat([a, other, none]),
            torch.cat([other, zero, none]),
        ]
        right = [a, other, tail[0] + m0 * a + m1 * other, tail[1] + m1 * a + m2 * other]
        common = torch.cat([before, steps, torch.ones_like(at)[:, None], at[:, None]], 1)
        rest = torch.cat([self.prefix_residuals, self.token_residuals, common.new_zeros(len(at), 2)], 1)
        sums = self.prefix_residuals + counts[:, None] * before
        rows = torch.cat([torch.stack(left), rest[1:], common[1:]]).T
        columns = torch.cat([torch.stack(right), before[1:], sums[1:]])
        for (low, high), block in blocks:
            moments.prefix_products[low:, low:high].add_(block).addmm_(rows[low:], columns[:, low:high])
            moments.rounding[low:high].add_(block[: high - low].diagonal(), alpha=self.eps)
        moments.next_sum.add_(weighted + (counts * at) @ steps + m1 * other)
        moments.position_sums.add_(torch.stack([n0, n1, n2]))


def prefix_sums(hidden_states: Tensor, part: Part) -> PrefixSums:
    """The sums over prefixes of ``(N, T, d)`` hidden states of any floating dtype.

    States whose products overflow or vanish are multiplied by a power of two first, which changes no bit of the result.

    Raises:
        ValueError: If a valid value is not finite, or of float64 ones too large.

    """
    found = _sums(hidden_states, part)
    finite, size = found.check()
    if finite and (size >= _VANISHING or not found.blocks):
        return found
    if not finite:
        refuse_unsummable(hidden_states, part)
    largest = float(part.gather(hidden_states, 0, hidden_states.shape[1]).abs().amax())
    exponent = max(-126, min(math.frexp(largest)[1], 126))
    if exponent == 0:
        return found
    scaled = hidden_states.to(torch.promote_types(hidden_states.dtype, torch.float32)) * 2.0**-exponent
    return _sums(scaled, part).times(2.0**exponent)


def _sums(hidden_states: Tensor, part: Part) -> PrefixSums:
    origins = find_origins(hidden_states, part)
    dtype, d = origins.other.dtype, hidden_states.shape[2]
    first = part.gather(hidden_states, 0, 1).reshape(-1, d).to(dtype) - origins.steps[0]
    running = _Running(first)
    own = len(origins.steps)
    prefix_residuals = [torch.zeros_like(origins.steps[:1]).double()]
    token_residuals = [first.double().sum(0, keepdim=True)]
    blocks: list[Tensor] = []
    chunks = [(start, end, sum(part.counts[start:end])) for start, end in part.chunks(_MAX_TOKENS)]
    scratch = _scratch(max((size for *_, size in chunks), default=0), first)
    for start, end, size in chunks:
        rows = scratch[:size]
        _fill_residuals_(rows[:, d : 2 * d], hidden_states, part, (start, end), origins)
        rows[:, -2] = 1
        rows[:, -1] = part.position[part.tokens(start, end)]
        running.fill_(rows[:, :d], rows[:, d : 2 * d], part.runs(start, end))
        offset = 0
        for num_steps, count in part.runs(start, min(end, own)):
            at = rows[offset : offset + num_steps * count]
            steps = at[:, : 2 * d].view(num_steps, count, 2 * d)
            # One sum over all of them is four times slower on a CPU.
            sums = torch.stack([step.sum(0, dtype=torch.float64) for step in steps])
            prefix_residuals.append(sums[:, :d])
            token_residuals.append(sums[:, d:])
            at[:, -2:] = 0
            offset += len(at)
        blocks = _add_products(blocks, rows)
    return PrefixSums(
        steps=origins.steps.double(),
        other=origins.other.double(),
        blocks=blocks,
        eps=torch.finfo(dtype).eps,
        prefix_residuals=torch.cat(prefix_residuals),
        token_residuals=torch.cat(token_residuals),
        residuals=running.totals().double(),
        lengths=part.lengths.double(),
    )


def _fill_residuals_(rows: Tensor, hidden_states: Tensor, part: Part, span: tuple[int, int], origins: Origins) -> None:
    """Fill ``(tokens, d)`` rows with the tokens of steps ``[start, end)``, measured from their origins."""
    found = part.gather(hidden_states, *span)
    residuals = rows.view(found.shape)
    if found.dtype == rows.dtype:
        torch.sub(found, origins.other, out=residuals)
    else:
        residuals.copy_(found).sub_(origins.other)  # three times faster than in one
    step, offset = span[0], 0
    for num_steps, count in part.runs(step, min(span[1], len(origins.steps))):
        own = rows[offset : offset + num_steps * count].view(num_steps, count, -1)
        own.copy_(part.gather(hidden_states, step, step + num_steps).view(own.shape))
        own.sub_(origins.steps[step : step + num_steps, None])
        step += num_steps
        offset += num_steps * count


def _position_sums(lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Sums over rows of 1, t and t²."""
    n0 = (lengths - 1).sum()
    n1 = (lengths * (lengths - 1) / 2).sum()
    return n0, n1, (lengths * (lengths - 1) * (2 * lengths - 1) / 6).sum()


def _scratch(num_tokens: int, like: Tensor) -> Tensor:
    width = 2 * like.shape[1] + 2
    return like.new_empty(num_tokens, -(-width // _ALIGNMENT) * _ALIGNMENT)[:, :width]


class _Running:
    """The sum of the tokens of each sample so far, carried from step to step.

    Args:
        first: ``(N, d)`` the tokens of step 0.

    """

    def __init__(self, first: Tensor) -> None:
        self._sums = first
        self._totals = torch.empty_like(first)

    def fill_(self, prefixes: Tensor, tokens: Tensor, runs: list[tuple[int, int]]) -> None:
        """Fill ``(m, d)`` prefixes with the sums before each of ``(m, d)`` tokens; see :meth:`Part.runs`."""
        row = 0
        for num_steps, count in runs:
            self._finish(count)
            run = slice(row, row + num_steps * count)
            shape = (num_steps, count, tokens.shape[1])
            self._fill_run_(prefixes[run].view(shape), tokens[run].view(shape))
            row += num_steps * count

    def totals(self) -> Tensor:
        """``(N, d)`` the sum of all tokens of each sample."""
        self._finish(0)
        return self._totals

    def _finish(self, count: int) -> None:
        """Only the first ``count`` samples go on."""
        if count == len(self._sums):
            return
        self._totals[count : len(self._sums)] = self._sums[count:]
        self._sums = self._sums[:count]

    def _fill_run_(self, prefixes: Tensor, tokens: Tensor) -> None:
        prefixes[0] = self._sums
        if prefixes.device.type == "cpu" and prefixes.shape[1] >= 16:  # whole rows are faster than cumsum there
            before, token = prefixes.unbind(), tokens.unbind()
            for t in range(1, len(before)):
                torch.add(before[t - 1], token[t - 1], out=before[t])
        else:
            torch.add(tokens[:-1].cumsum(0), self._sums, out=prefixes[1:])
        self._sums = prefixes[-1] + tokens[-1]


def _column_blocks(d: int) -> list[tuple[int, int]]:
    width = min(_MAX_BLOCK, -(-d // (3 * 64)) * 64)
    return [(low, min(low + width, d)) for low in range(0, d, width)]


def _add_products(blocks: list[Tensor], rows: Tensor) -> list[Tensor]:
    """Tall products are the fast ones: BLAS shares them out over threads by rows. Their sums are float64."""
    pairs = [(rows[:, low:].T, rows[:, low:high]) for low, high in _column_blocks(rows.shape[1] // 2 - 1)]
    products = [left @ right for left, right in pairs]
    if not blocks:
        return [product.double() for product in products]
    return [block.add_(product) for block, product in zip(blocks, products, strict=True)]
