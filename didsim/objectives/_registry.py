"""The registry: every objective by name, didsim's own and those of its users."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any

from torch import Tensor

from didsim._checks import REAL, check_choice, message
from didsim.objectives._adaptive import ALPHA_DPO, AOT, AOT_UNPAIRED, BETA_DPO, RMIPO
from didsim.objectives._gradient_rule import DPO_PG
from didsim.objectives._log_ratio import (
    CDPO,
    CHI_PO,
    DISCOPOP,
    DPO,
    DPO_NORM,
    DPOP,
    ENTROPY_PROBE,
    EXO,
    EXPONENTIAL_LOSS,
    F_DPO,
    H_DPO,
    HINGE_LOSS,
    IPO,
    LOG_PI,
    R_DPO,
    ROBUST_DPO,
)
from didsim.objectives._mutual_information import MI_DPO
from didsim.objectives._objective import BOOLEAN, BoundObjective, Objective, Parameter
from didsim.objectives._pairs import Pairs
from didsim.objectives._pointwise import APO_DOWN, APO_ZERO, BCO, CAL_DPO, KTO, NCA, SPPO
from didsim.objectives._reference_free import ALPHAPO, CPO, ORPO, REPO, SIMPER, SIMPO, SLIC
from didsim.objectives._token_level import EPSILON_DPO, LD_DPO, SPARSE_PO, TDPO1, TDPO2, TIS_DPO, WPO

BUILT_IN = (
    *(DPO, CDPO, ROBUST_DPO, IPO, HINGE_LOSS, EXPONENTIAL_LOSS, EXO, DISCOPOP),
    *(R_DPO, DPOP, H_DPO, DPO_NORM, F_DPO, CHI_PO, MI_DPO),
    *(CAL_DPO, SPPO, KTO, BCO, NCA, APO_ZERO, APO_DOWN),
    *(LOG_PI, ENTROPY_PROBE, SLIC, CPO, ORPO, SIMPO, ALPHAPO, REPO, SIMPER),
    *(TDPO1, TDPO2, TIS_DPO, SPARSE_PO, EPSILON_DPO, WPO, LD_DPO),
    *(ALPHA_DPO, BETA_DPO, RMIPO, AOT, AOT_UNPAIRED, DPO_PG),
)
"""didsim's own objectives."""

ENTRY_POINTS = "didsim.objectives"
"""The entry point group in which an installed package offers objectives of its own."""


class Registry(Mapping[str, Objective]):
    """Objectives by name: didsim's own, those that `register_objective` added, and those of installed packages."""

    def __init__(self) -> None:
        self._records = {record.name: record for record in BUILT_IN}

    def __getitem__(self, name: str) -> Objective:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def add(self, record: Objective) -> None:
        """Add an objective; one that was registered under the same name before gives way, as when a cell is run again.

        Raises:
            ValueError: if it has the name of one of didsim's own.
        """
        if record.name in (known.name for known in BUILT_IN):
            hint = "didsim has an objective of that name; choose another."
            raise ValueError(message("the name of an objective", "a new one", record.name, hint))
        self._records[record.name] = record

    def remove(self, name: str) -> None:
        """Forget an objective that `register_objective` added.

        Raises:
            ValueError: if none of that name was added.
        """
        added = [known for known in self._records if self._records[known] not in BUILT_IN]
        del self._records[check_choice("a registered objective", name, added)]

    def _all(self) -> dict[str, Objective]:
        return {**_installed(), **self._records}


OBJECTIVES = Registry()
"""Every registered objective, by name."""


@cache
def _installed() -> dict[str, Objective]:
    """Return the objectives that installed packages offer as entry points; one that fails is told, and left out."""
    found = {}
    for point in entry_points(group=ENTRY_POINTS):
        try:
            loaded = point.load()
            record = loaded if isinstance(loaded, Objective) else objective_from_function(loaded, name=point.name)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            warnings.warn(f"The objective {point.name} ({point.value}) cannot be loaded: {said}", stacklevel=2)
        else:
            found[record.name] = record
    return found


def objective(name: str, **hyperparameters: Any) -> BoundObjective:
    """Return the objective of that name with its hyperparameters bound.

    Args:
        name: a name in `OBJECTIVES`.
        **hyperparameters: numbers, named options, or tensors that broadcast against the pairs; those not
            given take their defaults.

    Raises:
        ValueError: if the name or a hyperparameter is unknown, or a value lies outside its domain, or the options
            leave it unread.
        TypeError: if a value is not a number.

    >>> objective("simpo", beta=2.0)
    objective('simpo', beta=2.0, gamma=0.5, gamma_form='absolute')
    """
    return OBJECTIVES[check_choice("objective", name, OBJECTIVES)].bind(**hyperparameters)


def register_objective(loss: Any = None, /, **facts: Any) -> Any:
    """Register a loss of one's own: it then works wherever an objective does, under its name.

    Args:
        loss: a function ``loss(pairs, *, beta=0.1, …) -> Tensor`` that returns one loss per pair, or an `Objective`.
        **facts: for a function: its `name` (that of the function unless given), title, formula, source, parameters,
            needs, implicit_reward, as in `Objective`.

    Returns:
        What was given, so that it can stand as a decorator: ``@register_objective`` or
        ``@register_objective(needs={"reference"})``.

    Raises:
        ValueError: if didsim has an objective of that name.
        TypeError: if it is neither a function of pairs nor an `Objective`, or a hyperparameter has no default.

    >>> @register_objective(needs={"reference"})
    ... def squared_margin(pairs, *, beta=1.0):
    ...     return (beta * (pairs.chosen.log_ratio - pairs.rejected.log_ratio) - 1.0) ** 2
    >>> objective("squared_margin")
    objective('squared_margin', beta=1.0)
    >>> OBJECTIVES.remove("squared_margin")
    """
    if loss is None:
        return lambda function: register_objective(function, **facts)
    record = loss if isinstance(loss, Objective) else objective_from_function(loss, **facts)
    OBJECTIVES.add(record)
    return loss


def objective_from_function(function: Callable[..., Tensor], **facts: Any) -> Objective:
    """Make a record of a function of pairs; its keyword-only arguments are the hyperparameters.

    Raises:
        TypeError: if it does not take pairs, or a hyperparameter has no default.
    """
    accepted = "a function loss(pairs, *, name=default, …), or a didsim.objectives.Objective"
    if not callable(function):
        raise TypeError(message("a loss", accepted, function))
    arguments = list(inspect.signature(function).parameters.values())
    positional = [argument for argument in arguments if argument.kind is not argument.KEYWORD_ONLY]
    if len(positional) != 1:
        raise TypeError(
            message(
                "a loss",
                accepted,
                f"{getattr(function, '__name__', function)} with {len(positional)} positional arguments",
            )
        )
    name = facts.pop("name", getattr(function, "__name__", ""))
    given = facts.pop("parameters", {})
    parameters = {
        argument.name: given.get(argument.name) or _parameter(name, argument)
        for argument in arguments
        if argument.kind is argument.KEYWORD_ONLY
    }
    facts = {
        "title": name.replace("_", " "),
        "formula": (inspect.getdoc(function) or "a function of pairs").splitlines()[0],
        "source": f"{getattr(function, '__module__', '?')}:{getattr(function, '__qualname__', name)}",
        "implicit_reward": _log_pi,
        **facts,
    }
    facts["needs"] = frozenset(facts.get("needs", ()))
    return Objective(name=name, parameters=parameters, pair=function, **facts)


def _parameter(name: str, argument: inspect.Parameter) -> Parameter:
    default = argument.default
    if isinstance(default, bool):
        return Parameter(default, BOOLEAN, (default,), "as the function defines it")
    if isinstance(default, int | float):
        return Parameter(float(default), REAL, (float(default),), "as the function defines it")
    accepted = "a number or a truth value; name others in parameters="
    raise TypeError(message(f"the default of {argument.name} of {name}", accepted, default))


def _log_pi(y: Any) -> Tensor:
    return y.log_pi


__all__ = ["OBJECTIVES", "Pairs", "objective", "register_objective"]
