"""Worlds whose chosen and rejected responses are drawn independently."""

from dataclasses import replace

from didsim._checks import POSITIVE, check_number
from didsim.differential import ideal_rejected
from didsim.preference import Problem
from didsim.worlds._setting import space_of


def did(
    num_classes: int | None = None,
    tau: float = 4.0,
    beta: float = 1.0,
    seed: int = 42,
    num_prompts: int | None = None,
    vocabulary: int | None = None,
    max_length: int | None = None,
    num_features: int | None = None,
) -> Problem:
    """Build the DID construction with any exponent β: π* = π_ref^{1/τ}, y_w ~ π_ref, y_l ~ π_ref (π_ref/π*)^β.

    Args:
        num_classes: K ≥ 1; 32 unless given.
        tau: the temperature τ > 0 of the target.
        beta: the β > 0 at which DPO ends at the target; at 1 it is `Problem.from_temperature`.
        seed: of π_ref, and of the features.
        num_prompts: X ≥ 1 prompts of equal weight; no prompt unless given.
        vocabulary: sequences over so many tokens in place of classes, together with `max_length`.
        max_length: the longest sequences, in tokens.
        num_features: restrict the policy to so many features of each decision.

    Raises:
        ValueError, TypeError: if an argument is not acceptable.

    Source: DID paper, Section 3.5 and Eq. 1.
    """
    exponent = check_number("beta", beta, POSITIVE)
    space = None if vocabulary is None and max_length is None else space_of(num_classes, vocabulary, max_length)
    problem = Problem.from_temperature(
        num_classes, tau, seed, num_prompts=num_prompts, space=space, num_features=num_features
    )
    if exponent == 1.0:
        return problem
    return replace(problem, rejected=ideal_rejected(problem.reference, problem.target, exponent))
