r"""Sums over prefixes: one product of the prefix sums with themselves and with the next tokens.

At every token but the first of its sample stands a row :math:`[c_t, x_{t+1}, 1, t]`. The product of all rows with their
first d columns holds every sum over prefixes that the score needs.

Products are float32 (float64 of float64 hidden states), and their sums float64 beyond 2^15 tokens. They are taken of
residuals from two origins, one for first tokens, where language models keep an outlier of hundreds of times the usual
norm, and one for all others. What residuals leave out has rank four, and is added in float64 (METHOD 22).
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Moments
from ntps_lightning.functional.packed_batch import Part

# The tokens of one product; each takes 2 d + 2 numbers of scratch memory.
_MAX_TOKENS = 4096
# Of a symmetric product only the blocks from the diagonal down are computed, so many columns at a time.
_MAX_BLOCK = 768
# Rows that begin on a cache line are multiplied a tenth faster.
_ALIGNMENT = 16


@dataclass(frozen=True)
class PrefixSums:
    r"""The sums over prefixes of a batch, of residuals :math:`\tilde x = x - o`, and of first tokens :math:`x - o - a`.

    Args:
        first: ``(d,)`` the origin a.
        other: ``(d,)`` the origin o.
        blocks: the products of :func:`_column_blocks`, float32 or float64.
        first_sum: ``(d,)`` sum of the first residuals of the samples.
        residuals: ``(N, d)`` sum of the residuals of each sample.
        lengths: ``(N,)`` tokens of each sample, float64 as all that follows.

    """

    first: Tensor
    other: Tensor
    blocks: list[Tensor]
    first_sum: Tensor
    residuals: Tensor
    lengths: Tensor

    def to(self, device: torch.device) -> PrefixSums:
        """The same on another device."""
        blocks = [block.to(device) for block in self.blocks]
        others = {f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "blocks"}
        return PrefixSums(blocks=blocks, **others)

    def totals(self) -> Tensor:
        """``(N, d)`` sum of the tokens of each sample."""
        return (self.residuals + self.first).addr_(self.lengths, self.other)

    def add_to_(self, moments: Moments) -> None:
        """Add them to ``moments`` in place, as measured from no origin."""
        a, o, lengths = self.first, self.other, self.lengths
        n0, n1 = (lengths - 1).sum(), (lengths * (lengths - 1) / 2).sum()
        n2 = (lengths * (lengths - 1) * (2 * lengths - 1) / 6).sum()
        blocks = list(zip(_column_blocks(len(a)), self.blocks, strict=False))
        c0, c1 = torch.cat([block[-2:].double() for _, block in blocks], 1) if blocks else a.new_zeros(2, len(a))
        x0, x1 = self.residuals.sum(0) - self.first_sum, (lengths - 1) @ self.residuals - c0  # by parts
        zero, counts = torch.zeros_like(a), torch.stack([n0, n1, n2])
        rows = [
            torch.cat([c0, x0, counts[:2]]),
            torch.cat([c1, x1, counts[1:]]),
            torch.cat([a, o, zero[:2]]),
            torch.cat([o, zero, zero[:2]]),
        ]
        left, right = torch.stack(rows, 1), torch.stack([a, o, c0 + n0 * a + n1 * o, c1 + n1 * a + n2 * o])
        for (low, high), block in blocks:
            moments.prefix_products[low:, low:high].add_(block).addmm_(left[low:], right[:, low:high])
        moments.next_sum.add_(x1 + n1 * o)
        moments.position_sums.add_(counts)
        if blocks:
            moments.rounding.add_(n0 * torch.finfo(self.blocks[0].dtype).eps)


def prefix_sums(hidden_states: Tensor, part: Part) -> PrefixSums:
    """The sums over prefixes of ``(N, T, d)`` hidden states of any floating dtype.

    Values that are not finite show in ``residuals``.

    """
    dtype, d = torch.promote_types(hidden_states.dtype, torch.float32), hidden_states.shape[2]
    other = _typical_token(hidden_states, part, dtype)
    tokens = part.gather(hidden_states, 0, 1).reshape(-1, d).to(dtype) - other
    first = tokens.mean(0)
    running = _Running(tokens - first)
    blocks: list[Tensor] = []
    chunks = [(start, end, sum(part.counts[start:end])) for start, end in part.chunks(_MAX_TOKENS)]
    scratch = _scratch(max((size for *_, size in chunks), default=0), tokens)
    for start, end, size in chunks:
        rows, found = scratch[:size], part.gather(hidden_states, start, end)
        residuals = rows[:, d : 2 * d].view(found.shape)
        if found.dtype == dtype:
            torch.sub(found, other, out=residuals)
        else:
            residuals.copy_(found).sub_(other)  # three times faster than in one
        rows[:, -1] = part.position[part.tokens(start, end)]
        running.fill_(rows[:, :d], rows[:, d : 2 * d], part.runs(start, end))
        blocks = _add_products(blocks, rows)
    return PrefixSums(
        first=first.double(),
        other=other.double(),
        blocks=blocks,
        first_sum=(tokens - first).double().sum(0),
        residuals=running.totals().double(),
        lengths=part.lengths.double(),
    )


def _typical_token(hidden_states: Tensor, part: Part, dtype: torch.dtype) -> Tensor:
    """The mean of some hundred tokens that are not the first of their sample."""
    size, length, d = hidden_states.shape
    stride = max(1, size * length // 512)
    if part.index is None:
        some = hidden_states[:, 1::stride].reshape(-1, d)
    else:
        some = hidden_states.flatten(0, 1).index_select(0, part.index[size::stride])
    return some.mean(0, dtype=dtype) if len(some) else hidden_states.new_zeros(d, dtype=dtype)


def _scratch(num_tokens: int, like: Tensor) -> Tensor:
    width = 2 * like.shape[1] + 2
    scratch = like.new_empty(num_tokens, -(-width // _ALIGNMENT) * _ALIGNMENT)[:, :width]
    scratch[:, -2] = 1
    return scratch


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
    """Tall products are the fast ones: BLAS shares them out over threads by rows."""
    pairs = [(rows[:, low:].T, rows[:, low:high]) for low, high in _column_blocks(rows.shape[1] // 2 - 1)]
    if not blocks:
        return [left @ right for left, right in pairs]
    return [block.addmm_(*pair) for block, pair in zip(blocks, pairs, strict=True)]
