"""Across the papers: for each objective, the rejected distribution under which it recovers the target."""

import numpy as np
import torch
from scipy.linalg import null_space

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import one_step
from didsim.claims._fields import Choice, Count, Instance, Simplex
from didsim.differential import ideal_rejected
from didsim.objectives import IMPLEMENTATIONS, OBJECTIVES, Pairs, objective
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.torch_bridge import to_array, to_tensor

PAIRWISE = tuple(
    name
    for name in IMPLEMENTATIONS
    if OBJECTIVES[name].gradient_rule is None and OBJECTIVES[name].bind().needs <= {"reference", "length"}
)
"""Objectives whose population loss is a mean over pairs, and so linear in the distribution of rejected responses."""

TOLERANCE = 1e-9
"""Of a policy after a gradient step of rate 1, in nats."""

MIXED = 1e-4
"""Designs with a smaller probability are left out: the null vector of a nearly singular matrix loses digits."""


def pulls(instance: Instance) -> FloatArray:
    """Return A [K, K]: the derivative by the logits at π*, were response j always the rejected one, in column j."""
    loss = objective(instance["objective"])
    log_ref = to_tensor(np.log(instance["reference"]))
    logits = to_tensor(np.log(instance["target"])).requires_grad_()
    count = len(logits)
    chosen, rejected = (
        index.flatten() for index in torch.meshgrid(torch.arange(count), torch.arange(count), indexing="ij")
    )
    log_pi = torch.log_softmax(logits, dim=0)
    ones = torch.ones(count * count, dtype=torch.int64)
    pairs = Pairs.from_log_probs(
        log_pi_chosen=log_pi[chosen],
        log_pi_rejected=log_pi[rejected],
        log_ref_chosen=log_ref[chosen],
        log_ref_rejected=log_ref[rejected],
        length_chosen=ones,
        length_rejected=ones,
    )
    losses = loss(pairs).reshape(count, count)  # [chosen, rejected]
    expected = to_tensor(np.array(instance["reference"])) @ losses  # of each rejected response
    columns = [torch.autograd.grad(value, logits, retain_graph=True)[0] for value in expected]
    return to_array(torch.stack(columns, dim=1))


def design(instance: Instance) -> FloatArray | None:
    """Return the probabilities l with A l = 0, [K], or None if the null vector is not one of a distribution."""
    matrix = pulls(instance)
    if not (np.isfinite(matrix).all() and np.any(matrix)):
        return None
    null = null_space(matrix / np.abs(matrix).max(), rcond=1e-10)
    if null.shape[1] != 1:
        return None
    probs = null[:, 0] / null[:, 0].sum()
    return probs if probs.min() > MIXED else None


def off_the_target(instance: Instance) -> float:
    """Return how far a gradient step of the engine leads from π*, in nats, and for DPO how far l is from Eq. 1's."""
    probs = design(instance)
    if probs is None:
        return np.inf
    if "mixed_with_uniform" in instance:
        share = instance["mixed_with_uniform"]
        probs = (1.0 - share) * probs + share / len(probs)
    reference, target = Policy.from_probs(instance["reference"]), Policy.from_probs(instance["target"])
    problem = Problem(reference=reference, target=target, rejected=Policy.from_probs(probs), chosen=reference)
    after = one_step(problem, objective(instance["objective"]), target)
    off = float(np.abs(after.log_probs - target.log_probs).max())
    if instance["objective"] == "dpo":
        beta = float(OBJECTIVES["dpo"].bind().hyperparameters["beta"])
        off = max(off, float(np.abs(probs - ideal_rejected(reference, target, beta).probs).max()))
    return off


PURE = "the rejected responses are drawn from the design"
EXISTS = "the null vector of A is that of a distribution"

RECOVERY_DESIGN = Claim(
    name="x.recovery-design",
    statement=(
        "With A the matrix whose column j is the derivative of the expected loss at π*, were response j always the "
        "rejected one, π* is stationary exactly under the rejected distributions l with A l = 0; one exists where the "
        "null vector of A has one sign, and for DPO it is the ideal one of Eq. 1."
    ),
    source="ours; generalises DID paper, Theorem L.1 and Eq. 1",
    verdict="holds",
    note=(
        "The expected loss of pairs drawn independently is linear in the rejected distribution, and so is its gradient "
        "at π*: it is A l. Shifting all logits changes no policy, so the rows of A add up to 0, A is singular, and a "
        "null vector always exists; it is a distribution only if all its entries have one sign. This turns Theorem "
        "L.1 around for every objective: instead of asking whether an objective recovers π* from DPO's data, it says "
        "from which data it would. The design comes from autograd on single pairs, and is checked by one step of the "
        "engine on the population loss. Being stationary is not yet being stable, or the only such policy; and at "
        "kinks the derivative is one of several."
    ),
    fields={
        "objective": Choice(PAIRWISE),
        "num_classes": Count(2, 4),
        "reference": Simplex(),
        "target": Simplex(),
    },
    check=off_the_target,
    tolerance=TOLERANCE,
    reason="the null vector of a matrix whose condition is limited by leaving out designs below 1e-4",
    assumptions={EXISTS: lambda i: design(i) is not None, PURE: lambda i: "mixed_with_uniform" not in i},
    control=Control(
        breaks=PURE,
        instance={
            "objective": "simpo",
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "target": [0.75, 0.25],
            "mixed_with_uniform": 0.5,
        },
    ),
    cost=10,
)

CLAIMS = (RECOVERY_DESIGN,)
