"""Linear probes: one fitted on validation windows, which the score is compared with, and one on LoRA's own texts."""

import warnings

import numpy
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ntps_lightning.functional.moments import Moments, covariances


def probe(train, train_labels, test, test_labels, num_classes: int) -> dict[str, float]:
    """Held-out accuracy, mean squared error (over windows and classes) and R² of a ridge regression on one-hot labels.

    The penalty is chosen by leave-one-out error on the windows that it is fitted on.

    """
    onehot = numpy.eye(num_classes)
    model = make_pipeline(StandardScaler(), RidgeCV(alphas=numpy.logspace(0, 5, 11)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(numpy.asarray(train, dtype=numpy.float64), onehot[train_labels])
    predicted = model.predict(numpy.asarray(test, dtype=numpy.float64))
    target = onehot[test_labels]
    mse = ((predicted - target) ** 2).mean()
    return {
        "probe_accuracy": float((predicted.argmax(1) == numpy.asarray(test_labels)).mean()),
        "probe_mse": float(mse),
        "probe_r2": float(1 - mse / ((target - onehot[train_labels].mean(0)) ** 2).mean()),
    }


def training_probe(moments: Moments, val, val_labels, test, test_labels) -> float:
    """Test accuracy of a ridge probe fitted on the training windows, its penalty chosen on validation windows."""
    cov = covariances(moments, center=True)
    mean, share = (m / moments.num_samples for m in (moments.pooled_sum, moments.target_sum))

    def hits(ridge, pooled, labels):
        penalty = ridge * cov.perception.diagonal().mean()
        weights = torch.linalg.solve(cov.perception + penalty * torch.eye(len(mean), dtype=mean.dtype), cov.cross)
        predicted = (pooled.double() - mean) @ weights + share
        return float((predicted.argmax(1) == torch.tensor(labels)).double().mean())

    best = max((1e-3, 1e-2, 1e-1, 1.0, 10.0), key=lambda ridge: hits(ridge, val, val_labels))
    return hits(best, test, test_labels)
