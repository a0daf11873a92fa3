"""What a measurement says: the score, and what is needed to read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ntps_lightning.functional.held_out import HeldOut

# Samples per hidden dimension below which the score does not stand out from its null (STUDY.md, decision 7).
FEW_SAMPLES_PER_DIM = 10
# Why there are no held-out numbers where nobody wanted any.
NO_ROWS = "no rows were kept"
# What fields were called in states that earlier versions have saved.
_FORMER = {
    "captured": "captured_in_sample",
    "captured_curve": "captured_in_sample_curve",
    "probe_mse": "in_sample_mse",
    "probe_r2": "in_sample_r2",
}


@dataclass(frozen=True)
class NTPSDetails:
    r"""The score and everything that the same moments say about it. Curves are ``(m,)`` float64, at k = 1..m: m is the
    rank of the prefix covariance, d with enough samples, or ``k`` where the whole curve was not asked for.

    Args:
        score: NTPS at ``k``, in [0, 1], higher is better (METHOD 5).
        captured_in_sample: share of what a linear probe reads that lies in the leading ``k`` autoregressive directions:
            the same overlap in the inner product of the perception covariance (METHOD 9), in [0, 1]; fitted and read
            on the same samples, unlike ``held_out.captured``.
        null: what shuffled labels would score at ``k``, expected; the level to compare ``score`` with (METHOD
            17).
        lift: ``(score - null) / (1 - null)``, 0 where the null is 1 (METHOD 21).
        captured_null: what ``captured_in_sample`` of shuffled labels would be, expected (METHOD 16).
        chance: ``k / d``, what a random autoregressive subspace would score.
        k: number of autoregressive directions that were used.
        ridge: what was added to the perception covariance, relative to tr(B)/d.
        rank: number r of perception directions that the labels have; ``min(k, r)`` were used.
        curve: the score at every k.
        captured_in_sample_curve: ``captured_in_sample`` at every k.
        null_curve: ``null`` at every k.
        captured_null_curve: ``captured_null`` at every k.
        in_sample_mse: in-sample mean squared error of the ridge probe on the pooled states, averaged over outputs.
        in_sample_r2: its coefficient of determination, in-sample, unlike ``held_out.probe_r2``: too high where
            ``samples_per_dim`` is small.
        excess_loss: squared error, summed over outputs and with the ridge penalty, that the best probe confined to
            the autoregressive subspace has over the best one: ``1 - captured_in_sample`` of what the probe
            explains.
        excess_loss_bounds: the bounds that NTPS puts on it (arXiv 2505.17169), lower and upper; with a ridge a
            little wider, from bounds on the extreme eigenvalues of B + ridge.
        num_samples: number of samples n.
        samples_per_dim: n / d. Below about 10 the score is biased towards ``null``, and noisy.
        p_value: how often shuffled labels would score as much (METHOD 35), by 199 draws: .005 where none did; ``None``
            where the whole curve was not asked for, nothing is centred or targets are more than 100.
        subspace_error: estimated sine of the largest angle between the autoregressive subspace that was used and the
            exact one, in whitened coordinates: 0 where the solver was exact, at most 1e-6 where it was iterative
            (METHOD 24).
        held_out: what a probe reads of samples that it was not fitted on, from kept rows; ``None`` where there are
            none, or they cannot tell.
        not_held_out: why ``held_out`` is ``None``.
        gcv_r2: where no rows are kept, what ``in_sample_r2`` would be on other samples, by generalized
            cross-validation, which takes samples to be independent (METHOD 33); ``None`` where rows are kept, or with
            curves up to ``k`` alone.
        rankme: RankMe of the pooled states (METHOD 25); like the two below ``None`` where estimators were not asked
            for.
        h_score: H-score, without shrinkage (METHOD 25); ``None`` for targets that are no classes.
        log_me: LogME, the mean over classes or targets of a maximised log evidence (METHOD 36).

    """

    score: float
    captured_in_sample: float
    null: float
    lift: float
    captured_null: float
    chance: float
    k: int
    ridge: float
    rank: int
    curve: Tensor
    captured_in_sample_curve: Tensor
    null_curve: Tensor
    captured_null_curve: Tensor
    in_sample_mse: float
    in_sample_r2: float
    excess_loss: float
    excess_loss_bounds: tuple[float, float]
    num_samples: int
    samples_per_dim: float
    p_value: float | None = None
    subspace_error: float = 0.0
    held_out: HeldOut | None = None
    not_held_out: str = ""
    gcv_r2: float | None = None
    rankme: float | None = None
    h_score: float | None = None
    log_me: float | None = None

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> NTPSDetails:
        """What :func:`dataclasses.asdict` has made plain."""
        held_out = state.get("held_out")
        return cls(**{**state, "held_out": None if held_out is None else HeldOut.of(held_out)})


def renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """A saved state, fields by their present names."""
    return {_FORMER.get(name, name): value for name, value in state.items()}


def few_samples_warning(details: NTPSDetails) -> str | None:
    """What to tell a user whose n/d is too low for the score to stand alone."""
    if details.samples_per_dim >= FEW_SAMPLES_PER_DIM:
        return None
    return (
        f"NTPS from {details.num_samples} samples is {details.samples_per_dim:.2g} per hidden dimension; below about"
        f" {FEW_SAMPLES_PER_DIM} it is biased towards its null, and noisy. Read it beside `null` and `lift`, and"
        " compare only scores from the same number of samples."
    )
