"""From moments to every candidate number: geometry, k, ridge, centring, view of the tokens, layer, samples."""

import torch
from torch import Tensor

from ntps_lightning.functional.estimators import h_score, probe_mse_r2, rankme
from ntps_lightning.functional.moments import Covariances, Moments, covariances
from ntps_lightning.functional.null import (
    captured_null_curve,
    null_curve,
    orthonormal_null_curve,
    shuffled_labels,
)
from ntps_lightning.functional.overlap import captured_curve, nested_basis, overlap_curve
from ntps_lightning.functional.subspaces import autoregressive_subspace, perception_subspace
from ntps_lightning.functional.whitening import whitening

COUNTS = (1, 2, 4)  # times the number of classes
FRACTIONS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5)  # of d, but never fewer than the number of classes
KS = tuple(f"{c}C" for c in COUNTS) + tuple(f"{f:.0%}" for f in FRACTIONS)


def k_values(num_classes: int, d: int) -> list[int]:
    """The ks of :data:`KS`."""
    return [c * num_classes for c in COUNTS] + [max(num_classes, round(f * d)) for f in FRACTIONS]


def candidates(
    moments: Moments, center: bool, ridges, null_of_ortho: bool = False
) -> dict[float, dict[str, list[float]]]:
    """Per ridge and measure the value at every k of :data:`KS`, and last the mean over all k.

    ``*_log``: mean over log-spaced k of log(score / null). ``captured_dof``: captured, numerator and denominator
    corrected for the share of noise that in-sample fits explain (centred moments alone).

    """
    cov = covariances(moments, center=center)
    d, num_classes = cov.cross.shape
    directions = autoregressive_subspace(cov.prefix, cov.prefix_next).directions
    basis = nested_basis(directions)
    at = torch.tensor(k_values(num_classes, d)).clamp(max=basis.shape[1]) - 1
    found = {}
    for ridge in ridges:
        penalty = float(ridge * cov.perception.trace() / d)
        whitener = whitening(_ridged(cov, penalty))
        perception = perception_subspace(cov.cross, whitener)
        rank = len(perception.eigenvalues)
        in_whitened = nested_basis(whitener.coordinates(directions))
        shuffled = shuffled_labels(cov, whitener, penalty)
        cross = whitener.whiten(cov.cross)
        curves = {
            "ntps": overlap_curve(basis, perception.directions),
            "ntps_null": null_curve(basis, shuffled, rank),
            "ortho": overlap_curve(basis, nested_basis(perception.directions)),
            "captured": captured_curve(in_whitened, cross),
            "captured_null": captured_null_curve(in_whitened, shuffled),
        }
        if null_of_ortho:
            curves["ortho_null"] = orthonormal_null_curve(basis, shuffled, rank)
        if center:
            curves["captured_dof"] = _without_noise(cov, curves, cross, shuffled)
        picked = {
            name: [*curve[at.clamp(max=len(curve) - 1)].tolist(), float(curve.mean())] for name, curve in curves.items()
        }
        for name in ("ntps", "ortho", "captured"):
            if f"{name}_null" not in curves:
                continue
            picked[f"{name}_log"] = [_log_lift(curves[name], curves[f"{name}_null"], num_classes)]
        found[ridge] = picked
    return found


def _ridged(cov: Covariances, penalty: float) -> Tensor:
    return cov.perception + penalty * torch.eye(len(cov.perception), dtype=torch.float64, device=cov.mean.device)


def _without_noise(cov: Covariances, curves, cross: Tensor, shuffled) -> Tensor:
    """(explained(k) - noise(k)) / (explained - noise): labels' noise explains what it would if all else were zero."""
    n = cov.num_samples
    variance = cov.target_squares.sum()
    explained = cross.square().sum()
    noise = shuffled.explained
    dof = noise * (n - 1) / variance
    residual = ((1 - explained / variance) * n / max(float(n - 1 - dof), 1.0)).clamp(0, 1)
    whole = explained - residual * noise
    if whole <= 0.01 * explained:
        return torch.zeros_like(curves["captured"])
    return ((curves["captured"] * explained - residual * curves["captured_null"] * noise) / whole).clamp(0, 1)


def _log_lift(score: Tensor, null: Tensor, num_classes: int) -> float:
    """Mean over log-spaced k, from the number of classes to half of d, of log(score / null)."""
    ks = torch.logspace(torch.tensor(float(num_classes)).log10(), torch.tensor(len(score) / 2).log10(), 24)
    at = ks.round().long().unique() - 1
    return float((score[at].clamp(min=1e-9) / null[at].clamp(min=1e-9)).log().mean())


def baselines(moments: Moments, ridge: float = 1e-2) -> dict:
    """What is known without an autoregressive subspace, from the same (centred) moments."""
    cov = covariances(moments, center=True)
    d, num_classes = cov.cross.shape
    penalty = float(ridge * cov.perception.trace() / d)
    whitener = whitening(_ridged(cov, penalty))
    components = torch.linalg.eigh(cov.perception).eigenvectors.flip(1)
    curve = captured_curve(nested_basis(whitener.coordinates(components)), whitener.whiten(cov.cross))
    mse, r2 = probe_mse_r2(cov, whitener, penalty)
    return {
        "in_sample_mse": float(mse),
        "in_sample_r2": float(r2),
        "h_score": float(h_score(moments, cov, whitener)),
        "rankme": float(rankme(moments)),
        "principal": curve[torch.tensor(k_values(num_classes, d)).clamp(max=d) - 1].tolist(),
    }
