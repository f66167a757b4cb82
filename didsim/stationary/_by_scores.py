"""A second try, for losses that are a link of differences of one score: first the scores, then the policy.

With s the scores, the field is 0 where Σ_j W_kj f′(s_k − s_j) = Σ_i W_ik f′(s_i − s_k) for all k, whatever function of
log π the score is. So solve as if it were log π itself, which is well conditioned, and then find the policy that has
these scores up to a constant c: Σ_k π_k(s_k + c) = 1, whose left side rises in c.
"""

import dataclasses

import torch
from torch import Tensor

from didsim.objectives import BoundObjective, Objective, Responses, keywords
from didsim.stationary._field import ResponseField
from didsim.stationary._settle import Rest, settle

DEEPEST, HALVINGS = 1e3, 48
"""A log-probability below which none is looked for; halvings of an interval, which leave less than a start needs."""


def settle_by_scores(field: ResponseField, rest: Rest) -> Rest:
    """Try the rows again that have not come to rest, from the policies with the stationary scores."""
    rows = torch.nonzero(~rest.march.settled & (rest.continuum == 0))[:, 0]
    if len(rows) == 0:
        return rest
    part = field.take(rows)
    scores = settle(dataclasses.replace(part, loss=_of_log_pi(part.loss)), torch.zeros_like(part.log_ref[..., 0]))
    fine = scores.march.settled & ~scores.dead.any(1)
    rows, part, level = rows[fine], part.take(fine), scores.march.unknowns[fine]
    if len(rows) == 0:
        return rest
    again = settle(part, _policy_with(part, level))
    better = again.march.settled
    for name in (each.name for each in dataclasses.fields(again.march)):
        getattr(rest.march, name)[rows[better]] = getattr(again.march, name)[better]
    rest.dead[rows[better]] = again.dead[better]
    return Rest(rest.march, field.freeze(rest.march.unknowns, rest.dead), rest.dead, rest.continuum)


def _of_log_pi(loss: BoundObjective) -> BoundObjective:
    """Return the loss with log π for its score."""
    record, link = loss.objective, loss.objective.margin_link
    assert link is not None  # is_shift_free
    taken = keywords(link.value) | keywords(link.slope)
    plain = Objective(
        name=record.name,
        title=record.title,
        formula=record.formula,
        source=record.source,
        parameters={name: record.parameters[name] for name in taken},
        score=_log_pi,
        link=link,
    )
    return BoundObjective(plain, {name: x for name, x in loss.hyperparameters.items() if name in taken})


def _log_pi(y: Responses) -> Tensor:
    return y.log_pi


def _policy_with(field: ResponseField, level: Tensor) -> Tensor:
    """Return log π [L, K] of the policy whose scores are the level [L, K] up to a constant for each row."""
    uniform = -field.allowed.sum(1, keepdim=True).to(level.dtype).log().expand_as(level)
    ends = [field.scores(log_pi) - level for log_pi in (uniform - 1.0, uniform)]
    # at the one end no response has more than 1/(eK), at the other none less than 1/K
    low = ends[0].where(field.allowed, torch.inf).amin(1, keepdim=True)
    high = ends[1].where(field.allowed, -torch.inf).amax(1, keepdim=True)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        above = _with_scores(field, level + middle).exp().sum(1, keepdim=True) > 1.0
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return _with_scores(field, level + low)


def _with_scores(field: ResponseField, wanted: Tensor) -> Tensor:
    """Return the log-probabilities, from −1000 to 0, with the scores wanted, [L, K]: scores rise with log π."""
    low, high = torch.full_like(wanted, -DEEPEST), torch.zeros_like(wanted)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        below = field.scores(middle) < wanted
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return high.where(field.allowed, -DEEPEST)
