"""Section 4 of the MI-DPO paper, where roles and tokens have numbers of their own: SimPO and TIS-DPO."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from didsim._arrays import FloatArray
from didsim.claims._claim import Claim, Control
from didsim.claims._common import ROUNDING
from didsim.claims._fields import Choice, Count, Field, Instance, Reals, Simplex
from didsim.claims._mi_pairs import (
    COST,
    RELATIVE,
    SEQUENCES,
    distance,
    flows,
    problem_of,
    space_of,
)
from didsim.engine import evaluated, snapshot_pairs
from didsim.objectives import PRIORS, Pairs, Responses, objective
from didsim.policy import Policy

WEIGHTED: Mapping[str, Field] = {
    **SEQUENCES,
    "num_positions": Count(5, 5),
    "chosen_weights": Reals(low=0.0, sizes=("num_classes", "num_positions")),
    "rejected_weights": Reals(low=0.0, sizes=("num_classes", "num_positions")),
}
"""Sequences with two numbers for each token."""


def with_weights(pairs: Pairs, **weights: tuple[Any, Any]) -> Pairs:
    """Give the tokens of chosen and of rejected responses numbers of their own, [K, positions] each."""

    def weighted(side: Responses, row: int, axis: int) -> Responses:
        tokens = side.decisions
        laid = {
            name: torch.tensor(both[row], dtype=torch.float64)[:, : tokens.mask.shape[-1]].unsqueeze(axis).unsqueeze(0)
            for name, both in weights.items()
        }
        return replace(side, tokens=replace(tokens, **laid))

    return replace(pairs, chosen=weighted(pairs.chosen, 0, 1), rejected=weighted(pairs.rejected, 1, 0))


def clash(pairs: Sequence[Sequence[int]], chosen: FloatArray, rejected: FloatArray) -> float:
    """Return how far any one log ζ(y) is from the differences that listed pairs ask for, in nats.

    Args:
        pairs: the responses (w, l).
        chosen: log ζ of each response as a chosen one, [K].
        rejected: the same as a rejected one.
    """
    incidence = np.zeros((len(pairs), len(chosen)))
    asked = np.empty(len(pairs))
    for row, (winner, loser) in enumerate(pairs):
        incidence[row, winner] += 1.0
        incidence[row, loser] -= 1.0
        asked[row] = chosen[winner] - rejected[loser]
    found = np.linalg.lstsq(incidence, asked, rcond=None)[0]
    return float(np.abs(incidence @ found - asked).max(initial=0.0))


def role_priors(prior: str, pairs: Pairs, **values: float) -> tuple[FloatArray, FloatArray]:
    """Return log ζ of each response to the first prompt as a chosen one and as a rejected one, [K] each."""
    record = PRIORS[prior]
    with torch.no_grad():
        chosen = record.log_zeta(pairs.chosen, **values)
        rejected = (record.rejected_log_zeta or record.log_zeta)(pairs.rejected, **values)
    return chosen[0, :, 0].numpy(), rejected[0, 0, :].numpy()


def unambiguous(instance: Instance) -> bool:
    """Return whether no response is chosen in one of the listed pairs and rejected in another."""
    winners, losers = zip(*instance["pairs"], strict=True)
    return not set(winners) & set(losers)


def recovers_tis_dpo(instance: Instance) -> float:
    """Return how far MI-DPO is from TIS-DPO, or how far any one ζ is from what the listed pairs ask for."""
    alpha = instance["alpha"]
    loss = objective("mi_dpo", alpha=alpha, prior="tis_dpo", kl_weight=1.0, stop_gradient=not flows(instance))
    bare, logits = snapshot_pairs(problem_of(instance), Policy.from_probs(instance["policy"]), loss)
    pairs = with_weights(bare, weights=(instance["chosen_weights"], instance["rejected_weights"]))
    original = objective("tis_dpo", beta=alpha, alpha=1.0)
    size = alpha * (1.0 + np.max(instance["chosen_weights"]) + np.max(instance["rejected_weights"]))
    apart = distance(evaluated(loss(pairs), pairs, logits), evaluated(original(pairs), pairs, logits), size)
    zetas = role_priors("tis_dpo", pairs, kl_weight=1.0)
    return max(apart, clash(instance["pairs"], *zetas) / (1.0 + max(np.abs(zeta).max() for zeta in zetas)))


LISTED: tuple[list[list[int]], ...] = ([[0, 1]], [[0, 2], [1, 2]], [[0, 1], [0, 2]])
"""Pairs (w, l) of which no response is both chosen and rejected."""

TIS_DPO = Claim(
    name="mi.recovers-tis-dpo",
    statement=(
        "With the prior ζ ∝ π Π_t (π_ref/π)^w exp(Σ_t w KL(π ‖ π_ref)), whose weights w are those of the role that a "
        "response has, MI-DPO is TIS-DPO, in value and in gradient."
    ),
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="holds-conditionally",
    note=(
        "π cancels in log π/ζ, and the weighted log-ratios and divergences are left. All of the gradient comes through "
        "ζ: with ζ frozen it is that of α log π alone, whatever the weights. Counterexample: π = π_ref = (1/2, 1/4, "
        "1/4) over sequences of lengths 1, 2, 2 and all weights 2: the loss is log 2, and the frozen gradient half of "
        "TIS-DPO's. The weights depend on the role, so a response that is chosen in one pair and rejected in another "
        "would need two values of ζ: the paper excludes this in Section 4, and the control shows that it has to. With "
        "weights that depend on the tokens alone, as in the tables of this library, one ζ serves both roles."
    ),
    fields={**WEIGHTED, "num_classes": Count(3, 7), "pairs": Choice(LISTED)},
    check=recovers_tis_dpo,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={"no response is chosen in one pair and rejected in another": unambiguous},
    condition=("gradient flows through ζ", flows),
    cost=COST,
    control=Control(
        breaks="no response is chosen in one pair and rejected in another",
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "num_positions": 5,
            "policy": [[0.5, 0.25, 0.25]],
            "reference": [[0.25, 0.25, 0.5]],
            "chosen": [[0.5, 0.25, 0.25]],
            "rejected": [[0.5, 0.25, 0.25]],
            "alpha": 1.0,
            "chosen_weights": [[2.0] * 5] * 3,
            "rejected_weights": [[1.0] * 5] * 3,
            "pairs": [[0, 1], [1, 0]],
        },
    ),
)

SINGLE: Mapping[str, Field] = {**SEQUENCES, "num_classes": Count(3, 7), "gamma": Choice((0.5, 1.0, 2.0))}
"""Sequences with a margin γ."""


def recovers_simpo(instance: Instance) -> float:
    """Return how far MI-DPO is from SimPO, or how far any one ζ is from what the listed pairs ask for."""
    alpha, gamma = instance["alpha"], instance["gamma"]
    of_prior = instance.get("prior_gamma", gamma)
    loss = objective("mi_dpo", alpha=alpha, prior="simpo", gamma=of_prior, stop_gradient=not flows(instance))
    pairs, logits = snapshot_pairs(problem_of(instance), Policy.from_probs(instance["policy"]), loss)
    original = objective("simpo", beta=alpha, gamma=gamma)
    apart = distance(evaluated(loss(pairs), pairs, logits), evaluated(original(pairs), pairs, logits), alpha)
    return max(apart, clash(instance["pairs"], *role_priors("simpo", pairs, alpha=alpha, gamma=of_prior)))


def as_printed(instance: Instance) -> bool:
    """Return whether no (y_1, y_2) and (y_2, y_3) are among the pairs for different y_1, y_2, y_3."""
    pairs = instance["pairs"]
    return not any(first[1] == second[0] and first[0] != second[1] for first in pairs for second in pairs)


HALF_MARGIN = "ζ holds e^{±γ/(2α)} with SimPO's own γ"

SIMPO = Claim(
    name="mi.recovers-simpo",
    statement=(
        "With the prior ζ ∝ π^{1−1/|y|} e^{±γ/(2α)}, + for a chosen response and − for a rejected one, MI-DPO is "
        "SimPO, in value and in gradient, if the data do not hold (x, y_1, y_2) and (x, y_2, y_3) for different y_1, "
        "y_2, y_3."
    ),
    source="MI-DPO paper, Section 4 and Appendix B",
    verdict="holds-conditionally",
    note=(
        "Two things are missing: gradient has to flow through ζ, since frozen the derivative of a score by log π is α "
        "in place of α/|y|; and the printed assumption allows the pairs (a, b) and (b, a), for which ζ(a)/ζ(b) would "
        "have to be e^{γ/α} times and e^{−γ/α} times the same number. Counterexample: sequences of lengths 1, 2, 2 "
        "with π = (1/2, 1/4, 1/4), γ = α = 1, and the pairs (0, 1) and (1, 0): any one log ζ is wrong by 1 nat for one "
        "of them. What the words say, that a response is either good or bad, is enough; x.single-prior has the exact "
        "border. In a population, where any pair may occur, no ζ(y) gives SimPO with γ > 0: the prior is then a "
        "function of the role too. The control has e^{±γ/α} in place of e^{±γ/(2α)}, and so twice the margin."
    ),
    fields={**SINGLE, "pairs": Choice(LISTED)},
    check=recovers_simpo,
    tolerance=ROUNDING,
    reason=RELATIVE,
    assumptions={
        "no (y_1, y_2) and (y_2, y_3) are among the pairs for different y_1, y_2, y_3": as_printed,
        HALF_MARGIN: lambda i: "prior_gamma" not in i,
    },
    condition=(
        "gradient flows through ζ, and no response is chosen in one pair and rejected in another",
        lambda i: flows(i) and unambiguous(i),
    ),
    cost=COST,
    corrected="x.single-prior",
    control=Control(
        breaks=HALF_MARGIN,
        instance={
            "num_prompts": 1,
            "num_classes": 3,
            "policy": [[0.5, 0.25, 0.25]],
            "reference": [[0.5, 0.25, 0.25]],
            "chosen": [[0.5, 0.25, 0.25]],
            "rejected": [[0.5, 0.25, 0.25]],
            "alpha": 1.0,
            "gamma": 1.0,
            "prior_gamma": 2.0,
            "pairs": [[0, 1]],
        },
    ),
)


def levels_of(pairs: Sequence[Sequence[int]], num_classes: int) -> FloatArray | None:
    """Return a level for each response, one higher for the chosen one of each pair than for the rejected; or None."""
    steps = [(first, last, 1.0) for first, last in pairs] + [(last, first, -1.0) for first, last in pairs]
    levels = np.full(num_classes, np.nan)
    for start in range(num_classes):
        if np.isnan(levels[start]):
            levels[start], waiting = 0.0, [start]
            while waiting:
                here = waiting.pop()
                for winner, loser, step in steps:
                    if winner == here and np.isnan(levels[loser]):
                        levels[loser] = levels[here] - step
                        waiting.append(loser)
    return levels if all(levels[first] - levels[last] == 1.0 for first, last in pairs) else None


def single_prior(instance: Instance) -> float:
    """Return how wrong it is to tell by levels whether one ζ(y) gives SimPO, in units of γ/α."""
    alpha, gamma, num_classes = instance["alpha"], instance["gamma"], instance["num_classes"]
    beats = np.array(instance["beats"])
    edges = [[i, j] for i in range(num_classes) for j in range(num_classes) if i != j and beats[i, j] > 1.0]
    log_pi = Policy.from_probs(instance["policy"]).log_probs
    lengths = torch.tensor(space_of(num_classes).lengths, dtype=torch.float64)
    side = Responses(torch.tensor(log_pi), length=lengths)
    values = {"alpha": alpha, "gamma": gamma}
    record = PRIORS["simpo"]
    assert record.rejected_log_zeta is not None  # of SimPO it differs
    zetas = [part(side, **values).numpy() for part in (record.log_zeta, record.rejected_log_zeta)]
    wrong = clash(edges, zetas[0], zetas[1]) / max(gamma / alpha, 1e-3)
    if levels_of(edges, num_classes) is not None:
        return wrong
    return max(0.0, 1.0 / num_classes - wrong)


SINGLE_PRIOR = Claim(
    name="x.single-prior",
    statement=(
        "One prior ζ(y) gives SimPO with γ > 0 on some pairs if and only if responses have levels such that every "
        "chosen response is exactly one level above the rejected one."
    ),
    source="ours; says when the prior of mi.recovers-simpo exists",
    verdict="holds",
    note=(
        "Write log ζ = (1 − 1/|y|) log π + b(y); then SimPO asks for b(y_w) − b(y_l) = γ/α in every pair. If there are "
        "levels, b = γ/α times the level does it; if b exists, αb/γ is a level on every connected part. So a chain y_1 "
        "≻ y_2 ≻ y_3 is allowed although y_2 is chosen and rejected, but y_1 ≻ y_3 beside it is not, since the two "
        "steps make 2γ/α; good and bad responses are the case of two levels. Without levels some closed walk of n ≤ K "
        "pairs has a net number of at least 1 pair in one direction, and a ζ is wrong by at least γ/(αK) in one of "
        "them. If γ = 0 one ζ always serves, as the control shows."
    ),
    fields={
        "num_classes": Count(2, 7),
        "policy": Simplex(),
        "beats": Reals(sizes=("num_classes", "num_classes")),
        "alpha": Choice((0.5, 1.0, 2.0)),
        "gamma": Choice((0.5, 1.0, 2.0)),
    },
    check=single_prior,
    tolerance=ROUNDING,
    reason="log-probabilities of some hundred nats, rounded, in units of γ/α ≥ 1/4",
    assumptions={"γ > 0": lambda i: i["gamma"] > 0.0},
    control=Control(
        breaks="γ > 0",
        instance={
            "num_classes": 2,
            "policy": [0.5, 0.5],
            "beats": [[0.0, 2.0], [2.0, 0.0]],
            "alpha": 1.0,
            "gamma": 0.0,
        },
    ),
)
