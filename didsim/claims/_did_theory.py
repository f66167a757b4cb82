"""Sections 2 and 3 of the DID paper: what preferences say of a distribution, and what they encode."""

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, CERTIFICATE, IDENTITY, ROUNDING, SOLVED, WORLD
from didsim.claims._fields import Choice, Count, Instance, Reals, Seed
from didsim.differential import did, ideal_rejected, power_law
from didsim.info import kl
from didsim.objectives import Pairs, objective
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem, preference_probabilities
from didsim.stationary import solve


def strengths_of(instance: Instance) -> FloatArray:
    """Return whole numbers proportional to p*, [K]: those given, or ones that the seed draws."""
    rng = np.random.default_rng(instance["seed"])
    return np.array(instance.get("strengths", rng.integers(1, 10, instance["num_classes"])), dtype=float)


def wins_of(instance: Instance) -> FloatArray:
    """Return how often i beats j in the data, [K, K]: frequencies are exactly p*, with some pairs never compared."""
    size, strengths = instance["num_classes"], strengths_of(instance)
    rng = np.random.default_rng([instance["seed"], 1])
    tree = [(i, int(rng.integers(i))) for i in range(1, size)]
    more = [(i, j) for i in range(size) for j in range(i) if rng.random() < 0.3]
    wins = np.zeros((size, size))
    for i, j in instance.get("compared", tree + more):
        wins[i, j], wins[j, i] = strengths[i], strengths[j]
    return wins


def dataset_of(wins: FloatArray) -> PreferenceDataset:
    """Return a dataset in which i beats j as often as a table [K, K] of whole numbers says."""
    chosen, rejected = np.nonzero(wins)
    counts = wins[chosen, rejected].astype(int)
    return PreferenceDataset.from_classes(np.repeat(chosen, counts), np.repeat(rejected, counts), len(wins))


def label_loss(instance: Instance) -> float:
    """Return how far the mean loss of a reward is from E KL(p* ‖ p) plus the entropy of the labels, in nats."""
    wins, log_pi = wins_of(instance), Policy.from_logits(instance["reward"]).log_probs
    chosen, rejected = np.nonzero(wins)
    weights = wins[chosen, rejected] / wins.sum()
    logs = torch.tensor(log_pi)
    losses = objective("log_pi")(Pairs.from_log_probs(log_pi_chosen=logs[chosen], log_pi_rejected=logs[rejected]))
    true = wins[chosen, rejected] / (wins + wins.T)[chosen, rejected]
    labels, model = np.stack([true, 1.0 - true], -1), log_pi[chosen] - log_pi[rejected]
    modelled = Policy.from_logits(np.stack([model, np.zeros_like(model)], -1))
    expected = weights @ (kl(labels, modelled) - np.log(true))
    return float(abs(weights @ losses.numpy() - expected))


def matching(instance: Instance) -> float:
    """Return by how much the moments of the fitted distribution miss those of p*, or else the error of `label_loss`.

    Over the rewards r = φ·w the KL divergence from p* to the distribution ∝ e^r is least where E φ is the same under
    both; if every reward is allowed, φ is the identity, and the moments are the probabilities themselves.
    """
    size, strengths = instance["num_classes"], strengths_of(instance)
    given, features = strengths / strengths.sum(), instance.get("features")
    problem = Problem.from_policies(np.full(size, 1.0 / size), given, features=features)
    policy = solve(problem, objective("log_pi"), dataset=dataset_of(wins_of(instance)), starts=1).policy
    if policy is None:
        return float("inf")
    moments = np.eye(size) if features is None else np.array(features)
    return max(float(np.abs((given - policy.probs) @ moments).max()), label_loss(instance))


def covers(instance: Instance) -> bool:
    """Return whether every response stands in some pair."""
    wins = wins_of(instance)
    return bool(((wins + wins.T) > 0).any(axis=1).all())


def is_connected(instance: Instance) -> bool:
    """Return whether comparisons lead from each response to every other."""
    return connected_components(wins_of(instance), directed=False)[0] == 1


THEOREM_2_1 = Claim(
    name="did.thm-2.1",
    statement=(
        "If y_w and y_l cover the responses of a sufficiently large dataset, then maximising the preference likelihood "
        "over rewards r, minimising E KL(p*(y_w ≻ y_l) ‖ p(y_w ≻ y_l | r)), and minimising KL(p* ‖ P(Y | r)) have the "
        "same solutions."
    ),
    source="DID paper, Theorem 2.1, Appendix F.1",
    verdict="holds-conditionally",
    note=(
        "Likelihood and E KL differ by the entropy of the labels, which no reward changes: that half is an identity. "
        "The other half needs more than that every response occurs: with p* = (1, 1, 2, 2)/6 compare only 0 with 1 and "
        "2 with 3, and all are covered, frequencies are exact (one half each), and the likelihood is as large for the "
        "uniform distribution as for p*. If the comparisons connect all responses, the loss is strictly convex in "
        "reward differences, and p* is the only solution. 'Sufficiently large' means here that frequencies equal p*: "
        "of one single pair no finite maximum exists. The control allows only rewards that are multiples of one "
        "feature, none of which gives p*: the likeliest of them is not the one whose distribution is nearest to p* in "
        "KL."
    ),
    fields={"num_classes": Count(3, 5), "seed": Seed(), "reward": Reals(sizes=("num_classes",))},
    check=matching,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    cost=20,
    assumptions={
        "y_w and y_l cover all responses": covers,
        "every reward is allowed": lambda i: "features" not in i,
    },
    condition=("the comparisons connect all responses", is_connected),
    control=Control(
        breaks="every reward is allowed",
        instance={
            "num_classes": 3,
            "seed": 0,
            "reward": [0.0, 0.0, 0.0],
            "strengths": [1, 8, 1],
            "compared": [[0, 1], [1, 2], [0, 2]],
            "features": [[0.0], [1.0], [3.0]],
        },
    ),
)


def event(instance: Instance) -> float:
    """Return by how much P(X | y) exceeds 1, or how far Bayes' rule is from π in nats, whichever is more."""
    reference, target = np.array(instance["reference"]), np.array(instance["target"])
    q = did(target, reference).probs
    chance = instance["share"] * q / q.max()  # P(X | y), the same whichever model wrote y
    posterior = chance * reference / (chance @ reference)
    return float(max(0.0, chance.max() - 1.0, np.abs(np.log(posterior / target)).max()))


LEMMA_D_1 = Claim(
    name="did.lem-D.1",
    statement="For any π and π_ref of full support there is an event X with P(X | y, π_ref) = P(X | y) and "
    "π(y) = P(y | π_ref, X).",
    source="DID paper, Lemma D.1",
    verdict="holds",
    note=(
        "The event is built: P(X | y) = c π(y)/π_ref(y), with any c = P(X | π_ref) up to 1/max π/π_ref. This is a "
        "number between 0 and 1 that depends on y alone, and Bayes' rule gives π_ref(y) P(X | y)/c = π(y). The control "
        "takes c half as large again as it may be: then P(X | y) = 1.5 for one response. A finite number of responses "
        "does real work here: over infinitely many, π/π_ref may be unbounded, for example π(n) = 2^{-n} against "
        "π_ref(n) = 2·3^{-n}, n = 1, 2, …; P(X | y) ≤ 1 then forces c = 0, and no such event exists."
    ),
    fields={**WORLD, "share": Choice((0.001, 0.5, 1.0))},
    check=event,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"P(X | π_ref) is at most 1/max π/π_ref": lambda i: i["share"] <= 1.0},
    control=Control(
        breaks="P(X | π_ref) is at most 1/max π/π_ref",
        instance={"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25], "share": 1.5},
    ),
)


def likelihood_ratio(instance: Instance) -> float:
    """Return how far log q, by Bayes' rule on an event X, is from the logarithm of the normalised ratio."""
    reference, target = np.array(instance["reference"]), np.array(instance["target"])
    prior = np.array(instance.get("prior", np.ones(len(target))))
    chance = target / reference  # P(X | y), up to a factor that cancels (Lemma D.1)
    posterior = chance * prior / (chance * prior).sum()
    return float(np.abs(np.log(posterior) - did(target, reference).log_probs).max())


THEOREM_3_2 = Claim(
    name="did.thm-3.2",
    statement="The differential information distribution from π_ref to π is the normalised ratio π/π_ref.",
    source="DID paper, Theorem 3.2",
    verdict="holds",
    note=(
        "The distribution is defined as P(Y = y | X) for an event X that turns π_ref into π by Bayes' rule. Such an "
        "event has P(X | y) proportional to π(y)/π_ref(y), and Bayes' rule under a uniform prior P(Y) then gives the "
        "normalised ratio. The uniform prior does real work: it is not the policy π_ref but a second prior over the "
        "same responses, and with any other one the ratio is multiplied by it, as the control shows."
    ),
    fields=WORLD,
    check=likelihood_ratio,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"the prior P(Y) is uniform": lambda i: "prior" not in i},
    control=Control(
        breaks="the prior P(Y) is uniform",
        instance={"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25], "prior": [0.75, 0.25]},
    ),
)


def bradley_terry_in_did(instance: Instance) -> float:
    """Return how far p* is from the Bradley–Terry model of β log q, as the largest difference of probabilities."""
    reference, target, beta = instance["reference"], instance["target"], instance["beta"]
    rejected = instance.get("rejected", ideal_rejected(reference, target, beta))
    score = beta * did(target, reference).log_probs
    return float(np.abs(preference_probabilities(reference, rejected) - expit(score[:, None] - score)).max())


def encodes(instance: Instance) -> bool:
    """Return whether q_{π_ref/π_l} ∝ q_{π*/π_ref}^β."""
    reference, target = instance["reference"], instance["target"]
    if "rejected" not in instance:
        return True  # the ideal one
    fit = power_law(did(reference, instance["rejected"]), did(target, reference))
    return abs(fit.exponent - instance["beta"]) < ROUNDING and fit.residual < ROUNDING


THEOREM_3_3 = Claim(
    name="did.thm-3.3",
    statement=(
        "If y_w ~ π_ref, y_l ~ π_l and the differential information distributions match up to an exponent β, "
        "q_{π_ref/π_l} ∝ q_{π*/π_ref}^β, then preferences are Bradley–Terry in β log q_{π*/π_ref}."
    ),
    source="DID paper, Theorem 3.3, Section 3.1",
    verdict="holds",
    note=(
        "A pair (i, j) is labelled i ≻ j with odds π_ref(i) π_l(j) : π_ref(j) π_l(i), so the log-odds are the "
        "differences of log π_ref/π_l whatever the two distributions are: such preferences are always Bradley–Terry. "
        "What the power law adds is that this score is β log q up to a constant. The control takes a uniform π_l, "
        "whose score is log π_ref instead."
    ),
    fields={**WORLD, "beta": BETA},
    check=bradley_terry_in_did,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={"the power law q_{π_ref/π_l} ∝ q_{π*/π_ref}^β": encodes},
    control=Control(
        breaks="the power law q_{π_ref/π_l} ∝ q_{π*/π_ref}^β",
        instance={
            "num_classes": 2,
            "reference": [0.75, 0.25],
            "target": [0.5, 0.5],
            "beta": 1.0,
            "rejected": [0.5, 0.5],
        },
    ),
)

CLAIMS = (THEOREM_2_1, LEMMA_D_1, THEOREM_3_2, THEOREM_3_3)
