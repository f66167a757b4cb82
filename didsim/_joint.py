"""Joint laws of chosen and rejected responses that are not drawn independently of each other."""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import breadth_first_order

from didsim._arrays import ArrayLike, BoolArray, FloatArray
from didsim._checks import check_integer, message
from didsim._parts import MAX_NUMBERS, finite
from didsim.policy import SUM_TOLERANCE, Policy

SAME_ODDS = 1e-9
"""Log-odds so near to a difference of scores, in nats, are equal to it up to rounding."""


def checked_joint(pairs: ArrayLike) -> FloatArray:
    """Copy the probabilities P(y_w = i, y_l = j) of pairs, [K, K] or [X, K, K], that sum to 1 within 1e-6; normalise.

    Raises:
        TypeError: if they are no numbers.
        ValueError: if the shape is another one, one is negative or not finite, or they do not sum to 1.
    """
    table = finite("pairs", pairs)
    if table.ndim not in (2, 3) or table.shape[-1] != table.shape[-2] or table.size == 0:
        raise ValueError(message("the shape of pairs", "[K, K] or [X, K, K]", table.shape))
    check_integer("prompts × responses² of pairs", table.size, 1, MAX_NUMBERS)
    if np.any(table < 0.0):
        where = [int(i) for i in np.argwhere(table < 0.0)[0]]
        raise ValueError(message(f"pairs{where}", "a probability", float(table[tuple(where)])))
    totals = table.sum(axis=(-1, -2), keepdims=True)
    if np.any(np.abs(totals - 1.0) > SUM_TOLERANCE):
        worst = float(totals.flat[np.argmax(np.abs(totals - 1.0))])
        hint = "Each prompt has a table of its own; the prompts have weights beside."
        raise ValueError(message("the sum of pairs, for each prompt", "1 within 1e-6", worst, hint))
    table = table / totals
    table.setflags(write=False)
    return table


def margins(table: FloatArray) -> tuple[Policy, Policy]:
    """Return the distributions of chosen and of rejected responses, [K] or [X, K]."""
    return Policy.from_probs(table.sum(axis=-1)), Policy.from_probs(table.sum(axis=-2))


def shares(table: FloatArray) -> FloatArray:
    """Return P_ij/(P_ij + P_ji), ½ on the diagonal, and NaN where i and j are never compared, [..., K, K]."""
    compared = table + table.swapaxes(-1, -2)
    found = np.divide(table, compared, out=np.full(table.shape, np.nan), where=compared > 0.0)
    same = np.arange(table.shape[-1])
    found[..., same, same] = 0.5
    return found


def common_scores(table: FloatArray, allowed: BoolArray) -> FloatArray | None:
    """Return the scores v with P_ij/P_ji = e^{v_i − v_j} wherever i and j are compared, or None if there are none.

    They are followed along comparisons from one response to all others, and every comparison is then held against
    them. They are unique, but for a constant at each prompt, if comparisons lead from each response to every other.

    Args:
        table: P, [..., K, K].
        allowed: True for the responses that are to have a score, [..., K]; the others get −inf.

    Returns:
        The scores, in nats, [..., K]. None if one of two responses that are compared never wins, if log-odds are no
        differences of scores, or if comparisons do not lead everywhere.
    """
    rows = zip(table.reshape(-1, *table.shape[-2:]), allowed.reshape(-1, allowed.shape[-1]), strict=True)
    found = [_scores_of_prompt(*row) for row in rows]
    scores = [row for row in found if row is not None]
    return np.stack(scores).reshape(allowed.shape) if len(scores) == len(found) else None


def _scores_of_prompt(table: FloatArray, allowed: BoolArray) -> FloatArray | None:
    compared = (table > 0.0) | (table.T > 0.0)
    np.fill_diagonal(compared, False)
    if np.any(compared & (table == 0.0)):
        return None
    log_table = np.log(np.where(compared, table, 1.0))
    odds = log_table - log_table.T
    start = int(np.argmax(allowed))
    order, before = breadth_first_order(csr_array(compared), start)
    scores = np.full(len(table), -np.inf)
    scores[start] = 0.0
    for node in order[1:]:
        scores[node] = scores[before[node]] + odds[node, before[node]]
    if np.any(np.isneginf(scores[allowed])):
        return None
    reached = np.where(allowed, scores, 0.0)
    apart = np.abs(odds - (reached[:, None] - reached[None, :]))
    return scores if np.all(apart[compared] <= SAME_ODDS) else None
