"""Appendix H of the DID paper in training: what clipping and RMSprop make of the steps of DPO-PG."""

from typing import Any

import numpy as np

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, ROUNDING
from didsim.claims._fields import Count, Instance, Simplex
from didsim.engine import train
from didsim.objectives import objective
from didsim.policy import Policy
from didsim.preference import Problem

LOGITS = {"num_classes": Count(2, 5), "policy": Simplex(), "chosen": Simplex(), "rejected": Simplex()}
"""A table of logits, whose gradients are π − w and π − l."""


def displacement(instance: Instance, **settings: Any) -> FloatArray:
    """Return the change of the logits by one training step of DPO-PG, without its mean, [K]."""
    policy = Policy.from_probs(instance["policy"])
    chosen, rejected = (Policy.from_probs(instance[name]) for name in ("chosen", "rejected"))
    options = {"mode": "population", "dtype": "float64", "steps": 1, "learning_rate": 1e-3, "metrics": (), **settings}
    history = train(Problem(policy, policy, rejected, chosen), objective("dpo_pg"), **options)
    assert history.policy is not None  # one small step does not diverge
    change = history.policy.log_probs - policy.log_probs
    return change - change.mean()


def raised_by_step(instance: Instance, **settings: Any) -> tuple[float, float]:
    """Return how much one step raises L(y_w), and lowers L(y_l), to first order and relative to all lengths."""
    step, policy = displacement(instance, **settings), np.array(instance["policy"])
    chosen, rejected = (policy - np.array(instance[side]) for side in ("chosen", "rejected"))
    lengths = [np.linalg.norm(side) * np.linalg.norm(step) for side in (chosen, rejected)]
    rises = (step @ chosen, -step @ rejected)
    first, second = (max(0.0, rise / size) if size > STILL else 0.0 for rise, size in zip(rises, lengths, strict=True))
    return float(first), float(second)


STILL = 1e-9
"""Below this a step, times a gradient, is made of rounding."""


def clipped(instance: Instance) -> float:
    """Return how much a clipped step raises L(y_w) or lowers L(y_l)."""
    return max(raised_by_step(instance, optimiser=instance.get("optimiser", "sgd"), clip=instance["clip"]))


ACUTE: Instance = {
    "num_classes": 3,
    "policy": [0.1, 0.5, 0.4],
    "chosen": [0.6, 0.2, 0.2],
    "rejected": [0.8, 0.1, 0.1],
}
"""Both batches have more of response 0 than π: the gradients (−5, 3, 2)/10 and (−7, 4, 3)/10 are all but parallel."""

DPO_PG_CLIPPING = Claim(
    name="x.dpo-pg-clipping",
    statement="A gradient-descent step of DPO-PG whose norm is clipped neither raises L(y_w) nor lowers L(y_l).",
    source="DID paper, Definition H.1 (“when applying gradient-clipping, we clip the L2 norm”)",
    verdict="holds",
    note=(
        "Clipping multiplies the projected gradient by one positive number, so the signs of Theorems H.4 and H.5 "
        "stay as they were; only the size of the step changes. The engine clips after the projection, as the "
        "paper says. The control replaces gradient descent by RMSprop, with which the paper trains its models, "
        "and the sign of L(y_w) is lost: see x.dpo-pg-rmsprop."
    ),
    fields={**LOGITS, "clip": BETA},
    check=clipped,
    tolerance=1e-6,
    reason="the change of log-probabilities by a step as small as 1e-9 has some seven digits",
    assumptions={"the optimiser is gradient descent": lambda i: "optimiser" not in i},
    cost=2,
    control=Control(
        breaks="the optimiser is gradient descent", instance={**ACUTE, "clip": 1.0, "optimiser": "rmsprop"}
    ),
)


def rescaled(instance: Instance) -> float:
    """Return how much the first step of RMSprop raises L(y_w): to first order, or in all if it is not small."""
    if "learning_rate" not in instance:
        return raised_by_step(instance, optimiser="rmsprop", clip=None)[0]
    policy, chosen = np.array(instance["policy"]), np.array(instance["chosen"])
    step = displacement(instance, optimiser="rmsprop", clip=None, learning_rate=instance["learning_rate"])
    return max(0.0, float(np.log(policy @ np.exp(step)) - chosen @ step))


DPO_PG_RMSPROP = Claim(
    name="x.dpo-pg-rmsprop",
    statement="Theorem H.4 survives RMSprop: its first step on the projected gradient does not raise L(y_w).",
    source="DID paper, Definition H.1 (“follow the optimizer's algorithm”), Appendix J.2 (RMSprop)",
    verdict="holds-conditionally",
    note=(
        "RMSprop divides each coordinate by a positive number of its own; its first step is along the signs of "
        "the projected gradient p. With any such numbers s, Δθ·g_w = −Σ_k s_k p_k g_k, which is surely negative "
        "only if p_k g_k ≥ 0 for all k. That is so where nothing is projected out (g_w·g_l ≤ 0, p = g_w), at "
        "later steps too. Elsewhere the sign may turn; counterexample: π = (1, 5, 4)/10, w = (6, 2, 2)/10, l = "
        "(8, 1, 1)/10, where p has the signs (+, +, −) and g_w = (−5, 3, 2)/10. The guarantee for y_l is lost in "
        "both cases: for g_w = (5, −4, −1) and g_l = (1, 2, −3) nothing is projected out, but L(y_l) falls along "
        "−(1, −1, −1)."
    ),
    fields=LOGITS,
    check=rescaled,
    tolerance=ROUNDING,
    reason="the rounding of the change of log-probabilities by a step of 1e-2 nats, relative to the step",
    assumptions={"the step is small": lambda i: "learning_rate" not in i},
    condition=(
        "∇L(y_w)·∇L(y_l) ≤ 0, so that nothing is projected out",
        lambda i: float(np.subtract(i["policy"], i["chosen"]) @ np.subtract(i["policy"], i["rejected"])) <= 0.0,
    ),
    cost=2,
    control=Control(
        breaks="the step is small",
        instance={
            "num_classes": 2,
            "policy": [0.5, 0.5],
            "chosen": [0.75, 0.25],
            "rejected": [0.25, 0.75],
            "learning_rate": 1.0,
        },
    ),
)
