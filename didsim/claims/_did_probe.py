"""Appendix K of the DID paper: how the entropy of differential information is estimated."""

from typing import Any

import numpy as np

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import CERTIFICATE, ROUNDING, SOLVED, WORLD
from didsim.claims._fields import Count, Instance, Reals, Seed, Simplex
from didsim.differential import did
from didsim.engine import beta_accuracy, entropy_probe, monte_carlo_entropy
from didsim.identification import predicted_error
from didsim.info import entropy
from didsim.objectives import objective
from didsim.policy import Policy
from didsim.preference import PreferenceDataset, Problem
from didsim.stationary import solve

SAMPLES = 20_000
"""How many responses a Monte-Carlo estimate takes here; the paper takes 4 for each of 1000 prompts."""

ODDS = np.log(2e12)
"""Bernstein's bound is exceeded once in 10¹² times."""


def monte_carlo(instance: Instance) -> float:
    """Return the error of the Monte-Carlo estimate, in units of Bernstein's bound on it."""
    policy, prompts = np.array(instance["policy"]), np.array(instance["prompts"])
    asked = np.array(instance.get("asked", prompts))
    truth = float(prompts @ entropy(policy))
    surprise = -Policy.from_probs(policy).log_probs
    weights = prompts[:, None] * policy
    spread, largest = np.sqrt((weights * (surprise - truth) ** 2).sum()), np.abs(surprise - truth).max()
    bound = spread * np.sqrt(2.0 * ODDS / SAMPLES) + largest * ODDS * 2.0 / (3.0 * SAMPLES) + ROUNDING
    estimate = monte_carlo_entropy(policy, SAMPLES, instance["seed"], prompts=asked)
    return float(abs(estimate - truth) / bound)


PROMPTS = {
    "num_prompts": Count(1, 3),
    "num_classes": Count(2, 6),
    "prompts": Simplex(sizes=("num_prompts",)),
}

APPENDIX_K_MC = Claim(
    name="did.app-K-mc",
    statement="The Monte-Carlo estimate −(1/N) Σ log π(y_i), y_i ~ π, converges to the entropy H(π).",
    source="DID paper, Appendix K, first equation",
    verdict="holds",
    note=(
        "It is a mean of N independent numbers −log π(y_i) whose expectation is H(π): there is no bias at any N, "
        "the standard error is sd(log π)/√N, and it converges by the strong law of large numbers wherever H is "
        "finite. The check draws N = 20 000 and asks for no more than Bernstein's inequality allows. Of several "
        "prompts it estimates the mean entropy over p(x), if prompts are drawn by p(x); the control draws them "
        "by other weights. With N = 4 for each of 1000 prompts, as in the paper, the standard error is about "
        "sd(log π)/63."
    ),
    fields={**PROMPTS, "policy": Simplex(sizes=("num_prompts", "num_classes")), "seed": Seed()},
    check=monte_carlo,
    tolerance=1.0,
    reason="Bernstein's inequality: a larger error has a chance of 1e-12",
    assumptions={"prompts are drawn by the weights of the mean": lambda i: "asked" not in i},
    control=Control(
        breaks="prompts are drawn by the weights of the mean",
        instance={
            "num_prompts": 2,
            "num_classes": 2,
            "prompts": [0.5, 0.5],
            "policy": [[0.5, 0.5], [0.9, 0.1]],
            "seed": 0,
            "asked": [0.9, 0.1],
        },
    ),
)


def probe_problem(instance: Instance) -> Problem:
    """Return the problem on which the probe is trained: y_w ~ π and y_l ~ π_ref, with the DID as its target."""
    reference, policy = (Policy.from_probs(instance[name]) for name in ("reference", "target"))
    features = np.array(instance["features"]) if "features" in instance else None
    return Problem(reference, did(policy, reference), reference, policy, features=features)


def probe_entropy(instance: Instance) -> float:
    """Return how far the entropy of the converged probe is from H(q), in nats."""
    problem = probe_problem(instance)
    probe = solve(problem, objective("entropy_probe"), starts=1).policy
    return float("inf") if probe is None else float(abs(entropy(probe) - entropy(problem.target)))


APPENDIX_K_ENTROPY = Claim(
    name="did.app-K-entropy",
    statement="A policy π̃ trained with r = log π̃ on y_w ~ π, y_l ~ π_ref converges to q_{π/π_ref}, so H(π̃) to H(q).",
    source="DID paper, Appendix K (with Theorem 2.1 and Appendix F.2)",
    verdict="holds",
    note=(
        "The loss is that of a Bradley–Terry model with scores log π̃, and the pairs have the scores log "
        "π/π_ref, so that the population loss is least where log π̃ equals them up to a constant, at q. The "
        "check solves for that policy and compares entropies. It needs a policy class that contains q: the "
        "control lets the probe move along one feature only, and its entropy is another. It also speaks of the "
        "population and of the end of training: for finitely many pairs see x.probe-error, and for the greedy "
        "pairs of the paper's experiment did.app-K-greedy."
    ),
    fields=WORLD,
    check=probe_entropy,
    tolerance=1e-6,
    reason="the derivative of H by log π is at most a few nats, and " + CERTIFICATE,
    assumptions={
        "no response is rarer than 1 in 1000": lambda i: min(*i["reference"], *i["target"]) > 1e-3,
        "the probe can represent q": lambda i: "features" not in i,
    },
    cost=20,
    control=Control(
        breaks="the probe can represent q",
        instance={
            "num_classes": 3,
            "reference": [0.5, 0.25, 0.25],
            "target": [0.25, 0.25, 0.5],
            "features": [[1.0], [0.0], [0.0]],
        },
    ),
)


PAIRS = 40_000
"""As many pairs as the paper's probe sees."""


def probe_error(instance: Instance) -> float:
    """Return the error of the entropy of a probe fitted to n pairs, in units of what the Fisher information allows.

    The entropy moves with the scores s = log π̃ by −q (log q + H), which gives its standard error. What is quadratic in
    the scores is of the order of KL(q‖π̃), whose mean is predicted.
    """
    problem, classes, copies = probe_problem(instance), instance["num_classes"], instance.get("copies", 1)
    rng = np.random.default_rng(instance["seed"])
    drawn = [rng.choice(classes, PAIRS // copies, p=side.probs) for side in (problem.chosen, problem.rejected)]
    chosen, rejected = (np.tile(side, copies) for side in drawn)
    pairs = PreferenceDataset.from_classes(chosen, rejected, num_classes=classes)
    probe = solve(problem, objective("entropy_probe"), dataset=pairs, starts=1).policy
    if probe is None:
        return float("inf")
    predicted = predicted_error(problem, len(pairs), prior=np.full(classes, 1.0 / classes))
    q, log_q = problem.target.probs, problem.target.log_probs
    slope = -q * (log_q + entropy(q))
    spread = float(np.sqrt(slope @ np.linalg.pinv(predicted.information) @ slope / len(pairs)))
    return float(abs(entropy(probe) - entropy(q)) / (6.0 * spread + 72.0 * predicted.kl))


INDEPENDENT = "pairs are drawn independently"

PROBE_ERROR = Claim(
    name="x.probe-error",
    statement=(
        "Fitted to n pairs, the entropy of the probe differs from H(q) by a normal error of variance gᵀI⁺g/n, "
        "g = −q (log q + H(q)), I the Fisher information of a pair, and by a bias of order 1/n."
    ),
    source="extends Appendix K of the DID paper; van der Vaart (1998), Theorem 5.39",
    verdict="holds",
    note=(
        "The fitted scores have the covariance I⁺/n, and g is the derivative of the entropy by them: the delta "
        "method. Where q is uniform g = 0 and only the bias is left, which is negative, since no policy has a "
        "larger entropy. The check draws 40 000 pairs, as many as the paper's probe sees, and asks for an error "
        "within six standard errors and 72 times the mean of KL(q‖π̃). Copies of pairs do not count: in the "
        "control 40 pairs stand a thousand times each, and the error is that of 40. Too few training steps are "
        "an error of their own, which leaves the entropy on the path that starts at H(π_ref)."
    ),
    fields={"num_classes": Count(2, 4), "reference": Simplex(), "target": Simplex(), "seed": Seed()},
    check=probe_error,
    tolerance=1.0,
    reason="six standard errors: a larger error has a chance of 2e-9",
    assumptions={
        "every response is chosen and rejected hundreds of times": lambda i: min(*i["reference"], *i["target"]) > 0.02,
        INDEPENDENT: lambda i: "copies" not in i,
    },
    cost=20,
    control=Control(
        breaks=INDEPENDENT,
        instance={
            "num_classes": 3,
            "reference": [0.5, 0.25, 0.25],
            "target": [0.25, 0.25, 0.5],
            "seed": 0,
            "copies": 1000,
        },
    ),
)


def greedy_probe(instance: Instance) -> tuple[FloatArray, FloatArray, FloatArray, float]:
    """Return π_ref and π of an instance, the weights of prompts, and the mean entropy of a probe trained greedily.

    A few giant steps lead as far as training could, since margins grow with the logarithm of time.
    """
    reference, policy, prompts = (np.array(instance[name]) for name in ("reference", "target", "prompts"))
    sides = (reference, policy) if "swapped" in instance else (policy, reference)
    result = entropy_probe(
        *sides,
        prompts=prompts,
        decoding=instance.get("decoding", "greedy"),
        samples=4,
        steps=instance.get("steps", 3),
        learning_rate=instance.get("learning_rate", 1e3) / prompts.min(),
        optimiser="sgd",
        clip=None,
        mode="population",
        dtype="float64",
        metrics=(),
        initial_policy=Policy.from_probs(reference),
    )
    assert result.probe_entropy is not None  # logits of a few thousand are finite
    return reference, policy, prompts, result.probe_entropy


def greedy_against_did(instance: Instance) -> float:
    """Return how far the entropy of a probe trained on greedy pairs is from the mean of H(q), in nats."""
    reference, policy, prompts, found = greedy_probe(instance)
    return float(abs(found - prompts @ entropy(did(policy, reference))))


def greedy_against_limit(instance: Instance) -> float:
    """Return how far it is from the mean of H(π_ref) over prompts where greedy responses agree, and 0 elsewhere."""
    reference, policy, prompts, found = greedy_probe(instance)
    agree = policy.argmax(axis=-1) == reference.argmax(axis=-1)
    return float(abs(found - prompts @ np.where(agree, entropy(reference), 0.0)))


GREEDY_WORLD = {
    **PROMPTS,
    "reference": Simplex(sizes=("num_prompts", "num_classes")),
    "target": Simplex(sizes=("num_prompts", "num_classes")),
}

RIGHT_WAY = "y_w is the greedy response of π and y_l that of π_ref"

SHARPENED: Instance = {
    "num_prompts": 1,
    "num_classes": 2,
    "prompts": [1.0],
    "reference": [[0.6, 0.4]],
    "target": [[0.9, 0.1]],
}

APPENDIX_K_GREEDY = Claim(
    name="did.app-K-greedy",
    statement="A probe trained on greedy responses of π and π_ref, as in the paper's experiment, has the entropy H(q).",
    source="DID paper, Appendix K (“greedy-decode a completion for each prompt”), Table 2",
    verdict="fails",
    note=(
        "The theory draws y_w ~ π and y_l ~ π_ref; greedy decoding shows one fixed pair for each prompt, which "
        "says of q only which responses are the likeliest under π and π_ref. Smallest counterexample: π_ref = "
        "(3/5, 2/5), π = (9/10, 1/10). Both decode response 0, so that the pair is a tie, its gradient is 0, and "
        "the probe stays at π_ref with entropy 0.67, while q = (6/7, 1/7) has 0.41. Where the two differ the "
        "probe becomes deterministic instead. The check is tabular: in a language model prompts share "
        "parameters, which may blur this, but gives no reason to expect q."
    ),
    fields=GREEDY_WORLD,
    check=greedy_against_did,
    tolerance=ROUNDING,
    reason="the probe's entropy is e^{−400} from its limit: what is left is rounding",
    assumptions={RIGHT_WAY: lambda i: "swapped" not in i},
    corrected="x.greedy-probe",
    cost=4,
    control=Control(breaks=RIGHT_WAY, instance={**SHARPENED, "target": [[0.1, 0.9]], "swapped": True}),
)

GREEDY_PROBE = Claim(
    name="x.greedy-probe",
    statement=(
        "A tabular probe trained on greedy pairs ends with entropy H(π_ref) at prompts where π and π_ref decode the "
        "same response, and with entropy 0 at all others."
    ),
    source="corrects Appendix K of the DID paper",
    verdict="holds",
    note=(
        "Let a and b be the greedy responses of π and π_ref; if a = b the margin is 0 whatever the probe π̃, and "
        "nothing moves. If not, the gradient of −log σ(m), m = log π̃_a − log π̃_b, by the logits is −σ(−m)(e_a − "
        "e_b): only two logits move, by opposite amounts, and m grows without end like log t. All others stay, so that "
        "π̃_a tends to 1 and the entropy to 0. So this estimate depends on π only through which response is the "
        "likeliest. The control draws responses in place of decoding them greedily, and the probe ends at q."
    ),
    fields=GREEDY_WORLD,
    check=greedy_against_limit,
    tolerance=ROUNDING,
    reason="the probe's entropy is e^{−400} from its limit: what is left is rounding",
    assumptions={"both responses are decoded greedily": lambda i: "decoding" not in i},
    cost=4,
    control=Control(
        breaks="both responses are decoded greedily",
        instance={**SHARPENED, "decoding": "sampled", "steps": 100, "learning_rate": 1.0},
    ),
)


def negative_slopes(instance: Instance) -> float:
    """Return the share of draws of four responses in which the converged probe has a slope β′ < 0."""
    problem = probe_problem(instance)
    probe: Any = instance.get("probe")
    if probe is None:
        probe = solve(problem, objective("entropy_probe"), starts=1).policy
    if probe is None:
        return float("inf")
    return 1.0 - beta_accuracy(probe, instance["target"], instance["reference"], draws=1000, seed=instance["seed"])


def log_ratios_differ(instance: Instance) -> bool:
    """Return whether the log-ratios log π/π_ref of all responses differ by more than the solver's error."""
    log_ratio = np.sort(np.log(instance["target"]) - np.log(instance["reference"]))
    return bool(np.diff(log_ratio).min() > SOLVED)


APPENDIX_K_1 = Claim(
    name="did.app-K.1",
    statement="A converged probe has a β′-accuracy of 1: its slope against log π/π_ref is never negative.",
    source="DID paper, Appendix K.1",
    verdict="holds",
    note=(
        "At q the regression of log π̃ on log π/π_ref is exact, with β′ = 1, for any responses whose log-ratios "
        "are not all equal; so an accuracy below 1 does show a probe that is elsewhere. The converse is false: a "
        "probe ∝ q^c with any c > 0 has accuracy 1 too, with another entropy. An untrained probe, π̃ = π_ref, "
        "has accuracy 1 if π sharpens π_ref and 0 if it smooths it (x.beta-accuracy-start). So a low accuracy "
        "for a smoothing update, such as the paper's 28%, may come from too little training alone, and a high "
        "one for a reinforcing update does not show convergence."
    ),
    fields={**WORLD, "seed": Seed()},
    check=negative_slopes,
    tolerance=ROUNDING,
    reason="a share of draws, none of which may be negative",
    assumptions={
        "no response is rarer than 1 in 1000": lambda i: min(*i["reference"], *i["target"]) > 1e-3,
        "log-ratios of different responses differ": log_ratios_differ,
        "four responses of q are not always the same": lambda i: did(i["target"], i["reference"]).probs.max() < 0.99,
        "the probe has converged": lambda i: "probe" not in i,
    },
    cost=20,
    control=Control(
        breaks="the probe has converged",
        instance={
            "num_classes": 2,
            "reference": [0.8, 0.2],
            "target": [0.6, 0.4],
            "seed": 0,
            "probe": [0.8, 0.2],
        },
    ),
)


def untrained_accuracy(instance: Instance) -> float:
    """Return how far the β′-accuracy of the probe π_ref is from 1 for τ < 1, and from 0 for τ > 1."""
    reference = Policy.from_probs(instance["reference"])
    policy = instance.get("target", Policy.from_logits(reference.log_probs / instance["tau"]))
    found = beta_accuracy(reference, policy, reference, draws=1000, seed=instance["seed"])
    return abs(found - float(instance["tau"] < 1.0))


TEMPERED = "π ∝ π_ref^{1/τ} with τ ≠ 1"

BETA_ACCURACY_START = Claim(
    name="x.beta-accuracy-start",
    statement="For π ∝ π_ref^{1/τ} a probe that was not trained has a β′-accuracy of 1 if τ < 1, and of 0 if τ > 1.",
    source="extends Appendix K.1 of the DID paper",
    verdict="holds",
    note=(
        "Training starts at π̃ = π_ref. There log π/π_ref = (1/τ − 1) log π̃ up to a constant, so every fitted "
        "slope is β′ = τ/(1 − τ): positive for a reinforcing update, negative for a smoothing one. The metric "
        "starts at its best value for the one and at its worst for the other, before any training. At τ = ½ the "
        "DID is π_ref itself, and the untrained probe is right by accident. The control takes a π that is not of "
        "the family."
    ),
    fields={"num_classes": Count(2, 6), "reference": Simplex(), "tau": Reals(low=0.0), "seed": Seed()},
    check=untrained_accuracy,
    tolerance=ROUNDING,
    reason="a share of draws, all of which have slopes of one sign",
    assumptions={
        TEMPERED: lambda i: "target" not in i and abs(np.log(i["tau"])) > 1e-3,
        "four responses of π_ref are not always the same": lambda i: max(i["reference"]) < 0.99,
    },
    control=Control(
        breaks=TEMPERED,
        instance={
            "num_classes": 3,
            "reference": [0.5, 0.3, 0.2],
            "target": [0.5, 0.2, 0.3],
            "tau": 2.0,
            "seed": 0,
        },
    ),
)

CLAIMS = (
    APPENDIX_K_MC,
    APPENDIX_K_ENTROPY,
    PROBE_ERROR,
    APPENDIX_K_GREEDY,
    GREEDY_PROBE,
    APPENDIX_K_1,
    BETA_ACCURACY_START,
)
