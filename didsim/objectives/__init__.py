"""Every loss once, on log-probabilities: the objectives, their priors, and the pairs they look at."""

from didsim.objectives._adaptive import decay, log_ratio_margin, pmi_margin, reference_reward, reward_margin
from didsim.objectives._gradient_rule import projected_gradient
from didsim.objectives._independent import Difference, IndependentPairs, score_difference
from didsim.objectives._libraries import IMPLEMENTATIONS, Implementation
from didsim.objectives._links import Link
from didsim.objectives._math import stop_gradient
from didsim.objectives._objective import NEEDS, BoundObjective, Objective, Parameter, Part
from didsim.objectives._pair_functions import Contrast, Jumps, keywords
from didsim.objectives._pairs import Pairs, Responses
from didsim.objectives._priors import PRIORS, Prior
from didsim.objectives._registry import OBJECTIVES, objective, register_objective
from didsim.objectives._stack import group_key, stack
from didsim.objectives._tokens import Mapped, NextTokens, Tokens, Vocabulary

__all__ = [
    "IMPLEMENTATIONS",
    "NEEDS",
    "OBJECTIVES",
    "PRIORS",
    "BoundObjective",
    "Contrast",
    "Difference",
    "Implementation",
    "IndependentPairs",
    "Jumps",
    "Link",
    "Mapped",
    "NextTokens",
    "Objective",
    "Pairs",
    "Parameter",
    "Part",
    "Prior",
    "Responses",
    "Tokens",
    "Vocabulary",
    "decay",
    "group_key",
    "keywords",
    "log_ratio_margin",
    "objective",
    "pmi_margin",
    "projected_gradient",
    "reference_reward",
    "register_objective",
    "reward_margin",
    "score_difference",
    "stack",
    "stop_gradient",
]
