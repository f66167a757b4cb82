"""Section 4.2 of the DID paper: when the likelihood of chosen responses falls during DPO."""

import numpy as np
import torch

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, problem_of
from didsim.claims._did_tools import expected_loss
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.differential import did
from didsim.engine import train
from didsim.info import entropy
from didsim.objectives import objective
from didsim.optima import dpo_optimum
from didsim.policy import Policy
from didsim.preference import Problem

PATH_STEPS = 10


def pairs_of(instance: Instance) -> Problem:
    """Return a problem whose chosen responses are π_ref, moved by "pull" towards "towards" in log space."""
    log_ref = np.log(instance["reference"])
    chosen = Policy.from_logits(log_ref + instance["pull"] * (np.log(instance["towards"]) - log_ref))
    return problem_of({**instance, "target": instance["reference"], "beta": 1.0, "chosen": chosen.probs})


def likelihoods(problem: Problem, beta: float, rate: float, steps: int, start: Policy | None = None) -> FloatArray:
    """Return E log π(y_w) along gradient descent on the population DPO loss, in nats, from the start on."""
    history = train(
        problem,
        objective("dpo", beta=beta),
        steps=steps,
        learning_rate=rate,
        mode="population",
        optimiser="sgd",
        clip=None,
        dtype="float64",
        record_every=1,
        metrics=("log_pi_chosen",),
        initial_policy=start,
    )
    return np.asarray(history.metrics["log_pi_chosen"])


def rise(instance: Instance) -> float:
    """Return by how much E log π(y_w) ever exceeds its first value, in training or where DPO ends, in nats."""
    problem, beta = pairs_of(instance), instance["beta"]
    start = Policy.from_probs(instance["start"]) if "start" in instance else None
    path = likelihoods(problem, beta, 1.0 / max(beta, beta**2), PATH_STEPS, start)
    end = float(problem.chosen.probs @ dpo_optimum(problem, beta).log_probs)
    return max(0.0, float(path.max() - path[0]), end - float(path[0]))


HIGH = "H(q) is above H(π_ref), with q the differential information that DPO learns"

FROM_REFERENCE = "DPO starts at π_ref"


def is_high(instance: Instance) -> bool:
    """Return whether the differential information from π_ref to where DPO ends has a high entropy."""
    problem = pairs_of(instance)
    learned = did(dpo_optimum(problem, instance["beta"]), problem.reference)
    return float(entropy(learned)) > float(entropy(problem.reference))


WORLD = {
    "num_classes": Count(2, 5),
    "reference": Simplex(),
    "towards": Simplex(),
    "rejected": Simplex(),
    "pull": Choice((0.0, 0.0, 0.0, 1.0)),
    "beta": BETA,
}
"""Chosen responses from π_ref (pull 0) or from another distribution (pull 1)."""

LLD = Claim(
    name="did.lld",
    statement="If preferences encode differential information of high entropy, H(q) > H(π_ref), then the expected "
    "log-likelihood of chosen responses falls during DPO.",
    source="DID paper, Section 4.2",
    verdict="holds-conditionally",
    note=(
        "If y_w ~ π_ref, as in the paper's construction, it falls whatever the entropy: E log π(y_w) is then −H(π_ref) "
        "− KL(π_ref ‖ π), largest at π = π_ref, where DPO starts; the control starts elsewhere. So the high entropy "
        "explains nothing there: information of low entropy makes it fall as well. If y_w comes from another "
        "distribution w, entropy does not decide: the sign at the start is that of ⟨w − π_ref, w − π_l⟩ (x.lld-sign). "
        "With π_ref = π_l = (4, 1)/5, w = (9, 1)/10 and β = 1, DPO ends at w: the likelihood rises by 0.037 nats, "
        "although H(q) = 0.617 nats is above H(π_ref) = 0.500."
    ),
    fields=WORLD,
    check=rise,
    tolerance=1e-9,
    reason="a mean of log-probabilities, exact to rounding",
    cost=4,
    assumptions={HIGH: is_high, FROM_REFERENCE: lambda i: "start" not in i},
    condition=("chosen responses are drawn from π_ref", lambda i: i["pull"] == 0.0),
    corrected="x.lld-sign",
    control=Control(
        breaks=FROM_REFERENCE,
        instance={
            "num_classes": 2,
            "reference": [0.8, 0.2],
            "towards": [0.8, 0.2],
            "rejected": [0.8, 0.2],
            "pull": 0.0,
            "beta": 1.0,
            "start": [0.5, 0.5],
        },
    ),
)


def first_step(instance: Instance) -> float:
    """Return how far gradient and first step of training are from the closed form, per nat and unit of step."""
    problem, beta, rate = pairs_of(instance), instance["beta"], instance["rate"]
    start = Policy.from_probs(instance["start"]) if "start" in instance else problem.reference
    chosen, rejected = problem.chosen.probs, problem.rejected.probs
    force = 0.5 * beta * (chosen - rejected)
    logits = torch.tensor(start.log_probs, requires_grad=True)
    loss = expected_loss(problem, objective("dpo", beta=beta), torch.log_softmax(logits, -1))
    (slope,) = torch.autograd.grad(loss, logits)
    speed = float((chosen - start.probs) @ -slope.numpy())
    closed = 0.5 * beta * float((chosen - problem.reference.probs) @ (chosen - rejected))
    path = likelihoods(problem, beta, rate, 1, start)
    moved = Policy.from_logits(problem.reference.log_probs + rate * force)
    step = float(chosen @ (moved.log_probs - problem.reference.log_probs))
    return max(abs(speed - closed) / max(1.0, beta), abs(path[-1] - path[0] - step) / max(1.0, rate * beta))


LLD_SIGN = Claim(
    name="x.lld-sign",
    statement=(
        "Under the gradient flow of the population DPO loss from π_ref, with y_w ~ w, d/dt E log π(y_w) = (β/2) ⟨w − "
        "π_ref, w − π_l⟩ at the start, whatever the entropies; if w = π_ref this is 0, and E log π(y_w) never exceeds "
        "its first value."
    ),
    source="ours, the corrected form of DID paper, Section 4.2",
    verdict="holds",
    note=(
        "Proof: at π_ref all margins are 0 and the slope of −log σ is −1/2, so that the logits move with the velocity "
        "v = (β/2)(w − π_l); and E_w log π changes by ⟨w − π, v⟩. One step of length η changes it by η⟨w, v⟩ − "
        "log Σ π_ref e^{ηv}, which the check holds against the engine's own step of gradient descent. For w = π_ref it "
        "is −KL(π_ref ‖ π) ≤ 0. So displacement depends on where chosen responses lie relative to π_ref and to "
        "rejected ones. The control starts elsewhere."
    ),
    fields={**WORLD, "rate": Reals(low=0.0)},
    check=first_step,
    tolerance=1e-9,
    reason="identities of sums of K terms, exact to rounding",
    cost=4,
    assumptions={FROM_REFERENCE: lambda i: "start" not in i},
    control=Control(
        breaks=FROM_REFERENCE,
        instance={
            "num_classes": 2,
            "reference": [0.5, 0.5],
            "towards": [0.8, 0.2],
            "rejected": [0.2, 0.8],
            "pull": 1.0,
            "beta": 1.0,
            "rate": 1.0,
            "start": [0.8, 0.2],
        },
    ),
)

CLAIMS = (LLD, LLD_SIGN)
