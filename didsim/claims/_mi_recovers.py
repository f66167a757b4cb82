"""Section 4 of the MI-DPO paper: which losses its loss becomes by the choice of the prior, in value and in gradient."""

from dataclasses import replace
from itertools import product

import numpy as np

from didsim.claims._claim import Claim, Control
from didsim.claims._common import ROUNDING
from didsim.claims._fields import Choice, Instance
from didsim.claims._mi_pairs import (
    COST,
    RELATIVE,
    SEQUENCES,
    both_ways,
    compared,
    distance,
    flows,
    one_decision,
    problem_of,
)
from didsim.claims._mi_roles import SIMPO, SINGLE_PRIOR, TIS_DPO
from didsim.claims._mi_sparse import FROZEN_PRIOR, SPARSE_PO, SPARSE_PO_CORRECTED
from didsim.differential import tilt
from didsim.engine import evaluated, snapshot_pairs
from didsim.objectives import objective
from didsim.policy import Policy


def recovers_dpo(instance: Instance) -> float:
    """Return how far MI-DPO is from DPO; with one prompt also by a prior that is given as a function of y alone."""
    problem, original = problem_of(instance), objective("dpo", beta=instance["alpha"])
    residual = both_ways(instance, {"prior": instance.get("prior", "reference")}, original, problem)
    if instance["num_prompts"] == 1:
        given = replace(problem, prior=Policy.from_probs(instance["reference"][0]))
        residual = max(residual, both_ways(instance, {"prior": "given"}, original, given))
    return residual


DPO = Claim(
    name="mi.recovers-dpo",
    statement="With the prior ζ = π_ref(y|x) MI-DPO is DPO, in value and in gradient.",
    source="MI-DPO paper, Section 4 and Appendix B; DPO is its Eq. 1",
    verdict="holds",
    note=(
        "Both losses are the same function of α(log π − log π_ref), so every pair has the same loss. ζ does not "
        "contain π, so it does not matter whether gradient may flow through it. It does not depend on who won either: "
        "one ζ serves for a response that is chosen in one pair and rejected in another. But it does depend on the "
        "prompt, which the prior ζ(y) of Section 3 must not: see mi.prompt-dependence. Appendix B asks for α = 1; any "
        "α serves, and is what is called β in DPO."
    ),
    fields=SEQUENCES,
    check=recovers_dpo,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the prior is π_ref": lambda i: "prior" not in i},
    cost=2 * COST,
    control=Control(
        breaks="the prior is π_ref",
        instance={
            "num_prompts": 1,
            "num_classes": 2,
            "policy": [[0.5, 0.5]],
            "reference": [[0.75, 0.25]],
            "chosen": [[0.5, 0.5]],
            "rejected": [[0.5, 0.5]],
            "alpha": 1.0,
            "prior": "uniform",
        },
    ),
)


def recovers_dice(instance: Instance) -> float:
    """Return how far rounds of MI-DPO are from rounds of DPO on the last policy, and from their closed form."""
    problem, alpha = problem_of(instance), instance["alpha"]
    first = tilt(problem.reference, problem.chosen, problem.rejected, 1.0 / alpha)
    second = tilt(problem.reference, problem.chosen, problem.rejected, 2.0 / alpha)
    previous = problem.reference if instance.get("prior") == "reference" else first
    round_2 = replace(problem, reference=first)
    original = objective("dpo", beta=alpha)
    losses = [objective("mi_dpo", alpha=alpha, prior="previous", stop_gradient=stop) for stop in (False, True)]
    residual = 0.0
    for policy, loss in product((Policy.from_probs(instance["policy"]), second), losses):
        recovered = replace(problem, reference=previous)
        (pairs, logits), (mi_pairs, mi_logits) = (snapshot_pairs(p, policy, loss) for p in (round_2, recovered))
        got, want = evaluated(loss(mi_pairs), mi_pairs, mi_logits), evaluated(original(pairs), pairs, logits)
        residual = max(residual, distance(got, want, alpha))
        if policy is second:
            residual = max(residual, float(np.abs(got[1]).max()) / (1.0 + alpha))
    return residual


DICE = Claim(
    name="mi.recovers-dice",
    statement="With the policy of the last round as its prior, ζ = π^(t−1)(y|x), MI-DPO is a round of DICE.",
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="holds",
    note=(
        "DICE is DPO whose reference is the last policy, so this is mi.recovers-dpo with another reference; ζ holds "
        "still during a round, and the gradient is the same whether it may flow through ζ or not. The check takes the "
        "second round: it compares loss and gradient at any policy, and finds a gradient of 0 at π_ref (w/l)^{2/α}, "
        "where two rounds on the same pairs lead, w and l being the distributions of chosen and rejected responses. "
        "The prior has to be the policy at the end of the last round; π_ref in its place, as in the control, is the "
        "first round again. The pairs that DICE relabels between rounds are no part of the loss."
    ),
    fields=SEQUENCES,
    check=recovers_dice,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the prior is the policy of the last round": lambda i: "prior" not in i},
    cost=4 * COST,
    control=Control(
        breaks="the prior is the policy of the last round",
        instance={
            "num_prompts": 1,
            "num_classes": 2,
            "policy": [[0.5, 0.5]],
            "reference": [[0.5, 0.5]],
            "chosen": [[0.75, 0.25]],
            "rejected": [[0.25, 0.75]],
            "alpha": 1.0,
            "prior": "reference",
        },
    ),
)


def recovers_centropy(instance: Instance) -> float:
    """Return how far MI-DPO with ζ = π_ref π^{1−η} is from cEntropy with η."""
    prior = {"prior": "centropy", "eta": instance.get("prior_eta", instance["eta"])}
    original = objective("h_dpo", beta=instance["alpha"], eta=instance["eta"])
    return compared(instance, prior, original, problem_of(instance))


CENTROPY = Claim(
    name="mi.recovers-centropy",
    statement="With the prior ζ ∝ π_ref π^{1−η} MI-DPO is entropy-controllable DPO, in value and in gradient.",
    source="MI-DPO paper, Section 4 and Appendix B (where η is called λ)",
    verdict="holds-conditionally",
    note=(
        "log π/ζ = η log π − log π_ref, so every pair has the same loss. The gradient is the same only if it flows "
        "through ζ, which contains π; Section 3.2 derives the loss for a ζ that is held fixed. With ζ frozen the "
        "gradient is that of cEntropy divided by η, since the derivative by log π is α in place of αη: a policy that "
        "is stationary for one is so for the other. Counterexample: π = π_ref = (1/2, 1/2), η = 1/2, response 0 "
        "chosen 3 times in 4 and rejected 1 time in 4: the frozen gradient is twice as large. One ζ serves chosen and "
        "rejected responses alike."
    ),
    fields={**SEQUENCES, "eta": Choice((0.5, 0.8, 0.95, 1.0, 2.0))},
    check=recovers_centropy,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the power of π in ζ is 1 − η": lambda i: "prior_eta" not in i},
    condition=("gradient flows through ζ, or η = 1", lambda i: flows(i) or i["eta"] == 1.0),
    cost=COST,
    control=Control(
        breaks="the power of π in ζ is 1 − η",
        instance={
            "num_prompts": 1,
            "num_classes": 2,
            "policy": [[0.75, 0.25]],
            "reference": [[0.5, 0.5]],
            "chosen": [[0.5, 0.5]],
            "rejected": [[0.5, 0.5]],
            "alpha": 1.0,
            "eta": 0.5,
            "prior_eta": 2.0,
        },
    ),
)


def recovers_r_dpo(instance: Instance) -> float:
    """Return how far MI-DPO with the printed exponent β|y|, β = 1/α, is from R-DPO."""
    alpha, exponent = instance["alpha"], instance.get("exponent", 1.0 / instance["alpha"])
    original = objective("r_dpo", beta=alpha, alpha=instance.get("coefficient", 1.0))
    problem = problem_of(instance)
    residual = both_ways(instance, {"prior": "r_dpo", "length_penalty": alpha * exponent}, original, problem)
    if instance["num_prompts"] == 1:
        log_zeta = problem.reference.log_probs[0] - exponent * problem.space.lengths
        given = replace(problem, prior=Policy.from_logits(log_zeta))
        residual = max(residual, both_ways(instance, {"prior": "given"}, original, given))
    return residual


R_DPO = Claim(
    name="mi.recovers-r-dpo",
    statement="With the prior ζ ∝ π_ref e^{−β|y|}, β = 1/α, MI-DPO is R-DPO, in value and in gradient.",
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="holds-conditionally",
    note=(
        "α log π/ζ = α log π/π_ref + αβ|y|, so the coefficient of the length is α̃ = αβ. But α = 1/β throughout "
        "Section 3.2, hence α̃ = 1: of all R-DPOs this prior gives the one whose coefficient is 1. Counterexample: two "
        "sequences of lengths 1 and 2 beside a third, all equally likely, and the coefficient 2: the margin of the "
        "shorter over the longer is −1 in MI-DPO and −2 in R-DPO. If lengths are equal the coefficient does not "
        "matter. ζ does not contain π, so freezing it changes nothing, and one ζ serves both roles."
    ),
    fields=SEQUENCES,
    check=recovers_r_dpo,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the exponent of e^{−β|y|} is β = 1/α": lambda i: "exponent" not in i},
    condition=(
        "R-DPO's coefficient of the length is 1, or all lengths are equal",
        lambda i: i.get("coefficient", 1.0) == 1.0 or one_decision(i),
    ),
    cost=2 * COST,
    corrected="x.recovers-r-dpo",
    control=Control(
        breaks="the exponent of e^{−β|y|} is β = 1/α",
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "policy": [[0.5, 0.25, 0.25]],
            "reference": [[0.5, 0.25, 0.25]],
            "chosen": [[0.5, 0.25, 0.25]],
            "rejected": [[0.5, 0.25, 0.25]],
            "alpha": 1.0,
            "exponent": 2.0,
        },
    ),
)


def recovers_r_dpo_corrected(instance: Instance) -> float:
    """Return how far MI-DPO with the exponent (a/α)|y| is from R-DPO with the coefficient a."""
    exponent = instance.get("exponent", instance["coefficient"] / instance["alpha"])
    return recovers_r_dpo({**instance, "exponent": exponent})


R_DPO_CORRECTED = Claim(
    name="x.recovers-r-dpo",
    statement="With the prior ζ ∝ π_ref e^{−(a/α)|y|} MI-DPO is R-DPO with the coefficient a, in value and gradient.",
    source="ours; corrects mi.recovers-r-dpo",
    verdict="holds",
    note=(
        "α log π/ζ = α log π/π_ref + a|y|, which is R-DPO's reward. The exponent is a/α, not β = 1/α: then every "
        "coefficient a is recovered. The normaliser of ζ is the same for both responses of a pair and cancels; the "
        "check with one prompt divides by it, and finds the same loss."
    ),
    fields={**SEQUENCES, "coefficient": Choice((0.25, 0.5, 1.0, 2.0))},
    check=recovers_r_dpo_corrected,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"the exponent of ζ is a/α": lambda i: "exponent" not in i},
    cost=2 * COST,
    control=Control(
        breaks="the exponent of ζ is a/α",
        instance={**R_DPO.control.instance, "coefficient": 2.0, "exponent": 1.0},
    ),
)


def recovers_tdpo(instance: Instance) -> float:
    """Return how far MI-DPO with ζ = π_ref exp(−Σ KL) is from TDPO."""
    original = objective(instance.get("original", "tdpo1"), beta=instance["alpha"])
    if instance.get("original") == "tdpo2":
        original = objective("tdpo2", beta=instance["alpha"], alpha=1.0)
    return compared(instance, {"prior": "tdpo"}, original, problem_of(instance))


TDPO = Claim(
    name="mi.recovers-tdpo",
    statement=(
        "With the prior ζ ∝ π_ref exp(−Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t))) MI-DPO is TDPO, in value and in gradient."
    ),
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="holds-conditionally",
    note=(
        "log π/ζ is the log-ratio plus the sequential divergence K, and the difference of two of these is D − (K_l − "
        "K_w), D being DPO's. ζ contains π through K, so the gradient is the same only if it flows through ζ: with ζ "
        "frozen that of K is missing, and what is left is DPO's direction at TDPO's margin. Counterexample: the "
        "sequences of at most two tokens out of one, π = (1/10, 1/10, 8/10), π_ref = (1/4, 1/2, 1/4), chosen w = (1/2, "
        "1/4, 1/4), rejected l = (1/4, 1/4, 1/2), α = 1: by the logits of the second token the frozen gradient is "
        "±0.105 and TDPO's ±0.257. Frozen and free agree where no response has more than one decision, since both "
        "responses then have the same K. What is recovered is TDPO1: TDPO2 stops the gradient of K_w and not that of "
        "K_l, which one ζ for both roles cannot do; the control shows it at the weight 1, where the values agree."
    ),
    fields=SEQUENCES,
    check=recovers_tdpo,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"TDPO is its first form, of which nothing is detached": lambda i: "original" not in i},
    condition=("gradient flows through ζ, or responses are single decisions", lambda i: flows(i) or one_decision(i)),
    cost=COST,
    control=Control(
        breaks="TDPO is its first form, of which nothing is detached",
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "policy": [[0.5, 0.25, 0.25]],
            "reference": [[0.25, 0.25, 0.5]],
            "chosen": [[0.5, 0.25, 0.25]],
            "rejected": [[0.5, 0.25, 0.25]],
            "alpha": 1.0,
            "original": "tdpo2",
        },
    ),
)

CLAIMS = (
    DPO,
    DICE,
    CENTROPY,
    SIMPO,
    SINGLE_PRIOR,
    R_DPO,
    R_DPO_CORRECTED,
    TDPO,
    TIS_DPO,
    SPARSE_PO,
    SPARSE_PO_CORRECTED,
    FROZEN_PRIOR,
)
