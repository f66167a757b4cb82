"""Section 4.1 and Appendix E of the DID paper: the entropy of differential information and the update it belongs to."""

from typing import Any

import numpy as np

from didsim.claims._claim import Claim, Control
from didsim.claims._common import IDENTITY, ROUNDING, WORLD
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.differential import did
from didsim.info import entropy, kl
from didsim.policy import Policy

BOUNDED = "KL(π_ref ‖ π) is at most 1 nat"

RARE = "where π_ref is below 0.01, π and q are below it too"

REINFORCES = "π reinforces π_ref: the strength is positive"

SMOOTHS = "π smooths π_ref: the strength is positive"

IS_DID = "q is the differential information from π_ref to π"

ENTROPIES = "entropies are exact to rounding"

NEARLY_NONE = 0.01
"""The probability below which a response counts as one that π_ref does not give."""


def reinforced(instance: Instance) -> Policy:
    """Return π ∝ π_ref^{1 + s} ("temperature" τ = 1/(1 + s)), or the top m responses of π_ref boosted by 1 + s."""
    log_ref, strength = np.log(instance["reference"]), instance["strength"]
    if instance["family"] == "temperature":
        return Policy.from_logits((1.0 + strength) * log_ref)
    top = np.argsort(-log_ref, kind="stable")[: boosted_count(instance)]
    boost = np.zeros_like(log_ref)
    boost[top] = np.log1p(strength)
    return Policy.from_logits(log_ref + boost)


def boosted_count(instance: Instance) -> int:
    """Return m, which is below K."""
    return min(instance["top"], instance["num_classes"] - 1)


def smoothed(instance: Instance) -> Policy:
    """Return π ∝ π_ref^{1/(1 + s)} ("temperature" τ = 1 + s), or the mixture (π_ref + s/K)/(1 + s) with uniform."""
    log_ref, strength = np.log(instance["reference"]), instance["strength"]
    if instance["family"] == "temperature":
        return Policy.from_logits(log_ref / (1.0 + strength))
    return Policy.from_logits(np.logaddexp(log_ref, np.log(strength / len(log_ref))))


def is_bounded(reference: Any, policy: Policy) -> bool:
    """Return whether KL(π_ref ‖ π) is at most 1 nat."""
    return float(kl(reference, policy)) <= 1.0


def spares_the_rare(reference: Any, policy: Policy) -> bool:
    """Return whether π and q stay near 0 where π_ref is."""
    rare = np.array(reference) < NEARLY_NONE
    return not rare.any() or max(policy.probs[rare].max(), did(policy, reference).probs[rare].max()) < NEARLY_NONE


def excess(instance: Instance, policy: Policy) -> float:
    """Return H(q) − H(π_ref) in nats; q may be given."""
    q = instance.get("q", did(policy, instance["reference"]))
    return float(entropy(q) - entropy(instance["reference"]))


def span(instance: Instance, policy: Policy) -> float:
    """Return the range of log π/π_ref, in nats."""
    return float(np.ptp(policy.log_probs - np.log(instance["reference"])))


def room(instance: Instance) -> float:
    """Return log K − H(π_ref), by how much the entropy of π_ref is below that of the uniform policy, in nats."""
    return float(np.log(instance["num_classes"]) - entropy(instance["reference"]))


def two_level_entropy(instance: Instance) -> float:
    """Return the entropy of q when m of K responses are boosted: h(t) + t log m + (1 − t) log(K − m)."""
    top, size = boosted_count(instance), instance["num_classes"]
    weight = top * (1.0 + instance["strength"])
    share = weight / (weight + size - top)
    return float(entropy([share, 1.0 - share]) + share * np.log(top) + (1.0 - share) * np.log(size - top))


def beyond_boundary(instance: Instance) -> bool:
    """Return whether a reinforcement is strong enough to lower the entropy."""
    if instance["family"] == "temperature":
        return instance["strength"] >= 1.0
    return two_level_entropy(instance) <= float(entropy(instance["reference"]))


def draw_entropy_of_temperature(axes: Any) -> None:
    """Draw the entropy of q against τ for two references, and their own entropies."""
    axis, tau = axes[0, 0], np.geomspace(0.2, 20.0, 200)
    for colour, reference in (("C0", (0.8, 0.2)), ("C1", (0.05, 0.475, 0.475))):
        policies = Policy.from_logits(np.log(reference) / tau[:, None])
        label = ", ".join(f"{p:g}" for p in reference)
        axis.plot(tau, entropy(did(policies, reference)), color=colour, label=f"H(q), π_ref = ({label})")
        axis.axhline(float(entropy(reference)), color=colour, linestyle=":", label="its H(π_ref)")
    axis.axvline(0.5, color="C2", linewidth=1.0, label="τ = 1/2, where q = π_ref")
    axis.set(xscale="log", xlabel="temperature τ", ylabel="entropy [nats]")
    axis.legend(fontsize="small")


UPDATE = {"num_classes": Count(2, 6), "reference": Simplex(), "strength": Reals(low=0.0)}

CLAIM_REINFORCE = Claim(
    name="did.claim-4.1-reinforce",
    statement="If π reinforces π_ref, then the entropy of the differential information is below that of π_ref.",
    source="DID paper, Claim 4.1 and Appendix E",
    verdict="holds-conditionally",
    note=(
        "For π ∝ π_ref^{1/τ} it is q ∝ π_ref^s with s = 1/τ − 1, and since dH(q)/ds = −s Var_q(log π_ref), the entropy "
        "falls from log K at s = 0 and passes H(π_ref) exactly at s = 1, where q = π_ref: of all reinforcements τ < 1 "
        "only those with τ < 1/2 have H(q) < H(π_ref). For example τ = 0.8 with π_ref = (4, 1)/5 gives H(q) = 0.678 "
        "nats against 0.500. If the top m responses are boosted by a factor c, it holds exactly if h(t) + t log m + (1 "
        "− t) log(K − m) < H(π_ref), with t = mc/(mc + K − m) and h(t) = −t log t − (1 − t) log(1 − t); never if "
        "H(π_ref) ≤ log m. In both families it is the size of the update that counts: a small one has a nearly uniform "
        "q. Beyond the boundary the conclusion always follows: the control therefore takes the q of half an update, "
        "(2, 1)/3, for that of τ = 1/2, which is (4, 1)/5."
    ),
    fields={**UPDATE, "family": Choice(("temperature", "top")), "top": Count(1, 2)},
    check=lambda i: max(0.0, excess(i, reinforced(i))),
    tolerance=ROUNDING,
    reason=ENTROPIES,
    assumptions={
        REINFORCES: lambda i: i["strength"] > 0.0,
        BOUNDED: lambda i: is_bounded(i["reference"], reinforced(i)),
        RARE: lambda i: spares_the_rare(i["reference"], reinforced(i)),
        IS_DID: lambda i: "q" not in i,
    },
    condition=(
        "τ ≤ 1/2, or of boosted responses h(t) + t log m + (1 − t) log(K − m) ≤ H(π_ref)",
        beyond_boundary,
    ),
    corrected="x.temperature-entropy",
    control=Control(
        breaks=IS_DID,
        instance={
            "num_classes": 2,
            "reference": [0.8, 0.2],
            "strength": 1.0,
            "family": "temperature",
            "top": 1,
            "q": [2.0 / 3.0, 1.0 / 3.0],
        },
    ),
    picture=draw_entropy_of_temperature,
)


def wrong_side(instance: Instance) -> float:
    """Return by how much H(q) is on the wrong side of H(π_ref), in nats."""
    more = excess(instance, reinforced({**instance, "family": "temperature"}))
    return max(0.0, more if instance["strength"] > 1.0 else -more)


TEMPERATURE_ENTROPY = Claim(
    name="x.temperature-entropy",
    statement=(
        "If π ∝ π_ref^{1/τ} with τ < 1 and π_ref is not uniform, then H(q) is below H(π_ref) for τ < 1/2, equal to it "
        "at τ = 1/2, where q = π_ref, and above it for 1/2 < τ < 1."
    ),
    source="ours, the corrected form of DID paper, Claim 4.1",
    verdict="holds",
    note=(
        "Proof: q ∝ π_ref^s with s = 1/τ − 1 > 0. With ψ(s) = log Σ π_ref^s we have H(q) = ψ − sψ′ and "
        "dH(q)/ds = −sψ″ = −s Var_q(log π_ref) ≤ 0, zero only if π_ref is uniform; and H(q) = H(π_ref) at s = 1. "
        "For τ > 1 s lies in (−1, 0), and H(q) falls from log K as τ grows, towards the entropy of 1/π_ref normalised: "
        "if that is below H(π_ref), H(q) > H(π_ref) ends at one τ, and else at none. "
        "The control, π_ref = (1, 2, 2)/5 with τ = 1000, is beyond it: H(q) = 1.040 nats against 1.055."
    ),
    fields=UPDATE,
    check=wrong_side,
    tolerance=ROUNDING,
    reason=ENTROPIES,
    assumptions={"τ < 1": lambda i: i["strength"] > 0.0},
    control=Control(breaks="τ < 1", instance={"num_classes": 3, "reference": [0.2, 0.4, 0.4], "strength": -0.999}),
)


def near_enough(instance: Instance) -> bool:
    """Return whether there are two responses, or the update is small for the entropy that π_ref lacks."""
    return instance["num_classes"] == 2 or span(instance, smoothed(instance)) ** 2 <= 8.0 * room(instance)


SMALL_OR_BINARY = ("K = 2, or the range R of log π/π_ref has R² ≤ 8 (log K − H(π_ref))", near_enough)

SMOOTHING = {**UPDATE, "family": Choice(("temperature", "mixture"))}

SMOOTHING_ASSUMPTIONS = {
    SMOOTHS: lambda i: i["strength"] > 0.0,
    BOUNDED: lambda i: is_bounded(i["reference"], smoothed(i)),
    RARE: lambda i: spares_the_rare(i["reference"], smoothed(i)),
}

CLAIM_SMOOTH = Claim(
    name="did.claim-4.1-smooth",
    statement="If π smooths π_ref, then the entropy of the differential information is above that of π_ref.",
    source="DID paper, Claim 4.1 and Appendix E",
    verdict="holds-conditionally",
    note=(
        "Smoothing raises what π_ref gives seldom, and q ∝ π/π_ref may concentrate on just that. With π_ref = "
        "(1, 2, 2)/5 and π uniform, q = (2, 1, 1)/4 has 1.040 nats against 1.055; with π_ref = (0.05, 0.475, 0.475) "
        "the paper's τ = 4 gives q = (0.73, 0.13, 0.13), 0.770 nats against 0.857. In the temperature family H(q) "
        "falls as τ grows, from log K to the entropy of 1/π_ref normalised: the claim holds up to one τ, or for all. "
        "Two conditions that suffice: with K = 2 the odds of q lie between those of 1/π_ref and even ones, so that "
        "H(q) ≥ H(π_ref), for mixtures with uniform as well as for temperatures; and for every K it holds if the "
        "range R of log π/π_ref satisfies R² ≤ 8 (log K − H(π_ref)), see x.small-update-entropy."
    ),
    fields=SMOOTHING,
    check=lambda i: max(0.0, -excess(i, smoothed(i))),
    tolerance=ROUNDING,
    reason=ENTROPIES,
    assumptions=SMOOTHING_ASSUMPTIONS,
    condition=SMALL_OR_BINARY,
    corrected="x.small-update-entropy",
    control=Control(
        breaks=SMOOTHS,
        instance={"num_classes": 2, "reference": [0.6, 0.4], "strength": -0.75, "family": "temperature"},
    ),
)


def perturbed(instance: Instance) -> Policy:
    """Return π ∝ π_ref exp(s d) with any direction d."""
    move = instance["strength"] * np.array(instance["direction"])
    return Policy.from_logits(np.log(instance["reference"]) + move)


SMALL = "the range R of log π/π_ref has R² ≤ 8 (log K − H(π_ref))"

SMALL_UPDATE_ENTROPY = Claim(
    name="x.small-update-entropy",
    statement=(
        "If the range R of log π/π_ref satisfies R² ≤ 8 (log K − H(π_ref)), then H(q) ≥ H(π_ref), in whatever "
        "direction π moved: small updates, reinforcing ones too, have differential information of high entropy."
    ),
    source="ours, the corrected form of DID paper, Claim 4.1",
    verdict="holds",
    note=(
        "Proof: let g = log π/π_ref, so that q ∝ e^g, and q_s ∝ e^{sg}. Then dH(q_s)/ds = −s Var(g) under q_s, and a "
        "number in a range R has a variance of at most R²/4; hence log K − H(q) ≤ ∫₀¹ s R²/4 ds = R²/8. "
        "So H(q) tells how large an update is before it tells what kind of update it is. The control reinforces "
        "π_ref = (4, 1)/5 with R = 2, beyond the bound of 1.24: H(q) = 0.365 nats against 0.500."
    ),
    fields={**UPDATE, "direction": Reals(sizes=("num_classes",))},
    check=lambda i: max(0.0, -excess(i, perturbed(i))),
    tolerance=ROUNDING,
    reason=ENTROPIES,
    assumptions={SMALL: lambda i: span(i, perturbed(i)) ** 2 <= 8.0 * room(i)},
    control=Control(
        breaks=SMALL,
        instance={"num_classes": 2, "reference": [0.8, 0.2], "strength": 1.0, "direction": [2.0, 0.0]},
    ),
)


def four_divergences(instance: Instance) -> tuple[float, float]:
    """Return KL(q‖π) − KL(q‖π_ref) and KL(π_ref‖q) − KL(π_ref‖π), in nats."""
    reference, target = instance["reference"], instance["target"]
    q = instance.get("q", did(target, reference))
    first = kl(q, target) - kl(q, reference)
    return float(first), float(kl(reference, q) - kl(reference, target))


def identity_error(instance: Instance) -> float:
    """Return how far the sum of the four divergences is from H(q) − H(π_ref), in nats."""
    q = instance.get("q", did(instance["target"], instance["reference"]))
    return abs(sum(four_divergences(instance)) - float(entropy(q) - entropy(instance["reference"])))


IDENTITY_E = Claim(
    name="did.app-E-identity",
    statement="H(q) − H(π_ref) = KL(q ‖ π) − KL(q ‖ π_ref) + KL(π_ref ‖ q) − KL(π_ref ‖ π).",
    source="DID paper, Appendix E",
    verdict="holds",
    note=(
        "Proof: q = π/(π_ref Z), so that log π_ref/π = −log q − log Z. The first difference is "
        "E_q log π_ref/π = H(q) − log Z, the second one is E_{π_ref} log π/q = E_{π_ref} log π_ref + log Z = "
        "log Z − H(π_ref). It is an identity of q; for another distribution in its place (control) it fails."
    ),
    fields=WORLD,
    check=identity_error,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={IS_DID: lambda i: "q" not in i},
    control=Control(
        breaks=IS_DID,
        instance={"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25], "q": [0.25, 0.75]},
    ),
)


def not_dominated(instance: Instance) -> float:
    """Return by how much the first difference of divergences exceeds the second in size, in nats."""
    first, second = four_divergences({**instance, "target": smoothed(instance)})
    return max(0.0, abs(first) - abs(second))


INEQUALITY_E = Claim(
    name="did.app-E-inequality",
    statement=(
        "If π smooths π_ref and does not diverge much from it, then |KL(q ‖ π) − KL(q ‖ π_ref)| < "
        "|KL(π_ref ‖ q) − KL(π_ref ‖ π)|."
    ),
    source="DID paper, Appendix E",
    verdict="holds-conditionally",
    note=(
        "By the identity of Appendix E the two sides are |log Z − H(q)| and |log Z − H(π_ref)| with Z = Σ π/π_ref. "
        "Smoothing makes π/π_ref fall as π_ref rises, so that Chebyshev's sum inequality gives Z ≥ K; log Z is then "
        "above both entropies, and the inequality says H(q) > H(π_ref) and nothing else: as an argument for Claim 4.1 "
        "it is circular. It fails where the claim fails, as for π_ref = (0.05, 0.475, 0.475) and τ = 4, where 1.034 "
        "stands against 0.947 although KL(π_ref ‖ π) is only 0.115 nats: that divergence hardly sees the rare "
        "response on which q concentrates. It holds under the conditions of did.claim-4.1-smooth."
    ),
    fields=SMOOTHING,
    check=not_dominated,
    tolerance=ROUNDING,
    reason=ENTROPIES,
    assumptions=SMOOTHING_ASSUMPTIONS,
    condition=SMALL_OR_BINARY,
    corrected="x.small-update-entropy",
    control=Control(
        breaks=SMOOTHS,
        instance={"num_classes": 2, "reference": [0.8, 0.2], "strength": -0.25, "family": "temperature"},
    ),
)

CLAIMS = (
    CLAIM_REINFORCE,
    CLAIM_SMOOTH,
    TEMPERATURE_ENTROPY,
    SMALL_UPDATE_ENTROPY,
    IDENTITY_E,
    INEQUALITY_E,
)
