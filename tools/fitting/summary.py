"""What all estimators together say about what was drawn for a picture.

No estimator is moved by one thing alone: JPEG takes noise away, and noise looks like detail. So a
range is judged by one number that is learned for it, the expected draw given everything that was
measured, which of all such numbers loses least (Fearnhead and Prangle 2012, Theorem 3). Synthetic
pictures, whose draws are known, teach it by ridge regression on the estimators and their squares.
"""

import numpy as np

FOLDS = 5
RIDGE = 1e-3  # against coefficients of standardised numbers
FARTHEST = 5.0  # deviations that a number may lie from the middle


def expected(
    target: np.ndarray, known: np.ndarray, values: np.ndarray, real: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate what was drawn: ([N] of the synthetic pictures, [R] of the real ones).

    target: [N] what was drawn
    known:  [N] bool, where anything was
    values: [N, E] estimators of the synthetic pictures
    real:   [R, E] of the real ones
    """
    x, own = _terms(values, values), _terms(real, values)
    # Nothing is judged by what it has taught, or the synthetic pictures would fit too well.
    fold = np.arange(len(values)) % FOLDS
    synthetic, others = np.zeros(len(values)), np.zeros(len(real))
    real_fold = np.arange(len(real)) % FOLDS
    for k in range(FOLDS):
        taught = (fold != k) & known
        weights = _ridge(x[taught], target[taught])
        synthetic[fold == k] = x[fold == k] @ weights
        # And every real picture by one teaching alone: the mean of all would vary less.
        others[real_fold == k] = own[real_fold == k] @ weights
    # Real pictures may be like nothing that was synthesised: they end where those do.
    return synthetic, np.clip(others, synthetic.min(), synthetic.max())


def _terms(values: np.ndarray, of: np.ndarray) -> np.ndarray:
    """[N, 1 + 2 E]: 1, the estimators in deviations from the middle of others, their squares."""
    middle = np.median(of, 0)
    deviation = 1.4826 * np.median(np.abs(of - middle), 0)
    # Of qualities more than half may be equal.
    deviation = np.where(deviation > 1e-6, deviation, np.maximum(of.std(0), 1e-6))
    z = np.clip((values - middle) / deviation, -FARTHEST, FARTHEST)
    return np.concatenate([np.ones((len(z), 1)), z, z * z], 1)


def _ridge(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    penalty = np.full(x.shape[1], RIDGE * len(x))
    penalty[0] = 0
    return np.linalg.solve(x.T @ x + np.diag(penalty), x.T @ y)
