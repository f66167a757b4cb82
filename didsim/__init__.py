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
    "METRICS": "didsim.engine",
    "Settings": "didsim.engine",
    "train": "didsim.engine",
    "train_many": "didsim.engine",
}

__all__ = [
    "METRICS",
    "OBJECTIVES",
    "PRIORS",
    "Pairs",
    "Policy",
    "PreferenceDataset",
    "Problem",
    "Settings",
    "__version__",
    "did",
    "dpo_optimum",
    "entropy",
    "ideal_rejected",
    "js",
    "kl",
    "objective",
    "power_law",
    "preference_probabilities",
    "renyi",
    "train",
    "train_many",
    "tv",
]

if TYPE_CHECKING:
    from didsim.differential import did, ideal_rejected, power_law
    from didsim.engine import METRICS, Settings, train, train_many
    from didsim.info import entropy, js, kl, renyi, tv
    from didsim.objectives import OBJECTIVES, PRIORS, Pairs, objective
    from didsim.optima import dpo_optimum
    from didsim.policy import Policy
    from didsim.preference import PreferenceDataset, Problem, preference_probabilities


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'didsim' has no attribute {name!r}")
    value = getattr(import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
