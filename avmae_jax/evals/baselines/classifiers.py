"""Offers the classical classifiers: logistic regression, random forest, and nearest neighbours. The only scikit-learn.

Axis letters: N training clips, M other clips, F features, C classes.
"""

import importlib
import warnings
from types import ModuleType
from typing import NamedTuple

import numpy as np

from avmae_jax.errors import AvmaeError
from avmae_jax.evals.baselines.cross_validation import Family, Fit, Setting

_TREES = 300
_ITERATIONS = 2_000


class ScikitLearn(NamedTuple):
    """Holds the modules of scikit-learn that are used."""

    linear_model: ModuleType
    ensemble: ModuleType
    exceptions: ModuleType
    threadpoolctl: ModuleType  # that scikit-learn depends on


def scikit_learn() -> ScikitLearn:
    """Imports scikit-learn; raises AvmaeError that names the extra if it isn't installed."""
    try:
        return ScikitLearn(
            importlib.import_module("sklearn.linear_model"),
            importlib.import_module("sklearn.ensemble"),
            importlib.import_module("sklearn.exceptions"),
            importlib.import_module("threadpoolctl"),
        )
    except ImportError as error:
        raise AvmaeError(f"baselines and probes need scikit-learn ({error}); install it: pip install 'avmae-jax[baseline]'") from error


def _logistic(fit: Fit, setting: Setting) -> np.ndarray:
    mean, std = fit.features.mean(axis=0), fit.features.std(axis=0)
    sklearn = scikit_learn()
    features, others = ((values - mean) / np.where(std > _FLAT, std, 1) for values in (fit.features, fit.others))

    def fitted(targets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if len(np.unique(targets)) == 1:
            return np.unique(targets), np.ones((len(others), 1))
        model = sklearn.linear_model.LogisticRegression(C=setting["C"], max_iter=_ITERATIONS)
        # The matrices are small: threads that wait for each other would take longer, on a busy machine a hundred times as long.
        with (
            warnings.catch_warnings(),
            sklearn.threadpoolctl.threadpool_limits(1),
        ):  # it may stop before the optimum where it is hardly regularised, which wins no choice
            warnings.simplefilter("ignore", sklearn.exceptions.ConvergenceWarning)
            model.fit(features, targets)
        return model.classes_, model.predict_proba(others)

    if fit.exclusive:
        return _by_class(*fitted(fit.targets.argmax(axis=1)), fit)
    return np.stack([_by_class(*fitted(column), fit, 2)[:, 1] for column in fit.targets.T.astype(int)], axis=1)


def _forest(fit: Fit, setting: Setting) -> np.ndarray:
    targets = fit.targets.argmax(axis=1) if fit.exclusive else fit.targets.astype(int)
    forest = scikit_learn().ensemble.RandomForestClassifier(_TREES, min_samples_leaf=int(setting["leaf"]), random_state=fit.seed, n_jobs=-1)
    forest.fit(fit.features, targets)
    found = forest.predict_proba(fit.others)
    if fit.exclusive:
        return _by_class(forest.classes_, found, fit)
    columns = [_by_class(classes, column, fit, 2)[:, 1] for classes, column in zip(forest.classes_, found, strict=True)]
    return np.stack(columns, axis=1)


def _by_class(classes: np.ndarray, found: np.ndarray, fit: Fit, count: int | None = None) -> np.ndarray:
    """Puts the columns of the classes that a classifier has seen into their places: float64[M, C], 0 for the others."""
    placed = np.zeros((len(found), count or fit.targets.shape[1]))
    placed[:, classes] = found
    return placed


def _neighbours(fit: Fit, setting: Setting) -> np.ndarray:
    """Averages the classes of the nearest training clips by cosine, each weighted by its similarity."""
    mean = fit.features.mean(axis=0)
    near, others = (_unit(values - mean) for values in (fit.features, fit.others))
    similar = others @ near.T
    count = min(int(setting["k"]), len(near))
    rows = np.argsort(-similar, axis=1, kind="stable")[:, :count]
    weights = np.exp((np.take_along_axis(similar, rows, axis=1) - 1) / _SOFTNESS)
    return (weights[..., None] * fit.targets[rows]).sum(axis=1) / weights.sum(axis=1, keepdims=True)


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)


_FLAT = 1e-9  # a feature that varies less than this is the same for all clips
_SOFTNESS = 0.1  # of the cosine
LOGISTIC = Family("logistic regression", tuple({"C": c} for c in (1e-4, 1e-3, 1e-2, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)), _logistic)
FOREST = Family("random forest", tuple({"leaf": leaf} for leaf in (4, 2, 1)), _forest)
NEIGHBOURS = Family("nearest neighbours", tuple({"k": k} for k in (50, 30, 20, 10, 5, 3, 1)), _neighbours)
