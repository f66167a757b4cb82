"""Section 5 of the MI-DPO paper: optimising the prior too, with prompts, under constraints, and by alternation."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import IDENTITY, ROUNDING
from didsim.claims._fields import Choice, Count, Field, Instance, Reals, Simplex
from didsim.claims._mi import CHANNEL
from didsim.differential import did
from didsim.info import kl, marginal, mutual_information, pmi
from didsim.objectives import Pairs, Responses, objective
from didsim.optima import dpo_optimum
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.stationary import solve

TABLES: tuple[str, ...] = ("num_prompts", "num_classes")


def all_pairs(problem: Problem, log_pi: torch.Tensor, log_zeta: torch.Tensor) -> Pairs:
    """Return all pairs of a problem with their weights, given log π [X, K], and log ζ [K] or [X, K]."""
    prior = log_zeta.expand_as(log_pi)
    lengths = torch.tensor(problem.space.lengths, dtype=torch.float64).expand_as(log_pi)
    chosen, rejected = (
        Responses(log_pi.unsqueeze(axis), length=lengths.unsqueeze(axis), log_zeta=prior.unsqueeze(axis))
        for axis in (2, 1)
    )
    sides = np.atleast_2d(problem.chosen.probs), np.atleast_2d(problem.rejected.probs)
    joint = problem.prompt_weights[:, None, None] * sides[0][:, :, None] * sides[1][:, None, :]
    return Pairs(chosen, rejected, torch.tensor(joint))


def expected_loss(problem: Problem, policy: Policy, prior: Policy, alpha: float) -> float:
    """Return the expected loss of MI-DPO, in nats."""
    tables = [torch.tensor(np.atleast_2d(part.log_probs)) for part in (policy, prior)]
    pairs = all_pairs(problem, *tables)
    return float(pairs.mean(objective("mi_dpo", alpha=alpha, prior="given")(pairs)))


WEIGHTS = ([0.5, 0.25, 0.25], [0.25, 0.5, 0.25], [0.2, 0.3, 0.5])
"""How often each of three responses is chosen, or rejected."""

RESTRICTED: Mapping[str, Field] = {
    "num_classes": Count(3, 3),
    "num_features": Count(1, 1),
    "reference": Simplex(),
    "prior": Simplex(),
    "chosen": Choice(WEIGHTS),
    "rejected": Choice(WEIGHTS),
    "features": Reals(sizes=("num_classes", "num_features")),
    "alpha": Choice((0.5, 1.0, 2.0)),
}
"""Pairs of three responses, a fixed prior, and a log-linear policy of one parameter; without features, free ones."""


def restricted_problem(instance: Instance, prior: Any) -> Problem:
    """Return the problem of an instance with a fixed prior."""
    reference, chosen, rejected = (Policy.from_probs(instance[name]) for name in ("reference", "chosen", "rejected"))
    return Problem(
        reference=reference,
        target=reference,
        chosen=chosen,
        rejected=rejected,
        prior=Policy.from_probs(prior),
        features=np.array(instance["features"]) if "features" in instance else None,  # type: ignore[arg-type]
    )


def gain(instance: Instance) -> float:
    """Return by how much the loss falls when the prior is optimised too, in nats.

    The minimum for the fixed prior is the solver's. The joint one is taken at the same policy, with the prior
    ζ ∝ π (l/w)^{1/α} under which it meets every preference; or at the only prior that is allowed, if there is one.
    """
    alpha = instance["alpha"]
    problem = restricted_problem(instance, instance["prior"])
    policy = _minimum(problem, alpha)
    fixed = expected_loss(problem, policy, Policy.from_probs(instance["prior"]), alpha)
    if "only" in instance:
        other = restricted_problem(instance, instance["only"])
        return fixed - expected_loss(other, _minimum(other, alpha), Policy.from_probs(instance["only"]), alpha)
    wins = did(problem.chosen, problem.rejected).log_probs
    return fixed - expected_loss(problem, policy, Policy.from_logits(policy.log_probs - wins / alpha), alpha)


def _minimum(problem: Problem, alpha: float) -> Policy:
    policy = solve(problem, objective("mi_dpo", alpha=alpha, prior="given"), starts=1).policy
    if policy is None:
        raise RuntimeError("the solver found no policy, for a loss that is convex")
    return policy


JOINT_MIN = Claim(
    name="mi.joint-min",
    statement="The least loss over policies and priors is at most the least over policies for any one prior.",
    source="MI-DPO paper, Section 5.2, Eq. 6 and below",
    verdict="holds",
    note=(
        "A minimum over more is never larger: the pair of the fixed prior and its best policy is one of those that the "
        "joint minimum ranges over. It says nothing of a prior outside the set Ξ, as the control shows, and it is no "
        "strict inequality: see mi.joint-min-better for when it is, and x.joint-min for what the joint minimum leaves "
        "open. The check compares the solver's minimum for a fixed prior with a loss that a learned one attains."
    ),
    fields=RESTRICTED,
    check=lambda i: max(0.0, -gain(i)),
    tolerance=ROUNDING,
    reason="losses of some hundred nats at most, whose minima are known to the square of the solver's step",
    assumptions={"the fixed prior is one of Ξ": lambda i: "only" not in i},
    cost=100,
    control=Control(
        breaks="the fixed prior is one of Ξ",
        instance={
            "num_classes": 3,
            "num_features": 1,
            "reference": [0.25, 0.5, 0.25],
            "prior": [0.25, 0.5, 0.25],
            "chosen": [0.5, 0.25, 0.25],
            "rejected": [0.25, 0.5, 0.25],
            "features": [[1.0], [-1.0], [0.0]],
            "alpha": 1.0,
            "only": [0.1, 0.1, 0.8],
        },
    ),
)


def out_of_reach(instance: Instance) -> bool:
    """Return whether log(w/l)/α + log ζ − log π_ref is no combination of features and a constant, by 0.001 nats."""
    if "features" not in instance:
        return False
    log = {name: np.log(instance[name]) for name in ("chosen", "rejected", "prior", "reference")}
    asked = (log["chosen"] - log["rejected"]) / instance["alpha"] + log["prior"] - log["reference"]
    basis = np.column_stack([np.ones(len(asked)), np.array(instance["features"])])
    return bool(np.abs(basis @ np.linalg.lstsq(basis, asked, rcond=None)[0] - asked).max() > 1e-3)


JOINT_MIN_BETTER = Claim(
    name="mi.joint-min-better",
    statement="Optimising the prior too yields a lower loss than any fixed prior: the joint minimum is strictly less.",
    source="MI-DPO paper, Section 5.2, last paragraph, and the contributions in Section 1",
    verdict="holds-conditionally",
    note=(
        "Not for free policies: π ∝ ζ (w/l)^{1/α}, with w and l the distributions of chosen and rejected responses, "
        "meets every preference whatever ζ is, so every prior has the same least loss, and optimising ζ gains nothing. "
        "Counterexample: two responses, ζ = π_ref = (1/2, 1/2), w = (3/4, 1/4), l = (1/4, 3/4). With one prompt the "
        "gain is positive exactly if the class of policies does not hold the optimum of the fixed prior; for π ∝ π_ref "
        "e^{φ·θ}, features φ, this means that log(w/l)/α + log ζ − log π_ref is no combination of the features and a "
        "constant. Proof: the loss is strictly convex in the differences of scores and least where they are those of "
        "log(w/l); a learned ζ always attains this, a fixed one if and only if the class does. What is gained is loss, "
        "by a prior that takes over what the policy cannot say, and which leaves the policy itself undetermined "
        "(x.joint-min); the control allows one other prior only."
    ),
    fields=RESTRICTED,
    check=lambda i: float(gain(i) <= GAIN),
    tolerance=0.5,
    reason="a truth value: 1 if the loss is not lower by more than 1e-12 nats",
    assumptions={"ζ may be any prior": lambda i: "only" not in i},
    condition=("the policies are restricted, and the fixed prior's optimum is none of them", out_of_reach),
    cost=100,
    corrected="x.joint-min",
    control=Control(
        breaks="ζ may be any prior",
        instance={**JOINT_MIN.control.instance, "features": [[1.0], [0.0], [2.0]], "only": [0.8, 0.1, 0.1]},
    ),
)

GAIN = 1e-12
"""The rounding of a loss."""


def joint_minimiser(instance: Instance) -> float:
    """Return how far (π_x ∝ ζ (w_x/l_x)^{1/α}, ζ) is from a joint minimum: by gradients, and by the loss itself."""
    alpha, prior = instance["alpha"], Policy.from_probs(instance["prior"])
    parts = [Policy.from_probs(instance[name]) for name in ("reference", "reference", "rejected", "chosen")]
    problem = Problem(*parts, prompts=np.array(instance["prompts"]))
    policy = dpo_optimum(problem, alpha, prior)
    if "first_prior" in instance:
        other = dpo_optimum(problem, alpha, Policy.from_probs(instance["first_prior"]))
        policy = Policy(np.concatenate([other.log_probs[:1], policy.log_probs[1:]]))
    logits, zeta = torch.tensor(policy.log_probs).requires_grad_(), torch.tensor(prior.log_probs).requires_grad_()
    pairs = all_pairs(problem, torch.log_softmax(logits, -1), torch.log_softmax(zeta, -1))
    loss = pairs.mean(objective("mi_dpo", alpha=alpha, prior="given")(pairs)).sum()
    gradients = torch.autograd.grad(loss, (logits, zeta))
    least = _loss_at_reference(problem, alpha)
    slope = max(float(gradient.abs().max()) for gradient in gradients) / (1.0 + alpha)
    return max(slope, abs(float(loss.detach()) - least))


def _loss_at_reference(problem: Problem, alpha: float) -> float:
    """Return the least loss of DPO."""
    return expected_loss(problem, dpo_optimum(problem, alpha), problem.reference, alpha)


JOINT_MIN_FREE = Claim(
    name="x.joint-min",
    statement=(
        "For free policies the joint minimum is that of every fixed prior, and any ζ with π_x ∝ ζ (w_x/l_x)^{1/α} at "
        "every prompt attains it: the minimiser is not identified."
    ),
    source="ours; beside mi.joint-min and mi.joint-min-better",
    verdict="holds",
    note=(
        "At such a pair the scores α log π/ζ are log(w/l) up to a constant per prompt, w and l being the distributions "
        "of chosen and rejected responses, so every preference is met exactly and no loss is lower. These pairs are "
        "all minimisers, since the scores at a minimum are unique up to constants: one for each ζ, so K − 1 "
        "dimensions, as didsim solve mi_dpo -S prior=learned finds too. With one prompt any policy at all is part of a "
        "minimiser, with ζ ∝ π (l/w)^{1/α}: the joint minimum says nothing about the policy, which may be at any "
        "distance from π*; a fixed ζ = π_ref names one. Which of them training reaches depends on its start. The "
        "control takes the policy of one prompt from another prior."
    ),
    fields={
        "num_prompts": Count(1, 3),
        "num_classes": Count(2, 5),
        "prompts": Simplex(("num_prompts",)),
        "reference": Simplex(TABLES),
        "chosen": Simplex(TABLES),
        "rejected": Simplex(TABLES),
        "prior": Simplex(),
        "alpha": Choice((0.5, 1.0, 2.0)),
    },
    check=joint_minimiser,
    tolerance=ROUNDING,
    reason=IDENTITY,
    cost=2,
    assumptions={"the policy answers to the same ζ at every prompt": lambda i: "first_prior" not in i},
    control=Control(
        breaks="the policy answers to the same ζ at every prompt",
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "prompts": [0.5, 0.5],
            "reference": [[0.5, 0.5], [0.5, 0.5]],
            "chosen": [[0.75, 0.25], [0.5, 0.5]],
            "rejected": [[0.5, 0.5], [0.5, 0.5]],
            "prior": [0.5, 0.5],
            "alpha": 1.0,
            "first_prior": [0.75, 0.25],
        },
    ),
)

REFERRED: Mapping[str, Field] = {**CHANNEL, "reference": Simplex(TABLES), "shared": Choice((False, True))}
"""A policy and a reference over prompts; if shared, the reference of the first prompt is that of all."""


def reference_of(instance: Instance) -> FloatArray:
    """Return π_ref(y|x), [X, K]."""
    reference = np.array(instance["reference"])
    return np.broadcast_to(reference[:1], reference.shape) if instance["shared"] else reference


def penalty_of(instance: Instance) -> float:
    """Return DPO's penalty Σ p(x) KL(π_x ‖ π_ref,x), in nats."""
    weights = np.array(instance.get("weights", instance["prompts"]))
    return float(weights @ kl(np.array(instance["policy"]), reference_of(instance)))


def information_above(instance: Instance) -> float:
    """Return by how much the mutual information exceeds DPO's penalty, in nats."""
    return max(0.0, float(mutual_information(instance["policy"], instance["prompts"])) - penalty_of(instance))


EQUAL_REFERENCES: Instance = {
    "num_prompts": 2,
    "num_classes": 2,
    "prompts": [0.5, 0.5],
    "policy": [[0.75, 0.25], [0.25, 0.75]],
    "prior": [0.5, 0.5],
    "reference": [[0.75, 0.25], [0.25, 0.75]],
    "shared": True,
    "weights": [1.0, 0.0],
}

PROMPT_DEPENDENCE = Claim(
    name="mi.prompt-dependence",
    statement=(
        "Under the prior ζ = π_ref(y|x) of the special cases, the penalty is at least the mutual information of prompt "
        "and response, as under any prior of Lemma 1."
    ),
    source="MI-DPO paper, Section 3.1 (Lemma 1, ζ(y)) with Section 4 (ζ = π_ref(y|x))",
    verdict="holds-conditionally",
    note=(
        "Lemma 1 is about priors ζ(y) that do not know the prompt; π_ref(y|x) does. Counterexample: two equally likely "
        "prompts with π = π_ref = (3/4, 1/4) and (1/4, 3/4): the penalty is 0 and the mutual information 0.13 nats. "
        "So DPO does not penalise mutual information: it penalises what π says about the prompt beyond π_ref, see "
        "x.prompt-dependence. Nor does any ζ(y) give DPO: log π_ref(y|x) − log ζ(y) would have to be a constant in y "
        "at each prompt, and since both sum to 1, π_ref(·|x) = ζ at all of them. With such a reference, or with a "
        "single prompt, where the mutual information is 0, the bound is Lemma 1."
    ),
    fields=REFERRED,
    check=information_above,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"the penalty is averaged over the prompts' own weights": lambda i: "weights" not in i},
    condition=("π_ref(y|x) is the same at every prompt", lambda i: i["shared"] or i["num_prompts"] == 1),
    corrected="x.prompt-dependence",
    control=Control(breaks="the penalty is averaged over the prompts' own weights", instance=EQUAL_REFERENCES),
)


def decomposition(instance: Instance) -> float:
    """Return how far DPO's penalty is from the sum of its three parts, relative to the largest, in nats."""
    prompts, policy, reference = np.array(instance["prompts"]), np.array(instance["policy"]), reference_of(instance)
    information = float(mutual_information(policy, prompts))
    drift = float(kl(marginal(policy, prompts), marginal(reference, prompts)))
    kept = float(prompts @ (policy * pmi(reference, prompts)).sum(axis=1))
    return abs(penalty_of(instance) - (information + drift - kept)) / (1.0 + information + drift + abs(kept))


PROMPT_DEPENDENCE_CORRECTED = Claim(
    name="x.prompt-dependence",
    statement=(
        "DPO's penalty Σ_x p(x) KL(π_x ‖ π_ref,x) is I(X; Y) under π, plus KL of the marginals of π and π_ref, minus "
        "the mean under π of the pointwise mutual information of π_ref."
    ),
    source="ours; corrects mi.prompt-dependence",
    verdict="holds",
    note=(
        "Proof: log π/π_ref = log π/m + log m/m_ref − log π_ref/m_ref, with m and m_ref the marginals over prompts; "
        "average over prompts and responses. This is what is left of the mutual-information reading when ζ depends on "
        "the prompt: information about the prompt is penalised, but credited as far as π_ref has it too. At π = π_ref "
        "the first and the last part cancel. If π_ref is the same at every prompt the last part is 0, and Lemma 1 is "
        "back."
    ),
    fields=REFERRED,
    check=decomposition,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"the penalty is averaged over the prompts' own weights": lambda i: "weights" not in i},
    control=Control(breaks="the penalty is averaged over the prompts' own weights", instance=EQUAL_REFERENCES),
)

CLAIMS = (
    JOINT_MIN,
    JOINT_MIN_BETTER,
    JOINT_MIN_FREE,
    PROMPT_DEPENDENCE,
    PROMPT_DEPENDENCE_CORRECTED,
)
