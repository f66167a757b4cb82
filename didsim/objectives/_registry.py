"""The registry: every objective by name."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from didsim._checks import check_choice
from didsim.objectives._log_ratio import CAL_DPO, CDPO, DPO, LOG_PI, MI_DPO
from didsim.objectives._objective import BoundObjective, Objective
from didsim.objectives._reference_free import ORPO, SIMPO, SLIC

OBJECTIVES: Mapping[str, Objective] = MappingProxyType(
    {record.name: record for record in (DPO, CDPO, LOG_PI, SLIC, ORPO, SIMPO, CAL_DPO, MI_DPO)}
)
"""Every registered objective, by name."""


def objective(name: str, **hyperparameters: Any) -> BoundObjective:
    """Return the objective of that name with its hyperparameters bound.

    Args:
        name: a name in `OBJECTIVES`.
        **hyperparameters: numbers, named options, or tensors that broadcast against the pairs; those not
            given take their defaults.

    Raises:
        ValueError: if the name or a hyperparameter is unknown, or a value lies outside its domain.
        TypeError: if a value is not a number.

    >>> objective("simpo", beta=2.0)
    objective('simpo', beta=2.0, gamma=0.5)
    """
    return OBJECTIVES[check_choice("objective", name, OBJECTIVES)].bind(**hyperparameters)
