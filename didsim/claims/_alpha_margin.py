"""Sections 4.2 and 5 of the α-DPO paper: sequential KL, the distance from the reference, and the stop-gradient."""

from typing import Any

import numpy as np
import torch

from didsim.claims._alpha_pairs import MODERATE, PAIRS, RELATIVE, RELATIVE_REASON, evaluate, moderate, size_of, world_of
from didsim.claims._claim import Claim, Control
from didsim.claims._common import BETA, CERTIFICATE, IDENTITY, ROUNDING, SOLVED, WORLD
from didsim.claims._fields import Choice, Count, Instance, Reals, Simplex
from didsim.info import js, kl
from didsim.objectives import NextTokens, Responses, Tokens, objective, reference_reward
from didsim.optima import closed_form
from didsim.policy import Policy
from didsim.preference import Problem
from didsim.spaces import Sequences
from didsim.stationary import solve, solve_many

TREE = {
    "num_decisions": Count(2, 4),
    "num_actions": Count(2, 2),
    "reference": Simplex(("num_decisions", "num_actions")),
    "policy": Simplex(("num_decisions", "num_actions")),
}
"""Sequences of up to T equal tokens: in each prefix a policy decides whether the token follows, or the end."""


def sequences_of(instance: Instance) -> Sequences:
    """Return the sequences of an instance."""
    return Sequences(vocabulary=instance["num_actions"] - 1, max_length=instance["num_decisions"])


def responses_of(instance: Instance) -> Responses:
    """Return all sequences as responses, with their decisions and the choices behind each."""
    space = sequences_of(instance)
    following = [np.log(np.array(instance[name])) for name in ("policy", "reference")]
    log_pi, log_ref = (torch.tensor(space.log_probs(values)) for values in following)
    pi, ref = (torch.tensor(values[space.contexts]) for values in following)
    at = torch.tensor(space.actions)[..., None]
    mask = torch.arange(space.max_length) < torch.tensor(space.lengths)[:, None]
    tokens = Tokens(pi.gather(-1, at)[..., 0], mask, ref.gather(-1, at)[..., 0], NextTokens(pi, ref))
    return Responses(log_pi, log_ref, torch.tensor(space.lengths, dtype=torch.float64), tokens)


def margin_error(instance: Instance) -> float:
    """Return the root mean square of δ − M over all pairs of sequences, relative to that of M."""
    responses = responses_of(instance)
    delta, margin = (reference_reward(responses, "ratio", name) for name in ("tdpo", "log_ratio"))
    error = delta - margin
    pairs = [values[:, None] - values for values in (error, margin)]
    sizes = [float(values.square().mean().sqrt()) for values in pairs]
    return sizes[0] / max(sizes[1], np.finfo(float).tiny)


SEVERAL = "responses have more than one decision"

LEMMA_4_3 = Claim(
    name="alpha.lem-4.3",
    statement=(
        "TDPO's margin δ = β SeqKL(y_l; π_ref‖π) − β SeqKL(y_w; π_ref‖π) is approximately α-DPO's margin M = β(h_w − "
        "h_l), h = log π/π_ref."
    ),
    source="α-DPO paper, Lemma 4.3, Eqs. 18 and 19, Appendix A.3",
    verdict="fails",
    note=(
        "A sum of expectations over all tokens is replaced by the log-ratio of the tokens that were drawn. The sign "
        "agrees, though the proof in Appendix A.3 uses log π/π_ref for the KL, which has the wrong sign, and then "
        "turns it round in its last line; the size does not: two responses that differ in their last token alone have "
        "the same prefixes, hence δ = 0, whatever M is. Counterexample: at most two tokens of a vocabulary of one, "
        "π_ref = ½ throughout, π = ½ in the first decision and ¾ to go on in the second. δ between the two responses "
        "of length 2 is 0, M is β log 3. Near the reference it is worst: M is of first order in π − π_ref and δ, a KL, "
        "of second, so that δ/M tends to 0."
    ),
    fields=TREE,
    check=margin_error,
    tolerance=0.1,
    reason="an error of a tenth of M, root mean square over all pairs, could still be called approximate",
    assumptions={SEVERAL: lambda i: i["num_decisions"] > 1},
    control=Control(
        breaks=SEVERAL,
        instance={"num_decisions": 1, "num_actions": 2, "reference": [[0.5, 0.5]], "policy": [[0.25, 0.75]]},
    ),
    corrected="x.sequential-kl-mean",
)


def mean_error(instance: Instance) -> float:
    """Return how far the means of SeqKL and of −h are from KL(π_ref‖π), in units of the largest log-ratio."""
    responses, space = responses_of(instance), sequences_of(instance)
    reference, policy = (Policy.from_log_probs(x.numpy()) for x in (responses.reference, responses.log_pi))
    drawn = torch.tensor(space.policy(np.log(np.array(instance.get("drawn", instance["reference"])))).probs)
    means = [float(drawn @ reference_reward(responses, "ratio", name)) for name in ("tdpo", "log_ratio")]
    divergence = float(kl(reference, policy))
    size = 1.0 + float(responses.log_ratio.abs().max())
    return max(abs(-mean - divergence) for mean in means) / size


FROM_REFERENCE = "the response is drawn from π_ref"

SEQUENTIAL_KL = Claim(
    name="x.sequential-kl-mean",
    statement=(
        "For a response drawn from π_ref the sequential KL and log π_ref/π have the same mean, KL(π_ref‖π), so that δ "
        "and M agree on average if both responses come from π_ref (both are 0 then)."
    ),
    source="ours; corrects the α-DPO paper's Lemma 4.3",
    verdict="holds",
    note=(
        "Proof: given its prefix, the log-ratio log π_ref/π of the next token has the KL of this decision as its mean "
        "under π_ref. So log π_ref(y)/π(y) − SeqKL(y) is a sum of differences of a martingale, and has mean 0; its "
        "spread is that of the log-ratios themselves, and grows with the length. Under another distribution of "
        "responses, such as that of rejected ones, the means differ too, as the control shows."
    ),
    fields=TREE,
    check=mean_error,
    tolerance=ROUNDING,
    reason=IDENTITY,
    assumptions={FROM_REFERENCE: lambda i: "drawn" not in i},
    control=Control(
        breaks=FROM_REFERENCE,
        instance={
            "num_decisions": 2,
            "num_actions": 2,
            "reference": [[0.5, 0.5], [0.5, 0.5]],
            "policy": [[0.5, 0.5], [0.75, 0.25]],
            "drawn": [[0.75, 0.25], [0.75, 0.25]],
        },
    ),
)


def ends_at(problem: Problem, *, beta: float, gamma: float, alphas: list[float], **options: Any) -> list[Policy]:
    """Return the stationary policies of SimPO and, from there, of α-DPO for several α; none if one was not found."""
    simpo = solve(problem, objective("simpo", beta=beta, gamma=gamma), starts=1)
    losses = [objective("alpha_dpo", beta=beta, gamma=gamma, alpha=alpha, **options) for alpha in alphas]
    found = solve_many([(problem, loss) for loss in losses], initial_policy=simpo.policy, starts=1)
    policies = [solution.policy for solution in (simpo, *found) if solution.status == "converged"]
    return [policy for policy in policies if policy is not None] if len(policies) == len(found) + 1 else []


FEW = {**WORLD, "num_classes": Count(2, 3)}
"""A world of few responses, which is solved fast."""

PAPER_GRID = {"beta": Choice((2.5, 10.0)), "gamma": Choice((0.1, 0.3, 0.5)), "alpha": Choice((0.05, 0.1, 0.2))}
"""The grid of α-DPO's hyperparameters in its Table 3."""


def options_of(instance: Instance) -> dict[str, Any]:
    """Return the hyperparameters of α-DPO."""
    given = {name: instance[name] for name in ("beta", "gamma", "normalise") if name in instance}
    return {**given, "alphas": [instance["alpha"]]}


def farther(instance: Instance) -> float:
    """Return by how much KL(π‖π_ref) of the stationary policy exceeds SimPO's, in nats."""
    problem = world_of(instance)
    policies = ends_at(problem, **options_of(instance))
    if not policies:
        return 0.0
    simpo, adapted = (float(kl(policy, problem.reference)) for policy in policies)
    return max(0.0, adapted - simpo)


TWO = {"num_classes": 2, "reference": [0.5, 0.5], "target": [0.75, 0.25]}
STANDARDISED = "the margin M is standardised (Eq. 11)"
NOT_STANDARDISED = "the margin M is not standardised (Eq. 9)"

KL_CONTROL = Claim(
    name="alpha.kl-control",
    statement="The distance KL(π‖π_ref) that α-DPO ends at does not grow with α.",
    source="α-DPO paper, Section 5.3 and Figure 3 ('remains stable or even decreases slightly when compared to SimPO')",
    verdict="fails",
    note=(
        "The tabular counterpart: the stationary policies for α = 0 (SimPO) and for an α of the paper's grid, with "
        "standardised margins. A pair in which π has moved further from π_ref than in others is asked for a larger "
        "margin still, so that α pushes away from the reference and not towards it; it grew in all of 60 random "
        "worlds. Counterexample: two responses, π_ref = (½, ½), π* = (¾, ¼), β = 2.5, γ = 0.3: KL is 0.031 for α = 0 "
        "and 0.044 for α = 0.2. This says where training ends, not how far it comes in one epoch, which is what Figure "
        "3 shows; without standardisation the growth is exact (x.alpha-dpo-path)."
    ),
    fields={**FEW, **PAPER_GRID},
    check=farther,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    assumptions={STANDARDISED: lambda i: "normalise" not in i, MODERATE: moderate},
    control=Control(
        breaks=STANDARDISED,
        instance={**TWO, "beta": 2.5, "gamma": 0.3, "alpha": 0.2, "normalise": False},
    ),
    cost=80,
    corrected="x.alpha-dpo-path",
)


def off_path(instance: Instance) -> float:
    """Return how far the policy is from π_ref (π_SimPO/π_ref)^{1/(1−α)}, and KL from growing, in nats."""
    problem, alpha = world_of(instance), instance["alpha"]
    policies = ends_at(problem, **{"normalise": False, **options_of(instance)})
    if not policies:
        return float("inf")
    simpo, adapted = policies
    log_ref = problem.reference.log_probs
    path = Policy.from_logits(log_ref + (simpo.log_probs - log_ref) / (1.0 - alpha))
    shrunk = float(kl(simpo, problem.reference) - kl(adapted, problem.reference))
    return max(float(np.abs(path.log_probs - adapted.log_probs).max()) * (1.0 - alpha), shrunk)


def draw_path(axes: Any) -> None:
    """Draw KL(π‖π_ref) against α, by the closed form, for three targets over two responses."""
    ax, alphas = axes[0, 0], np.linspace(0.0, 0.8, 41)
    for number, chance in enumerate((0.6, 0.75, 0.9)):
        problem = Problem.from_policies([0.5, 0.5], [chance, 1.0 - chance])
        options = {"beta": 2.5, "gamma": 0.0, "normalise": False}
        ends = [closed_form(problem, objective("alpha_dpo", alpha=float(alpha), **options)) for alpha in alphas]
        distances = [np.nan if end is None else float(kl(end, problem.reference)) for end in ends]
        ax.plot(alphas, distances, color=f"C{number}", label=f"π* = ({chance:g}, {1.0 - chance:.2g})")
    ax.set_xlabel("α")
    ax.set_ylabel("KL(π‖π_ref) [nats]")
    ax.legend()


PATH = Claim(
    name="x.alpha-dpo-path",
    statement=(
        "For responses of one length and a margin that is not standardised, α-DPO ends at π_α ∝ π_ref "
        "(π_SimPO/π_ref)^{1/(1−α)}, 0 ≤ α < 1: KL(π_α‖π_ref) grows with α, strictly unless π_SimPO = π_ref."
    ),
    source="ours; corrects the α-DPO paper's Section 5.3 and its remarks on α = 0 and α = 1",
    verdict="holds",
    note=(
        "Proof: the margin is a difference of the scores β[(1 − α) log π + α log π_ref] minus γ, and the scores at a "
        "stationary policy depend on the pairs and γ alone (the lemma of didsim.optima), so that they are SimPO's β "
        "log π_SimPO up to a constant. Solved for π this is the path. Along an exponential path from π_ref with "
        "exponent u the derivative of KL is u Var(log π_SimPO/π_ref) ≥ 0. As α → 1 the exponent is infinite: only the "
        "responses of the largest π_SimPO/π_ref survive, which is the opposite of an approach to DPO."
    ),
    fields={**FEW, "beta": Choice((1.0, 2.5)), "gamma": Reals(low=0.0), "alpha": Choice((0.1, 0.2, 0.5, 0.8))},
    check=off_path,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    assumptions={NOT_STANDARDISED: lambda i: "normalise" not in i, MODERATE: moderate},
    control=Control(
        breaks=NOT_STANDARDISED,
        instance={
            "num_classes": 3,
            "reference": [0.25, 0.25, 0.5],
            "target": [0.25, 0.5, 0.25],
            "beta": 2.5,
            "gamma": 0.5,
            "alpha": 0.5,
            "normalise": True,
        },
    ),
    cost=80,
    picture=draw_path,
)


def worse_with_stop(instance: Instance) -> float:
    """Return how much farther from π* the stop-gradient ends, as a difference of JS divergences in nats."""
    problem = world_of(instance)
    policies = [ends_at(problem, stop_gradient=stop, **options_of(instance)) for stop in (True, False)]
    if not all(policies):
        return 0.0
    stopped, flowing = (float(js(problem.target, found[-1])) for found in policies)
    return max(0.0, stopped - flowing)


IN_GRID = "α is at most 0.2, the largest of the paper's grid"

STOP_GRADIENT = Claim(
    name="alpha.stop-gradient",
    statement="Without the stop-gradient on its margin α-DPO ends no closer to the target than with it.",
    source="α-DPO paper, Sections 3.2 and 5.2, Table 2, row 'w/o sg' (2.7 in place of 58.7)",
    verdict="fails",
    note=(
        "The tabular counterpart of the ablation: the two stationary policies, by JS to π*, with standardised margins "
        "and responses of one token. Removing the stop-gradient often ends a little closer. Counterexample: π_ref = "
        "(½, ¼, ¼), π* = (0.2, 0.2, 0.6), β = 2.5, γ = 0.3, α = 0.2: 0.0063 nats without and 0.0070 with it. That is "
        "no contradiction to Table 2: for one token the gradient of the margin takes away a small share of that of the "
        "reward, but for |y| tokens the reward counts 1/|y| and the margin does not, so that long responses are pushed "
        "the wrong way (x.stop-gradient-lengths). What the stop-gradient protects against is this mismatch of Eq. 12, "
        "not the dependence of π̂_ref on π."
    ),
    fields={**FEW, **PAPER_GRID},
    check=worse_with_stop,
    tolerance=SOLVED,
    reason=CERTIFICATE,
    assumptions={IN_GRID: lambda i: i["alpha"] <= 0.2, MODERATE: moderate},
    control=Control(
        breaks=IN_GRID,
        instance={
            "num_classes": 3,
            "reference": [0.5, 0.25, 0.25],
            "target": [0.2, 0.2, 0.6],
            "beta": 2.5,
            "gamma": 0.3,
            "alpha": 0.5,
        },
    ),
    cost=80,
    corrected="x.stop-gradient-lengths",
)


def scaled_gradient(instance: Instance) -> float:
    """Return how far the gradient without the stop is from 1 − α|y| times the one with it, in units of a margin."""
    options = {name: instance[name] for name in ("beta", "gamma", "alpha")}
    options["normalise"] = instance.get("normalise", False)
    stopped, flowing = (
        evaluate(objective("alpha_dpo", stop_gradient=stop, **options), instance)[1] for stop in (True, False)
    )
    lengths = torch.tensor([instance["length_chosen"], instance["length_rejected"]], dtype=torch.float64)
    alpha = instance["alpha"]
    return float((flowing - (1.0 - alpha * lengths) * stopped).abs().max()) / size_of(instance) / (1.0 + 3.0 * alpha)


LENGTHS_FLIP = Claim(
    name="x.stop-gradient-lengths",
    statement=(
        "Without standardisation, removing the stop-gradient multiplies the gradient by log π of each response y by 1 "
        "− α|y|: it changes sign for responses longer than 1/α tokens."
    ),
    source="ours; explains the α-DPO paper's Table 2, row 'w/o sg'",
    verdict="holds",
    note=(
        "Proof: the margin is β[a − αh] of y_w minus that of y_l, a = log π/|y|, h = log π/π_ref; its derivative by "
        "log π(y) is β/|y| − αβ without the stop and β/|y| with it, and the outer derivative is the same. With α = "
        "0.05 a chosen response of more than 20 tokens is pushed down and a rejected one up. If all responses are "
        "shorter than 1/α, all slopes are positive and the stationary policy is the same with and without the "
        "stop-gradient, by the lemma of didsim.optima. A standardised margin has α|y|/σ_M in place of α|y|, σ_M being "
        "its standard deviation, which has a gradient of its own: the control shows that the formula is then another."
    ),
    fields={"beta": BETA, "gamma": Reals(), "alpha": BETA, **PAIRS},
    check=scaled_gradient,
    tolerance=RELATIVE,
    reason=RELATIVE_REASON,
    assumptions={NOT_STANDARDISED: lambda i: "normalise" not in i},
    control=Control(
        breaks=NOT_STANDARDISED,
        instance={
            "beta": 1.0,
            "gamma": 0.0,
            "alpha": 0.5,
            "num_pairs": 2,
            "chosen": [1.0, 2.0],
            "rejected": [2.0, 1.0],
            "ref_chosen": [2.0, 2.0],
            "ref_rejected": [2.0, 2.0],
            "length_chosen": [1, 1],
            "length_rejected": [1, 1],
            "normalise": True,
        },
    ),
)

CLAIMS = (LEMMA_4_3, SEQUENTIAL_KL, KL_CONTROL, PATH, STOP_GRADIENT, LENGTHS_FLIP)
