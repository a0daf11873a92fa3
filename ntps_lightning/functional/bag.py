r"""The directions without order, a control: what the autoregressive ones would be of the same tokens in any order.

Averaged over all orders of the tokens of a sample, with :math:`Q = \sum x x^\top` and :math:`s = \sum x` (METHOD 34),

.. math:: E[C_0] = \frac1n \sum \Big( \frac{T + 1}{6} Q + \frac{T - 2}{3} s s^\top \Big), \quad
    E[C_1] = \tfrac12 (C_1 + C_1^\top)
"""

from __future__ import annotations

import torch
from torch import Tensor

from ntps_lightning.functional.moments import Covariances
from ntps_lightning.functional.packed_batch import Part
from ntps_lightning.functional.subspaces import Subspace, autoregressive_subspace

# The tokens of one product; each takes d numbers of float64 scratch memory.
_MAX_TOKENS = 2048


def bag_products(hidden_states: Tensor, part: Part, totals: Tensor) -> Tensor:
    """The sums for E[C0] of the samples of a part, by float64 products.

    Args:
        hidden_states: ``(N, T, d)``, finite.
        part: where their tokens stand.
        totals: ``(N, d)`` float64 sum s of the tokens of each, in the order of the part.

    Returns:
        ``(d + 1, d)`` float64, where the totals are; see :class:`~ntps_lightning.functional.moments.Moments`.

    """
    d = totals.shape[1]
    grams = torch.zeros(d, d, dtype=torch.float64, device=hidden_states.device)
    weights = ((part.lengths.double() + 1) / 6).sqrt()
    for start, end in [(0, 1), *part.chunks(_MAX_TOKENS)]:
        tokens = part.gather(hidden_states, start, end).reshape(-1, d).double()
        runs = [weights[:count].repeat(steps) for steps, count in part.runs(start, end)]
        rows = tokens * torch.cat(runs)[:, None]
        grams.addmm_(rows.T, rows)
    lengths = part.lengths.to(totals.device, torch.float64)
    grams = grams.to(totals.device).addmm_(totals.T * ((lengths - 2) / 3), totals)
    return torch.cat([grams, ((lengths - 1) * (2 * lengths - 1) / 6 @ totals)[None]])


def bag_subspace(prefix: Tensor, cov: Covariances, *, count: int | None = None) -> Subspace:
    """Leading directions without order, found as the autoregressive ones are.

    Args:
        prefix: ``(d, d)`` E[C0], :attr:`~ntps_lightning.functional.moments.Covariances.bag`.
        cov: the covariances.
        count: number of directions; by default all.

    """
    return autoregressive_subspace(prefix, (cov.prefix_next + cov.prefix_next.T) / 2, count=count, noise=cov.rounding)
