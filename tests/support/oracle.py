"""The score written from the definition, on raw samples, in float64, with SciPy: slow and independent of the package.

A sample is a ``(T, d)`` array of its valid tokens. Prefix sums are made by an explicit T x (T - 1) matrix.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg


def one_hot(labels, num_classes):
    return np.eye(num_classes)[np.asarray(labels)]


def pool(samples, pooling="mean"):
    return np.stack([x.mean(0) if pooling == "mean" else x[-1] for x in samples])


def moments(samples, targets, center=False, pooling="mean"):
    """B, S, C0, C1; with ``center``, of data from which the means were really subtracted."""
    samples = [np.asarray(x, dtype=np.float64) for x in samples]
    targets = np.asarray(targets, dtype=np.float64)
    if center:
        mean = pool(samples, pooling).mean(0)
        samples = [x - mean for x in samples]
        targets = targets - targets.mean(0)
    n, pooled = len(samples), pool(samples, pooling)
    d = pooled.shape[1]
    prefix, prefix_next = np.zeros((d, d)), np.zeros((d, d))
    for x in samples:
        length = len(x)
        sums = np.triu(np.ones((length, length)))[:, : length - 1]  # column t: tokens 1..t
        shift = np.eye(length)[:, 1:]  # column t: token t + 1
        prefix += x.T @ sums @ sums.T @ x
        prefix_next += x.T @ sums @ shift.T @ x
    return pooled.T @ pooled / n, pooled.T @ targets / n, prefix / n, prefix_next / n


def generalized(left, right):
    """Eigenvectors of (left leftᵀ, right), largest eigenvalue first."""
    values, vectors = scipy.linalg.eigh(left @ left.T, right)
    return values[::-1], vectors[:, ::-1]


def regularised(perception, ridge):
    return perception + ridge * np.trace(perception) / len(perception) * np.eye(len(perception))


def subspaces(samples, targets, rank, ridge, center, pooling="mean"):
    b, s, c0, c1 = moments(samples, targets, center, pooling)
    r = regularised(b, ridge)
    values, u = generalized(s, r)
    return values[:rank], u[:, :rank], generalized(c1, c0)[1], r, s


def ntps(samples, targets, k, rank, ridge=0.0, center=True, orthonormal=False, pooling="mean"):
    _, u, v, _, _ = subspaces(samples, targets, rank, ridge, center, pooling)
    u = u[:, : min(k, rank)]
    if orthonormal:
        u = scipy.linalg.orth(u)
    projector = v[:, :k] @ np.linalg.pinv(v[:, :k])
    return np.linalg.norm(projector @ u) ** 2 / np.linalg.norm(u) ** 2


def captured(samples, targets, k, rank, ridge=0.0, center=True, pooling="mean"):
    _, _, v, r, s = subspaces(samples, targets, rank, ridge, center, pooling)
    v = v[:, :k]
    held = np.trace(np.linalg.solve(v.T @ r @ v, v.T @ s @ s.T @ v))
    return held / np.trace(s.T @ np.linalg.solve(r, s))


def readout_error(features, targets):
    """Squared error per sample, summed over outputs, of the least-squares readout (fitted, not from moments)."""
    weights = np.linalg.lstsq(features, targets, rcond=None)[0]
    return np.square(targets - features @ weights).sum() / len(targets)


def spearman(a, b):
    return scipy.stats.spearmanr(a, b).statistic
