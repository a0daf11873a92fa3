"""Synthetic hidden states with a structure that next-token prediction can find."""

from __future__ import annotations

import numpy as np
import torch


def sequences(rng, n=120, d=6, classes=3, low=2, high=7):
    """Ragged samples: an autoregressive walk, coloured and off-centre, whose offset depends on the class."""
    mixing = rng.normal(size=(d, d)) + 2 * np.eye(d)
    offsets = rng.normal(size=(classes, d))
    labels = np.concatenate([np.arange(classes), rng.integers(classes, size=n - classes)])
    samples = []
    for label in labels:
        noise = rng.normal(size=(rng.integers(low, high + 1), d))
        noise[1:] += 0.5 * noise[:-1]
        samples.append((noise + offsets[label] + 0.3) @ mixing)
    return samples, labels


def pad(samples, side="right", filler=np.nan, length=None):
    """Padded ``(N, T, d)`` hidden states and their ``(N, T)`` mask; padding holds ``filler``, which must not matter."""
    length = length or max(map(len, samples))
    hidden = np.full((len(samples), length, samples[0].shape[1]), filler, dtype=np.float64)
    mask = np.zeros((len(samples), length), dtype=np.int64)
    for i, x in enumerate(samples):
        where = slice(0, len(x)) if side == "right" else slice(length - len(x), length)
        hidden[i, where], mask[i, where] = x, 1
    return torch.from_numpy(hidden), torch.from_numpy(mask)
