"""Maximum-likelihood scores of a Bradley–Terry model, p(i ≻ j) = σ(s_i − s_j), by three routes, each centred to mean 0.

The pairs must link every class to every other by wins; otherwise there are no such scores.
"""

import numpy as np
import pytest

NEWTON_STEPS = 200


def newton_scores(chosen, rejected, num_classes, tolerance=1e-13):
    """Newton's method on Σ log(1 + exp(s_l − s_w)), halving steps while they overshoot, until a step is tiny."""
    wins = np.zeros((num_classes, num_classes))
    np.add.at(wins, (np.asarray(chosen), np.asarray(rejected)), 1.0)
    np.fill_diagonal(wins, 0.0)

    def loss(s):
        return float((wins * np.logaddexp(0.0, s[None, :] - s[:, None])).sum())

    scores = np.zeros(num_classes)
    for _ in range(NEWTON_STEPS):
        losing = 1.0 / (1.0 + np.exp(scores[:, None] - scores[None, :]))
        flow = wins * losing
        gradient = flow.sum(axis=0) - flow.sum(axis=1)
        curvature = (wins + wins.T) * losing * losing.T
        hessian = np.diag(curvature.sum(axis=1)) - curvature
        scale = np.trace(hessian) / num_classes
        step = -np.linalg.solve(hessian + scale / num_classes, gradient)
        step -= step.mean()
        while np.abs(step).max() > 1e-6 and loss(scores + step) > loss(scores):
            step = 0.5 * step
        scores = scores + step
        if np.abs(step).max() <= tolerance * max(1.0, np.abs(scores).max()):
            return scores - scores.mean()
    raise ArithmeticError(f"no maximum after {NEWTON_STEPS} Newton steps")


def choix_scores(chosen, rejected, num_classes, method="opt_pairwise"):
    """By choix: `opt_pairwise` without regularisation, or `ilsr_pairwise`. Skip the test where it is missing."""
    choix = pytest.importorskip("choix", reason="choix comes with the extra 'parity'")
    pairs = [(int(i), int(j)) for i, j in zip(chosen, rejected, strict=True) if i != j]
    settings = {"alpha": 0.0, "tol": 1e-13, "max_iter": 10_000}
    scores = np.asarray(getattr(choix, method)(num_classes, pairs, **settings))
    return scores - scores.mean()


def sklearn_scores(chosen, rejected, num_classes):
    """By scikit-learn: logistic regression of who won on e_w − e_l, the last score 0. Skip where it is missing."""
    linear_model = pytest.importorskip("sklearn.linear_model", reason="scikit-learn comes with the extra 'parity'")
    rows = np.eye(num_classes)[np.asarray(chosen)] - np.eye(num_classes)[np.asarray(rejected)]
    # each pair in both directions: there have to be two labels
    design, labels = np.concatenate([rows, -rows])[:, :-1], np.repeat([1, 0], len(rows))
    model = linear_model.LogisticRegression(C=np.inf, fit_intercept=False, solver="newton-cholesky", tol=1e-12)
    scores = np.append(model.fit(design, labels).coef_[0], 0.0)
    return scores - scores.mean()
