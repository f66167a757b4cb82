"""The parts that problems are made of: their checks, their largest sizes, and random ones."""

from typing import Any

import numpy as np

from didsim._arrays import ArrayLike, FloatArray
from didsim._checks import check_integer, message
from didsim._numerics import log_softmax
from didsim.policy import MAX_CLASSES, Policy
from didsim.spaces import Categorical, Space

TOKEN_WEIGHTS = ("weights", "reward_mask", "kl_mask")
"""The numbers that a problem may give for each decision."""


def check_size(batch: tuple[int, ...], space: Space, num_features: int | None) -> None:
    """Refuse a problem that could not be allocated."""
    if num_features is not None:
        check_integer("num_features", num_features, 1, MAX_CLASSES)
    numbers = (batch or (1,))[0] * space.num_contexts * space.num_actions * (num_features or 1)
    if numbers > MAX_NUMBERS:
        hint = "Use fewer prompts, responses or features."
        raise ValueError(message("prompts × decisions × features", f"at most {MAX_NUMBERS}", numbers, hint))


MAX_NUMBERS = 10**8
"""The largest table that a problem may hold: 800 MB."""


def random_logits(rng: np.random.Generator, batch: tuple[int, ...], space: Space) -> FloatArray:
    """Return θ ~ N(0, 1) for each decision; for sequences normalised, so that they add up over decisions."""
    logits = rng.standard_normal((*batch, space.num_contexts, space.num_actions))
    return logits if isinstance(space, Categorical) else log_softmax(logits, axis=-1)


def checked_prompts(prompts: ArrayLike) -> FloatArray:
    """Copy the weights of prompts, [X], and normalise them; each is positive."""
    weights = finite("prompts", prompts)
    if weights.ndim != 1 or weights.size == 0:
        raise ValueError(message("the shape of prompts", "[X] with X ≥ 1", weights.shape))
    if np.any(weights <= 0):
        row = int(np.argmax(weights <= 0))
        hint = "Leave a prompt out that never comes."
        raise ValueError(message(f"prompts[{row}]", "a positive weight", float(weights[row]), hint))
    normalised = Policy.from_probs(weights).probs
    normalised.setflags(write=False)
    return normalised


def finite(name: str, values: Any) -> FloatArray:
    """Copy to float64; refuse what is not a finite number."""
    try:
        array = np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise TypeError(message(name, "an array of real numbers", values)) from error
    if not np.all(np.isfinite(array)):
        where = [int(i) for i in np.argwhere(~np.isfinite(array))[0]]
        raise ValueError(message(f"{name}{where}", "a finite number", float(array[tuple(where)])))
    array.setflags(write=False)
    return array
