"""The linear probe that the score is compared with: fitted on validation windows, measured on test windows."""

import warnings

import numpy
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


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
