"""The zoo: DPO as it is written by mistake, and the curves of training by each of these losses."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from didsim import Problem, train, train_many
from didsim.objectives import OBJECTIVES, BoundObjective, Objective, Pairs, stop_gradient

Loss = Callable[..., Tensor]

BETA, STEPS, DIGITS = 0.5, 200, 5
SETTINGS: dict[str, Any] = {
    "mode": "population",
    "optimiser": "sgd",
    "learning_rate": 2.0,
    "clip": None,
    "dtype": "float64",
    "record_every": 5,
    "metrics": ("loss", "js_target", "margin"),
}


def _margin(pairs: Pairs) -> Tensor:
    return pairs.chosen.log_ratio - pairs.rejected.log_ratio


def _minus_log_sigmoid(x: Tensor) -> Tensor:
    return -torch.nn.functional.logsigmoid(x)


def no_mistake(pairs, *, beta=BETA):
    """Return DPO's loss."""
    return _minus_log_sigmoid(beta * _margin(pairs))


def flipped_margin(pairs, *, beta=BETA):
    """Return DPO's loss with chosen and rejected exchanged in the margin."""
    return _minus_log_sigmoid(-beta * _margin(pairs))


def negated_loss(pairs, *, beta=BETA):
    """Return minus DPO's loss: the logarithm of σ without the minus sign."""
    return torch.nn.functional.logsigmoid(beta * _margin(pairs))


def beta_twice(pairs, *, beta=BETA):
    """Return DPO's loss of rewards that have been multiplied by β already."""
    return _minus_log_sigmoid(beta * (beta * _margin(pairs)))


def lost_reference(pairs, *, beta=BETA):
    """Return DPO's loss without log π_ref."""
    return _minus_log_sigmoid(beta * (pairs.chosen.log_pi - pairs.rejected.log_pi))


def detached_margin(pairs, *, beta=BETA):
    """Return DPO's loss of a margin whose gradient is stopped."""
    return _minus_log_sigmoid(beta * stop_gradient(_margin(pairs)))


def wrong_log_base(pairs, *, beta=BETA):
    """Return DPO's loss with a logarithm of base 2."""
    return _minus_log_sigmoid(beta * _margin(pairs)) / math.log(2.0)


def noisy_labels(pairs, *, beta=BETA):
    """Return DPO's loss, in expectation, when three labels of ten are wrong."""
    margin = beta * _margin(pairs)
    return 0.7 * _minus_log_sigmoid(margin) + 0.3 * _minus_log_sigmoid(-margin)


def moving_reference(pairs, *, beta=BETA):
    """Return DPO's loss when the reference is the policy itself, copied before every step."""
    log_pi = pairs.chosen.log_pi - pairs.rejected.log_pi
    return _minus_log_sigmoid(beta * (log_pi - stop_gradient(log_pi)))


LOSSES: Mapping[str, Loss] = MappingProxyType(
    {
        "no mistake": no_mistake,
        "flipped margin": flipped_margin,
        "negated loss": negated_loss,
        "β twice": beta_twice,
        "lost reference": lost_reference,
        "detached margin": detached_margin,
        "wrong log base": wrong_log_base,
        "noisy labels": noisy_labels,
        "moving reference": moving_reference,
        "swapped halfway": no_mistake,  # and then flipped_margin
    }
)
"""The losses by the name of the mistake."""


def specimen(name: str, beta: float = BETA) -> BoundObjective:
    """Return the loss with a mistake of `LOSSES`, as an objective that can be trained."""
    loss = LOSSES[name]
    return Objective(
        name=loss.__name__,
        title=name,
        formula=(loss.__doc__ or "").splitlines()[0],
        source="the zoo of wrong implementations",
        parameters={"beta": OBJECTIVES["dpo"].parameters["beta"]},
        implicit_reward=lambda y: y.log_pi,
        needs=frozenset({"reference"}),
        pair=loss,
    ).bind(beta=beta)


def problem(beta: float = BETA) -> Problem:
    """Return the problem of the zoo: eight responses, and a target that reinforces the reference."""
    policies = Problem.from_temperature(num_classes=8, tau=0.4, seed=3)
    return Problem.from_policies(policies.reference, policies.target, beta=beta)


def curves() -> pd.DataFrame:
    """Train by every loss; return loss, JS(π*‖π) and mean margin by step: run, step, loss, js_target, margin."""
    jobs = [(problem(), specimen(name)) for name in LOSSES]
    histories = train_many(jobs, steps=STEPS, **SETTINGS)
    frames = {name: history.frame for name, history in zip(LOSSES, histories, strict=True)}
    frames["swapped halfway"] = _swapped_halfway()
    return pd.concat([_measured(name, frame) for name, frame in frames.items()], ignore_index=True)


def _swapped_halfway() -> pd.DataFrame:
    half = STEPS // 2
    before = train(problem(), specimen("no mistake"), steps=half, **SETTINGS)
    after = train(problem(), specimen("flipped margin"), steps=half, initial_policy=before.policy, **SETTINGS)
    return pd.concat([before.frame.iloc[:-1], after.frame.assign(step=after.frame["step"] + half)])


def _measured(name: str, frame: pd.DataFrame) -> pd.DataFrame:
    """Return the columns of the zoo, to digits that every machine agrees on."""
    numbers = {key: frame[key].round(DIGITS) for key in SETTINGS["metrics"]}
    return pd.DataFrame({"run": name, "step": frame["step"], **numbers})


__all__ = ["BETA", "LOSSES", "SETTINGS", "STEPS", "curves", "problem", "specimen"]
