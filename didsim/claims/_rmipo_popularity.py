"""Sections 3.1 and 3.2 of the RMiPO paper: pointwise mutual information, popularity, and the margin made of it."""

from typing import Any

import numpy as np
import torch

from didsim.claims._alpha_pairs import largest
from didsim.claims._claim import Claim, Control
from didsim.claims._common import IDENTITY, ROUNDING
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.info import marginal, pmi
from didsim.objectives import Pairs, Responses, decay, log_ratio_margin, objective, pmi_margin
from didsim.policy import Policy

JOINT = {
    "num_prompts": Count(1, 3),
    "num_classes": Count(2, 4),
    "policy": Simplex(("num_prompts", "num_classes")),
    "prompts": Simplex(("num_prompts",)),
    "unprompted": Simplex(),
    "popularity": Choice(("marginal", "unprompted")),
}
"""Policies for several prompts, and a distribution of a model that is not shown any prompt."""


def popularity_of(instance: Instance) -> np.ndarray:
    """Return π(y): of the marginal Σ_x p(x) π(y|x), or of the unprompted model."""
    if instance["popularity"] == "marginal":
        return marginal(instance["policy"], instance["prompts"]).probs
    return np.array(instance["unprompted"])


def log_relevance(instance: Instance) -> np.ndarray:
    """Return log π(x|y) by Bayes' rule under p(x), [X, K]."""
    joint = np.array(instance["prompts"])[:, None] * np.array(instance["policy"])
    if "reversed" in instance:
        return np.log(joint / joint.sum(axis=1, keepdims=True))
    return np.log(joint / joint.sum(axis=0))


def spread(values: np.ndarray) -> float:
    """Return the largest difference between two responses to one prompt, of numbers [X, K]."""
    return float(np.ptp(values, axis=1).max())


def bayes_error(instance: Instance) -> float:
    """Return how far Δlog π(y|x) is from Δlog π(x|y) + Δlog π(y), in nats."""
    return spread(np.log(instance["policy"]) - log_relevance(instance) - np.log(popularity_of(instance)))


def pmi_error(instance: Instance) -> float:
    """Return how far RMiPO's Δpmi is from Δlog π(x|y), in nats."""
    log_pi, log_marginal = (torch.tensor(np.log(x)) for x in (instance["policy"], popularity_of(instance)))
    both = Responses(log_pi, log_marginal=log_marginal.expand(log_pi.shape))
    pairs = Pairs(both.map(lambda x: x[:, :, None]), both.map(lambda x: x[:, None, :]))
    relevance = torch.tensor(log_relevance(instance))
    return float((pmi_margin(pairs, per_token=False) - (relevance[:, :, None] - relevance[:, None, :])).abs().max())


IS_POSTERIOR = "π(x|y) is the posterior of the prompt under p(x) π(y|x)"
POSTERIOR = {IS_POSTERIOR: lambda i: "reversed" not in i}
IS_MARGINAL = ("π(y) is the marginal Σ_x p(x) π(y|x)", lambda i: i["popularity"] == "marginal")

TWO_PROMPTS = {
    "num_prompts": 2,
    "num_classes": 2,
    "policy": [[0.5, 0.5], [0.75, 0.25]],
    "prompts": [0.5, 0.5],
    "unprompted": [0.5, 0.5],
    "popularity": "marginal",
}

EQUATION_6 = Claim(
    name="rmipo.eq-6",
    statement="Δlog π(y|x) = [log π(x|y_w) − log π(x|y_l)] + [log π(y_w) − log π(y_l)]: relevance plus popularity.",
    source="RMiPO paper, Eqs. 6, 12 and 13",
    verdict="holds-conditionally",
    note=(
        "This is Bayes' rule, and needs one joint distribution p(x) π(y|x), whose marginal is π(y) and whose posterior "
        "is π(x|y). The paper computes π(y) otherwise, by a pass of the language model without the prompt (Appendix "
        "C). Such a π(y) need not be the average over prompts, and then no prior p(x) makes the three consistent. "
        "Counterexample: two prompts of chance ½ with π = (½, ½) and (¾, ¼), unprompted model (½, ½): for y_w = 1, y_l "
        "= 2 and the first prompt Δlog π = 0, the posteriors are 2/5 and 2/3, so that relevance is log 3/5, and "
        "popularity is 0 in place of log 5/3."
    ),
    fields=JOINT,
    check=bayes_error,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions=POSTERIOR,
    condition=IS_MARGINAL,
    control=Control(breaks=IS_POSTERIOR, instance={**TWO_PROMPTS, "reversed": True}),
)

EQUATION_7 = Claim(
    name="rmipo.eq-7",
    statement="Δpmi = log π(x|y_w) − log π(x|y_l): it depends on relevance alone.",
    source="RMiPO paper, Eqs. 7 and 14",
    verdict="holds-conditionally",
    note=(
        "With the marginal, PMI is symmetric: log π(y|x)/π(y) = log π(x|y)/p(x), and p(x) cancels in the difference. "
        "With an unprompted model m(y) in place of the marginal Δpmi is relevance plus Δlog π(y)/m(y), how popular the "
        "responses are over the prompts compared with what the model says without one. Counterexample: the one of "
        "rmipo.eq-6; Δpmi is 0 there and relevance log 3/5. With a single prompt the marginal is the policy itself, "
        "and Δpmi is 0 for every pair."
    ),
    fields=JOINT,
    check=pmi_error,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions=POSTERIOR,
    condition=IS_MARGINAL,
    control=Control(breaks=IS_POSTERIOR, instance={**TWO_PROMPTS, "reversed": True}),
)


def margin_shape(instance: Instance) -> float:
    """Return by how much γ violates its bounds, its order, or its value γ_max for Δpmi ≤ 0, relatively."""
    evidence = torch.sort(torch.tensor(instance["evidence"], dtype=torch.float64)).values
    zeros, ones = torch.zeros_like(evidence), torch.ones_like(evidence)
    low, high = instance["gamma_min"], instance["gamma_max"]
    loss = objective("rmipo", beta=1.0, gamma_min=low, gamma_max=high)(
        Pairs.from_log_probs(
            log_pi_chosen=zeros,
            log_pi_rejected=zeros,
            length_chosen=ones,
            length_rejected=ones,
            log_marginal_chosen=-evidence.clamp(min=0.0),
            log_marginal_rejected=evidence.clamp(max=0.0),
        )
    )
    gamma = loss + torch.log(-torch.expm1(-loss))  # the loss is log(1 + e^γ) where the rewards are equal
    violations = [gamma - high, low - gamma, torch.diff(gamma), (gamma - high).abs()[evidence <= 0.0]]
    return max(largest(part) for part in violations if part.numel()) / (1.0 + abs(low) + abs(high))


def draw_margin(axes: Any) -> None:
    """Draw γ against Δpmi for the schedules, with the paper's bounds."""
    ax, evidence = axes[0, 0], torch.linspace(-2.0, 4.0, 200, dtype=torch.float64)
    for number, schedule in enumerate(("exponential", "linear", "cosine")):
        ax.plot(evidence, 0.3 + 1.3 * decay(evidence, schedule), color=f"C{number}", label=schedule)
    ax.set_xlabel("Δpmi [nats]")
    ax.set_ylabel("margin γ [nats]")
    ax.legend()


ORDERED = "γ_min ≤ γ_max"

MARGIN = Claim(
    name="rmipo.margin",
    statement=(
        "γ = γ_min + (γ_max − γ_min) e^{−max(0, Δpmi)} lies between γ_min and γ_max, does not rise with Δpmi, and is "
        "γ_max for Δpmi ≤ 0."
    ),
    source="RMiPO paper, Section 3.2, the margin before Eq. 8; Figure 8, left",
    verdict="holds",
    note=(
        "Proof: e^{−max(0, z)} is 1 for z ≤ 0 and falls to 0 without reaching it. γ is read off the loss of pairs with "
        "equal rewards, log(1 + e^γ). Three things follow that the paper does not say. γ_min is only approached; the "
        "decay is not smooth but has a kink at Δpmi = 0, where its slope jumps from 0 to −(γ_max − γ_min); and with "
        "one prompt Δpmi is 0 for every pair, so that γ is γ_max throughout (x.rmipo-one-prompt)."
    ),
    fields={
        "num_pairs": Count(1, 4),
        "evidence": Reals(sizes=("num_pairs",)),
        "gamma_min": Reals(),
        "gamma_max": Reals(),
    },
    check=margin_shape,
    tolerance=ROUNDING,
    reason="γ is recovered from a loss, which costs some digits of the larger bound",
    assumptions={ORDERED: lambda i: i["gamma_min"] <= i["gamma_max"]},
    control=Control(
        breaks=ORDERED, instance={"num_pairs": 2, "evidence": [0.0, 1.0], "gamma_min": 1.6, "gamma_max": 0.3}
    ),
    picture=draw_margin,
)


def boosted(policy: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """Return distributions whose probabilities are multiplied by a factor of each response, normalised again."""
    product = policy * factor
    return product / product.sum(axis=-1, keepdims=True)


def change_by_boost(instance: Instance) -> float:
    """Return how far Δpmi moves if every prompt's policy is multiplied by one factor per response, in nats."""
    policy, factor = np.array(instance["policy"]), np.array(instance["boost"])
    factors = factor * np.array(instance.get("also", np.ones_like(policy)))
    return spread(pmi(boosted(policy, factors), instance["prompts"]) - pmi(policy, instance["prompts"]))


EVERYWHERE = "the factor of a response is the same for all prompts"

PRIOR_INVARIANCE = Claim(
    name="rmipo.prior-invariance",
    statement="Δpmi does not change if a response becomes more popular: more likely by one factor under every prompt.",
    source="RMiPO paper, Sections 3.1 and 3.2, Appendix B ('insensitive to response popularity')",
    verdict="fails",
    note=(
        "Multiplying π(y|x) by b(y) needs a normaliser Z_x of each prompt, and the marginal becomes b(y) Σ_x p(x) "
        "π(y|x)/Z_x: the factor cancels, but the prompts are weighted anew, by 1/Z_x. So Δpmi moves unless Z_x is the "
        "same for all prompts. Counterexample: two prompts of chance ½, π = (½, ½) and (¾, ¼), the first response made "
        "3 times as likely: π becomes (¾, ¼) and (9/10, 1/10), and Δpmi of the first prompt goes from log 3/5 to log "
        "7/11. It is invariant if popularity changes and the posteriors of the prompts do not "
        "(x.prior-invariance-by-marginal)."
    ),
    fields={
        "num_prompts": Count(2, 3),
        "num_classes": Count(2, 4),
        "policy": Simplex(("num_prompts", "num_classes")),
        "prompts": Simplex(("num_prompts",)),
        "boost": Reals(low=0.0, sizes=("num_classes",)),
    },
    check=change_by_boost,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={EVERYWHERE: lambda i: "also" not in i},
    control=Control(
        breaks=EVERYWHERE,
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "policy": [[0.5, 0.5], [0.5, 0.5]],
            "prompts": [0.5, 0.5],
            "boost": [1.0, 1.0],
            "also": [[3.0, 1.0], [1.0, 1.0]],
        },
    ),
    corrected="x.prior-invariance-by-marginal",
)


def change_by_marginal(instance: Instance) -> float:
    """Return how far Δpmi moves between two popularities with the same posteriors of prompts, in nats."""
    found = []
    for name in ("popularity", "other_popularity"):
        posterior = np.array(instance.get("other_posterior", instance["posterior"]) if found else instance["posterior"])
        joint = (posterior * np.array(instance[name])[:, None]).T
        prompts = joint.sum(axis=1)
        found.append(pmi(joint / prompts[:, None], prompts / prompts.sum()))
    return spread(found[0] - found[1])


SAME_POSTERIORS = "the posteriors π(x|y) are the same"

BY_MARGINAL = Claim(
    name="x.prior-invariance-by-marginal",
    statement="Δpmi with the marginal does not change if the popularity π(y) changes and the posteriors π(x|y) stay.",
    source="ours; corrects the RMiPO paper's remarks on Eq. 7",
    verdict="holds",
    note=(
        "Proof: Δpmi = log π(x|y_w) − log π(x|y_l), in which π(y) does not occur. The chances of the prompts, p(x) = "
        "Σ_y π(x|y) π(y), have to change with it: popularity can only be varied on its own if the prompts that are "
        "asked follow. At fixed p(x) it cannot, which is why a response that is boosted for all prompts moves Δpmi "
        "(rmipo.prior-invariance)."
    ),
    fields={
        "num_prompts": Count(2, 3),
        "num_classes": Count(2, 4),
        "posterior": Simplex(("num_classes", "num_prompts")),
        "popularity": Simplex(),
        "other_popularity": Simplex(),
    },
    check=change_by_marginal,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={SAME_POSTERIORS: lambda i: "other_posterior" not in i},
    control=Control(
        breaks=SAME_POSTERIORS,
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "posterior": [[0.5, 0.5], [0.25, 0.75]],
            "popularity": [0.5, 0.5],
            "other_popularity": [0.75, 0.25],
            "other_posterior": [[0.5, 0.5], [0.5, 0.5]],
        },
    ),
)

STEP = 1e-4
"""How far π is from π_ref where the two are said to be close, in nats of logits."""


def popularity_share(instance: Instance) -> float:
    """Return the popularity part of Δ(log π − log π_ref) as a share of the whole, by their largest sizes."""
    reference, prompts = Policy.from_probs(instance["reference"]), instance["prompts"]
    moved = reference.log_probs + instance.get("step", STEP) * np.array(instance["direction"])
    policy = Policy.from_logits(moved)
    part = marginal(policy, prompts).log_probs - marginal(reference, prompts).log_probs
    whole = spread(policy.log_probs - reference.log_probs)
    return float(np.ptp(part)) / max(whole, np.finfo(float).tiny)


CLOSE = f"π is within {STEP:g} nats of π_ref"

REFERENCE_CANCELS = Claim(
    name="rmipo.reference-cancels",
    statement=(
        "If π is close to π_ref the popularity part of Δ(log π − log π_ref), Δ(log π(y) − log π_ref(y)), is negligible."
    ),
    source="RMiPO paper, Section 3.1 after Eq. 6 ('naturally cancels prior popularity bias')",
    verdict="fails",
    note=(
        "The part does tend to 0 as π → π_ref, but so does the whole signal, and at the same rate, so that its share "
        "does not. Counterexample: two prompts of chance ½, π_ref = (½, ½) for both, and a policy that makes the first "
        "response a little more likely for both: relevance π(x|y) does not change at all, and the signal is popularity "
        "alone, at whatever distance. A reference cancels the popularity that both models share "
        "(x.shared-popularity-cancels), not the popularity that training adds."
    ),
    fields={
        "num_prompts": Count(2, 3),
        "num_classes": Count(2, 4),
        "reference": Simplex(("num_prompts", "num_classes")),
        "prompts": Simplex(("num_prompts",)),
        "direction": Reals(sizes=("num_prompts", "num_classes")),
    },
    check=popularity_share,
    tolerance=0.1,
    reason="a tenth of the signal could still be called negligible",
    assumptions={CLOSE: lambda i: "step" not in i},
    control=Control(
        breaks=CLOSE,
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "reference": [[0.5, 0.5], [0.5, 0.5]],
            "prompts": [0.5, 0.5],
            "direction": [[1.0, 0.0], [0.0, 0.0]],
            "step": 1.0,
        },
    ),
    corrected="x.shared-popularity-cancels",
)


def change_if_shared(instance: Instance) -> float:
    """Return how far the differences of log-ratios, and Δpmi, move if a factor multiplies both sides, in nats."""
    factor = np.array(instance["boost"])
    found = []
    for one, other in ((1.0, 1.0), (factor, instance.get("other_boost", factor))):
        log_pi = torch.tensor(np.log(boosted(np.array(instance["policy"]), np.array(one))))
        base = torch.tensor(np.log(boosted(np.array(instance["base"]), np.array(other))))
        both = Responses(log_pi, base, log_marginal=base)
        pairs = Pairs(both.map(lambda x: x[:, None]), both.map(lambda x: x[None, :]))
        found.append(torch.stack([log_ratio_margin(pairs), pmi_margin(pairs, per_token=False)]))
    return float((found[0] - found[1]).abs().max())


SHARED = "the factor of each response is the same for both distributions"

SHARED_POPULARITY = Claim(
    name="x.shared-popularity-cancels",
    statement=(
        "If the same factor b(y) multiplies π(y|x) and π_ref(y|x), or π(y|x) and the probabilities of an unprompted "
        "model, Δ(log π − log π_ref), or Δpmi by that model, does not change."
    ),
    source="ours; corrects the RMiPO paper's remark after Eq. 6",
    verdict="holds",
    note=(
        "Proof: b(y) cancels in the ratio, and each normaliser is one constant per prompt, which cancels in the "
        "difference of two responses. So a reference, and an unprompted pass of the model as well, remove exactly what "
        "popularity they share with the policy. The marginal Σ_x p(x) π(y|x) does not, since its normalisers stand "
        "inside the sum (rmipo.prior-invariance)."
    ),
    fields={
        "num_classes": Count(2, 5),
        "policy": Simplex(),
        "base": Simplex(),
        "boost": Reals(low=0.0, sizes=("num_classes",)),
    },
    check=change_if_shared,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={SHARED: lambda i: "other_boost" not in i},
    control=Control(
        breaks=SHARED,
        instance={
            "num_classes": 2,
            "policy": [0.5, 0.5],
            "base": [0.5, 0.5],
            "boost": [3.0, 1.0],
            "other_boost": [1.0, 1.0],
        },
    ),
)

CLAIMS = (
    EQUATION_6,
    EQUATION_7,
    MARGIN,
    PRIOR_INVARIANCE,
    BY_MARGINAL,
    REFERENCE_CANCELS,
    SHARED_POPULARITY,
)
