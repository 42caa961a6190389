"""Scores of how well features tell classes apart, without training a network; each from its paper."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import linalg

__all__ = ["h_score", "knn_accuracy", "linear_cka", "linear_probe", "logme", "ridge_loo_accuracy"]

Array = np.ndarray[Any, Any]

MOST_ITERATIONS = 200
CONVERGED = 1e-9
RIDGES = tuple(10.0**power for power in range(-4, 5))  # relative to the mean eigenvalue of the features' covariance
NEIGHBOURS = 5
FOLDS = 5


def logme(features: Array, targets: Array) -> float:
    """Return the LogME score of features (rows, width) for class numbers: higher is better.

    It is the logarithm of the largest marginal likelihood of a Bayesian linear model from the features to each class's
    one-hot column, by row and averaged over classes (You et al., "LogME: Practical Assessment of Pre-trained Models for
    Transfer Learning", ICML 2021), found by the fixed point iteration of the long version (JMLR 2022), which is iterated
    until it has converged. Features are used as they are, without centring, as in the paper.
    """
    values = np.asarray(features, dtype=np.float64)
    left, singular, _ = linalg.svd(values, full_matrices=False)
    squares = singular**2
    evidences = [_evidence(left, squares, values.shape, column) for column in _one_hot(targets).T]
    return float(np.mean(evidences))


def _evidence(left: Array, squares: Array, shape: tuple[int, ...], column: Array) -> float:
    """Return the maximal log evidence by row of one column, given the features' left singular vectors."""
    rows, width = shape
    projected = (left.T @ column) ** 2
    rest = max(float(column @ column) - float(projected.sum()), 0.0)  # what lies outside of the features' span
    alpha = beta = 1.0
    before = -np.inf
    evidence = before
    for _ in range(MOST_ITERATIONS):
        ratio = alpha / beta
        gamma = float((squares / (squares + ratio)).sum())
        length = float((squares * projected / (squares + ratio) ** 2).sum())
        residual = float((projected / (1 + squares / ratio) ** 2).sum()) + rest
        evidence = 0.5 * (
            width * np.log(alpha)
            + rows * np.log(beta)
            - float(np.log(alpha + beta * squares).sum())
            - (width - len(squares)) * np.log(alpha)
            - beta * residual
            - alpha * length
            - rows * np.log(2 * np.pi)
        )
        if abs(evidence - before) <= CONVERGED * max(1.0, abs(evidence)):
            break
        before = evidence
        # The bounds keep features that fit exactly, or not at all, from leading to infinities.
        alpha = float(np.clip(gamma / max(length, 1e-12), 1e-10, 1e10))
        beta = float(np.clip((rows - gamma) / max(residual, 1e-12), 1e-10, 1e10))
    return float(evidence / rows)


def h_score(features: Array, targets: Array) -> float:
    """Return the shrinkage H-score: the trace of the inverse covariance times the covariance of the class means.

    From 0 to the number of classes minus one, higher is better (Bao et al., "An Information-Theoretic Approach to
    Transferability in Task Transfer Learning", ICIP 2019), with the covariance shrunk by Ledoit and Wolf's amount and the
    class means' by the same, which keeps it true where rows are few (Ibrahim et al., "Newer is not always better:
    Rethinking transferability metrics", ECML-PKDD 2022).
    """
    from sklearn.covariance import ledoit_wolf

    centred = np.asarray(features, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    scale = np.sqrt((centred**2).mean()) or 1.0  # the score does not depend on it; shrinkage by machine numbers does
    centred = centred / scale
    covariance, shrinkage = ledoit_wolf(centred, assume_centered=True)
    classes, numbers = np.unique(targets, return_inverse=True)
    counts = np.bincount(numbers)
    means = np.stack([centred[numbers == number].mean(axis=0) for number in range(len(classes))])
    weighted = means * np.sqrt(counts / len(centred))[:, None]
    try:
        solved = linalg.solve(covariance, weighted.T, assume_a="pos")
    except linalg.LinAlgError:  # features that do not vary, or exactly repeat one another
        solved = linalg.pinvh(covariance) @ weighted.T
    return float((1 - shrinkage) * np.sum(weighted.T * solved))


def ridge_loo_accuracy(features: Array, targets: Array) -> float:
    """Return the leave-one-out accuracy of ridge regression to one-hot classes, with the best of a few penalties.

    Each row is predicted by the model of all others, by the closed form e / (1 - h) of linear smoothers (Allen 1974;
    Golub, Heath and Wahba, Technometrics 1979). The penalty is the one with the least squared leave-one-out error, so the
    accuracy is not what it is chosen by.
    """
    standard = _standardised(features)
    one_hot = _one_hot(targets)
    labels = np.unique(targets, return_inverse=True)[1]
    centred = one_hot - one_hot.mean(axis=0)
    left, singular, _ = linalg.svd(standard, full_matrices=False)
    squares = singular**2
    projected = left.T @ centred
    mean_square = float(squares.sum()) / max(1, standard.shape[1]) or 1.0  # features that do not vary predict nothing
    best = (np.inf, 0.0)
    for ridge in RIDGES:
        kept = squares / (squares + ridge * mean_square)
        # The intercept is fitted too: it adds 1 / rows to each row's weight on itself.
        leverage = np.einsum("ij,j,ij->i", left, kept, left) + 1 / len(standard)
        residuals = (centred - left @ (kept[:, None] * projected)) / np.maximum(1 - leverage, 1e-12)[:, None]
        error = float((residuals**2).mean())
        if error < best[0]:
            best = (error, float(((one_hot - residuals).argmax(axis=1) == labels).mean()))
    return best[1]


def knn_accuracy(features: Array, targets: Array, neighbours: int = NEIGHBOURS) -> float:
    """Return the leave-one-out accuracy of the nearest neighbours' majority, by Euclidean distance of standardised features."""
    from sklearn.neighbors import NearestNeighbors

    standard = _standardised(features)
    labels = np.unique(targets, return_inverse=True)[1]
    wanted = min(neighbours, len(standard) - 1)
    found = NearestNeighbors(n_neighbors=wanted).fit(standard).kneighbors(return_distance=False)
    votes = np.zeros((len(standard), labels.max() + 1))
    # Of classes with equal votes, the one whose neighbour is nearest wins.
    for place in range(wanted):
        votes[np.arange(len(standard)), labels[found[:, place]]] += 1 + 1e-6 / (place + 1)
    return float((votes.argmax(axis=1) == labels).mean())


def linear_probe(features: Array, targets: Array, seed: int = 0, folds: int = FOLDS) -> tuple[float, float]:
    """Return (mean, standard error) of the cross-validated accuracy of scikit-learn's logistic regression."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    fewest = int(np.unique(targets, return_counts=True)[1].min())
    wanted = max(2, min(folds, fewest))
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=200, C=0.1))
    splits = StratifiedKFold(wanted, shuffle=True, random_state=seed)
    scores = cross_val_score(model, features, targets, cv=splits)
    return float(scores.mean()), float(scores.std(ddof=1) / np.sqrt(len(scores)))


def linear_cka(one: Array, other: Array) -> float:
    """Return the linear centred kernel alignment of two sets of features of the same rows: 1 for the same up to rotation.

    Kornblith et al., "Similarity of Neural Network Representations Revisited", ICML 2019.
    """
    one = np.asarray(one, dtype=np.float64) - np.mean(one, axis=0)
    other = np.asarray(other, dtype=np.float64) - np.mean(other, axis=0)
    norms = linalg.norm(one.T @ one) * linalg.norm(other.T @ other)
    return float(linalg.norm(other.T @ one) ** 2 / norms) if norms else 0.0


def _one_hot(targets: Array) -> Array:
    classes, numbers = np.unique(targets, return_inverse=True)
    return np.eye(len(classes))[numbers]


def _standardised(features: Array) -> Array:
    values = np.asarray(features, dtype=np.float64)
    values = values - values.mean(axis=0)
    deviations = values.std(axis=0)
    standard: Array = values / np.where(deviations > 1e-12, deviations, 1.0)
    return standard
