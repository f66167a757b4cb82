"""What many claims share: a small world, and tolerances with their reasons."""

from dataclasses import replace

from didsim.claims._fields import Count, Instance, Reals, Simplex
from didsim.engine import train
from didsim.objectives import BoundObjective
from didsim.policy import Policy
from didsim.preference import Problem

ROUNDING = 1e-9
"""Of differences of log-probabilities that reach hundreds of nats: some thousand units in the last place."""

IDENTITY = "an identity: what is left is the rounding of log-probabilities that reach hundreds of nats"

SOLVED = 1e-7
"""Of a policy that the solver found, in nats: ten times the Newton step that its certificate allows."""

CERTIFICATE = "the solver's certificate: its last Newton step is at most 1e-8 nats"

WORLD = {"num_classes": Count(2, 6), "reference": Simplex(), "target": Simplex()}
"""A reference and a target over a few responses."""

BETA = Reals(low=0.0)
"""A positive number, log-normal around 1."""


def problem_of(instance: Instance) -> Problem:
    """Return the DID problem of an instance: y_w ~ π_ref, and y_l from the ideal rejected distribution.

    The exponent is "beta", 1 without one. Values named "chosen" and "rejected" take the place of these distributions;
    "prompts" are the weights of prompts, to which policies [X, K] belong.
    """
    problem = Problem.from_policies(
        instance["reference"],
        instance["target"],
        beta=instance.get("beta", 1.0),
        prompts=instance.get("prompts"),
    )
    others = {name: Policy.from_probs(instance[name]) for name in ("chosen", "rejected") if name in instance}
    return replace(problem, **others) if others else problem


def one_step(problem: Problem, loss: BoundObjective, place: Policy) -> Policy:
    """Return the policy after one step of gradient descent of rate 1 in the logits, on the exact population loss."""
    history = train(
        problem,
        loss,
        steps=1,
        mode="population",
        optimiser="sgd",
        learning_rate=1.0,
        clip=None,
        dtype="float64",
        initial_policy=place,
        metrics=(),
    )
    assert history.policy is not None  # one step of rate 1 does not diverge
    return history.policy
