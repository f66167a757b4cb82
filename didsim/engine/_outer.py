"""DICE: rounds of training, each with the policy of the last one as its reference."""

from dataclasses import replace
from typing import Any

import numpy as np

from didsim._checks import NON_NEGATIVE, check_integer, check_number, message
from didsim.engine._draws import sample_classes
from didsim.engine._history import History
from didsim.engine._loop import train
from didsim.objectives import BoundObjective, objective
from didsim.policy import Policy
from didsim.preference import MAX_SEED, PreferenceDataset, Problem

MAX_ROUNDS = 10_000


def dice(
    problem: Problem,
    loss: BoundObjective | None = None,
    *,
    rounds: int = 3,
    relabel: int | None = None,
    length_penalty: float = 0.0,
    **settings: Any,
) -> list[History]:
    """Train in rounds, each from the policy of the last one, which becomes its reference: π_ref := π^(t−1).

    With ``relabel`` the rounds after the first train on pairs of their own: two responses are drawn from π^(t−1), and
    the one with the greater implicit reward log π^(t−1)/π^(t−2) − a|y| is chosen.

    Args:
        problem: the preference problem; its reference is π^(0).
        loss: what each round minimises, relative to its own reference; `dpo` unless given.
        rounds: how many rounds.
        relabel: how many pairs to draw and label anew for each round after the first; None keeps the problem's pairs.
        length_penalty: a ≥ 0 of the reward that labels pairs, in nats per token.
        **settings: the fields of `Settings`, for each round; round t has the seed plus t, and an initial policy is
            that of the first.

    Returns:
        One history per round; fewer if a round diverges. The problem of each has its own reference.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Deviation: DICE mixes the relabelled pairs with offline ones, and labels the best and the worst of several samples;
    here all pairs are relabelled, two samples each.

    Source: Chen et al. 2024; MI-DPO paper, Appendix B (the prior `previous`).

    >>> histories = dice(Problem.from_temperature(8, tau=2.0), rounds=2, steps=10)
    >>> [history.status for history in histories]
    ['completed', 'completed']
    """
    check_integer("rounds", rounds, 1, MAX_ROUNDS)
    penalty = check_number("length_penalty", length_penalty, NON_NEGATIVE)
    if penalty and relabel is None:
        hint = "It weighs responses when pairs are relabelled."
        raise ValueError(message("length_penalty", "given together with relabel", penalty, hint))
    if relabel is not None and rounds == 1:
        raise ValueError(
            message("relabel", "given with at least 2 rounds", "1 round", "It is for those after the first.")
        )
    seed = check_integer("seed", settings.pop("seed", 42), 0, MAX_SEED - rounds + 1)
    histories: list[History] = []
    later = {name: value for name, value in settings.items() if name != "initial_policy"}  # they start at π^(t−1)
    current, chosen_settings = problem, settings
    for number in range(rounds):
        history = train(current, loss or objective("dpo"), seed=seed + number, **chosen_settings)
        histories.append(history)
        if history.policy is None:
            break
        chosen_settings = later
        if relabel is not None:
            pairs = relabelled_pairs(current, history.policy, relabel, penalty, seed + number)
            chosen_settings = {**later, "mode": "dataset", "dataset": pairs}
        current = replace(problem, reference=history.policy)
    return histories


def relabelled_pairs(
    problem: Problem, policy: Policy, size: int, length_penalty: float, seed: int
) -> PreferenceDataset:
    """Draw pairs from a policy, and choose of each the response with the greater log-ratio to the reference.

    Args:
        problem: gives the prompts, and the reference π^(t−2) of the implicit reward.
        policy: π^(t−1).
        size: the number of pairs.
        length_penalty: subtracted from the reward for each token.
        seed: of the draws.
    """
    check_integer("relabel", size, 1, 10**7)
    rng = np.random.default_rng([seed, size])
    log_pi, log_ref = np.atleast_2d(policy.log_probs), np.atleast_2d(problem.reference.log_probs)
    reward = np.subtract(log_pi, log_ref, out=np.full(log_pi.shape, -np.inf), where=log_ref > -np.inf)
    reward = reward - length_penalty * problem.space.lengths
    prompts = sample_classes(Policy.from_probs(problem.prompt_weights), rng.random(size))
    uniforms, drawn = rng.random((size, 2)), np.empty((size, 2), dtype=np.int64)
    for prompt in np.unique(prompts):
        asked = prompts == prompt
        drawn[asked] = sample_classes(Policy(log_pi[prompt].copy()), uniforms[asked])
    # of two equal rewards either may be chosen: the first is as random as the second
    order = np.argsort(-reward[prompts[:, None], drawn], axis=1, kind="stable")
    chosen, rejected = np.take_along_axis(drawn, order, axis=1).T
    return PreferenceDataset.from_classes(chosen, rejected, problem.num_classes, prompts, problem.num_prompts)
