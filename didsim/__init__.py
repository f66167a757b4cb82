"""didsim: a laboratory for the theory of direct preference optimisation.

Everything public is reachable from here, and is loaded when it is first used: ``import didsim``
loads neither PyTorch, nor matplotlib, nor pandas.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOME = {
    "Policy": "didsim.policy",
    "Problem": "didsim.preference",
    "PreferenceDataset": "didsim.preference",
    "preference_probabilities": "didsim.preference",
    "entropy": "didsim.info",
    "kl": "didsim.info",
    "js": "didsim.info",
    "tv": "didsim.info",
    "renyi": "didsim.info",
    "did": "didsim.differential",
    "ideal_rejected": "didsim.differential",
    "power_law": "didsim.differential",
    "dpo_optimum": "didsim.optima",
    "OBJECTIVES": "didsim.objectives",
    "PRIORS": "didsim.objectives",
    "Pairs": "didsim.objectives",
    "objective": "didsim.objectives",
    "check_loss": "didsim.doctor",
    "METRICS": "didsim.engine",
    "Settings": "didsim.engine",
    "train": "didsim.engine",
    "train_many": "didsim.engine",
    "Categorical": "didsim.spaces",
    "Sequences": "didsim.spaces",
    "marginal": "didsim.info",
    "mutual_information": "didsim.info",
    "pmi": "didsim.info",
    "register_objective": "didsim.objectives",
    "dice": "didsim.engine",
    "entropy_probe": "didsim.engine",
    "beta_accuracy": "didsim.engine",
    "monte_carlo_entropy": "didsim.engine",
    "solve": "didsim.stationary",
    "solve_many": "didsim.stationary",
    "Solution": "didsim.stationary",
    "identify": "didsim.identification",
    "fisher_information": "didsim.identification",
    "predicted_error": "didsim.identification",
    "bayes_accuracy": "didsim.identification",
    "closed_form": "didsim.optima",
    "CLAIMS": "didsim.claims",
    "verify": "didsim.claims",
    "WORLDS": "didsim.worlds",
}

__all__ = [
    "CLAIMS",
    "METRICS",
    "OBJECTIVES",
    "PRIORS",
    "WORLDS",
    "Categorical",
    "Pairs",
    "Policy",
    "PreferenceDataset",
    "Problem",
    "Sequences",
    "Settings",
    "Solution",
    "__version__",
    "bayes_accuracy",
    "beta_accuracy",
    "check_loss",
    "closed_form",
    "dice",
    "did",
    "dpo_optimum",
    "entropy",
    "entropy_probe",
    "fisher_information",
    "ideal_rejected",
    "identify",
    "js",
    "kl",
    "marginal",
    "monte_carlo_entropy",
    "mutual_information",
    "objective",
    "pmi",
    "power_law",
    "predicted_error",
    "preference_probabilities",
    "register_objective",
    "renyi",
    "solve",
    "solve_many",
    "train",
    "train_many",
    "tv",
    "verify",
]

if TYPE_CHECKING:
    from didsim.claims import CLAIMS, verify
    from didsim.differential import did, ideal_rejected, power_law
    from didsim.doctor import check_loss
    from didsim.engine import (
        METRICS,
        Settings,
        beta_accuracy,
        dice,
        entropy_probe,
        monte_carlo_entropy,
        train,
        train_many,
    )
    from didsim.identification import bayes_accuracy, fisher_information, identify, predicted_error
    from didsim.info import entropy, js, kl, marginal, mutual_information, pmi, renyi, tv
    from didsim.objectives import OBJECTIVES, PRIORS, Pairs, objective, register_objective
    from didsim.optima import closed_form, dpo_optimum
    from didsim.policy import Policy
    from didsim.preference import PreferenceDataset, Problem, preference_probabilities
    from didsim.spaces import Categorical, Sequences
    from didsim.stationary import Solution, solve, solve_many
    from didsim.worlds import WORLDS


def __getattr__(name: str) -> Any:
    if name == "worlds":
        return import_module("didsim.worlds")
    if name not in _HOME:
        raise AttributeError(f"module 'didsim' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
