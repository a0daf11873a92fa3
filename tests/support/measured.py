"""Rows of prescreening made by hand, whose estimates are those of real probes on synthetic states."""

from __future__ import annotations

import torch

from benchmarks.helpers.population import Population
from ntps_lightning.functional.held_out import held_out
from ntps_lightning.functional.jackknife import Estimate
from ntps_lightning.prescreening.measured import LayerNumbers, Measured


def measured(model="model", data="data", noises=(2.0, 0.5, 1.0), n=150, seed=0, classes=True, **fields):
    """A model whose layers see the same texts, each through its own noise; models of one ``data`` see the same texts.

    Args:
        noises: of the layers.
        seed: of this model's noise; that of the texts is a function of ``data``.

    """
    population = Population(12)
    sample = population.draw(n, torch.Generator().manual_seed(sum(map(ord, data))))
    generator = torch.Generator().manual_seed(seed)
    layers = [_layer(i, _noisy(sample, noise, generator), classes) for i, noise in enumerate(noises)]
    plain = {
        "model": model,
        "data": data,
        "model_id": f"id of {model}",
        "data_id": f"id of {data}",
        "num_samples": n,
        "num_kept": n,
        "class_names": tuple("abcde") if classes else (),
        "hidden_size": 12,
        "seconds": 1.5,
    }
    return Measured(**{**plain, "layers": tuple(layers), **fields})


def _noisy(sample, noise, generator):
    states = sample.states + noise * torch.randn(sample.states.shape, generator=generator, dtype=torch.float64)
    return type(sample)(states, sample.targets, sample.groups)


def _layer(index, sample, classes):
    n = len(sample.states)
    rows = sample.kept(n)
    basis = torch.eye(sample.states.shape[1], dtype=torch.float64)
    found = held_out(sample.covariances(), sample.means, rows, basis, 3)
    curve = found.learning_curve
    values, errors = (curve.accuracy, curve.accuracy_se) if classes else (curve.r2, curve.r2_se)
    return LayerNumbers(
        layer=index,
        probe_r2=found.probe_r2,
        probe_accuracy=found.probe_accuracy if classes else None,
        reads_nothing=found.reads_nothing,
        captured_r2=(found.captured_r2.value, found.captured_r2.se),
        principal_r2=(found.principal_r2.value, found.principal_r2.se),
        score=0.125 + index / 1000,
        null=0.0625,
        lift=0.0666,
        k=3,
        rankme=7.25,
        h_score=1.5 if classes else None,
        log_me=-0.75,
        curve={size: (value, errors[size]) for size, value in values.items()},
        expected={2 * n: (max(values.values()) + 0.01, 0.03), 4 * n: (0.7777, 0.05)},
        groups=found.groups,
    )


def estimate(value, influences):
    """An estimate whose fits are given, so that its error is that of the influences alone."""
    own = torch.as_tensor(influences, dtype=torch.float64)
    return Estimate(value, own, torch.zeros_like(own), len(own), 0.0)
