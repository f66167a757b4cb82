"""Every loss once, on log-probabilities: the objectives, their priors, and the pairs they look at."""

from didsim.objectives._gradient_rule import projected_gradient
from didsim.objectives._libraries import IMPLEMENTATIONS, Implementation
from didsim.objectives._links import Link
from didsim.objectives._objective import NEEDS, BoundObjective, Objective, Parameter, group_key, stack
from didsim.objectives._pairs import Pairs, Responses
from didsim.objectives._priors import PRIORS, Prior
from didsim.objectives._registry import OBJECTIVES, objective, register_objective
from didsim.objectives._tokens import NextTokens, Tokens, Vocabulary

__all__ = [
    "IMPLEMENTATIONS",
    "NEEDS",
    "OBJECTIVES",
    "PRIORS",
    "BoundObjective",
    "Implementation",
    "Link",
    "NextTokens",
    "Objective",
    "Pairs",
    "Parameter",
    "Prior",
    "Responses",
    "Tokens",
    "Vocabulary",
    "group_key",
    "objective",
    "projected_gradient",
    "register_objective",
    "stack",
]
