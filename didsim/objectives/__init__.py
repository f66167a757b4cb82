"""Every loss once, on log-probabilities: the objectives, their priors, and the pairs they look at."""

from didsim.objectives._links import Link
from didsim.objectives._objective import BoundObjective, Objective, Parameter, group_key, stack
from didsim.objectives._pairs import Pairs, Responses
from didsim.objectives._priors import PRIORS, Prior
from didsim.objectives._registry import OBJECTIVES, objective

__all__ = [
    "OBJECTIVES",
    "PRIORS",
    "BoundObjective",
    "Link",
    "Objective",
    "Pairs",
    "Parameter",
    "Prior",
    "Responses",
    "group_key",
    "objective",
    "stack",
]
