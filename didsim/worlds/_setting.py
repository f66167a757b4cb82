"""What worlds share: a random reference, random rewards, and the policy that best trades one against the other."""

from dataclasses import dataclass

import numpy as np

from didsim._arrays import FloatArray
from didsim._checks import NON_NEGATIVE, POSITIVE, check_integer, check_number, message
from didsim._parts import MAX_NUMBERS, random_logits
from didsim.policy import MAX_CLASSES, Policy
from didsim.preference import MAX_PROMPTS, MAX_SEED
from didsim.spaces import Categorical, Sequences, Space


@dataclass(frozen=True)
class Setting:
    """Where pairs are to be labelled.

    Attributes:
        space: the K responses.
        reference: π_ref, [K] or [X, K]: the softmax of N(0, 1), the same as the DID construction's of that seed.
        reward: r ~ N(0, s²) of each response, in nats, of the same shape.
        prompts: equal weights, [X], or None.
        rng: what is drawn next comes from here.
    """

    space: Space
    reference: Policy
    reward: FloatArray
    prompts: FloatArray | None
    rng: np.random.Generator

    @classmethod
    def draw(cls, space: Space, num_prompts: int | None, scale: float, seed: int) -> "Setting":
        """Draw a reference, and rewards of the standard deviation `scale`, in nats."""
        deviation = check_number("scale", scale, NON_NEGATIVE)
        rng = np.random.default_rng(check_integer("seed", seed, 0, MAX_SEED))
        batch = () if num_prompts is None else (check_integer("num_prompts", num_prompts, 1, MAX_PROMPTS),)
        size = (batch or (1,))[0] * space.num_responses**2
        if size > MAX_NUMBERS:
            hint = "Use fewer prompts or responses."
            raise ValueError(message("prompts × responses²", f"at most {MAX_NUMBERS}", size, hint))
        reference = Policy.from_logits(space.log_probs(random_logits(rng, batch, space)))
        reward = deviation * rng.standard_normal(reference.log_probs.shape)
        return cls(space, reference, reward, np.full(batch, 1.0 / batch[0]) if batch else None, rng)

    def optimum(self, beta: float) -> Policy:
        """Return π_ref e^{r/β}/Z, which maximises E r − β KL(π‖π_ref).

        Raises:
            ValueError: if β ≤ 0, or if it is so small that r/β overflows.
        """
        with np.errstate(over="ignore"):
            gain = self.reward / check_number("beta", beta, POSITIVE)
        if not np.all(np.isfinite(gain)):
            raise ValueError(message("beta", "large enough for r/β to be finite", beta))
        return Policy.from_logits(self.reference.log_probs + gain)


def classes(num_classes: int) -> Categorical:
    """Return a space of so many classes."""
    return Categorical(check_integer("num_classes", num_classes, 1, MAX_CLASSES))


def space_of(num_classes: int | None, vocabulary: int | None, max_length: int | None) -> Space:
    """Return K classes, 32 unless given, or the sequences of a vocabulary up to a length.

    Raises:
        ValueError: if both are described, or sequences by halves.
    """
    if vocabulary is None and max_length is None:
        return classes(32 if num_classes is None else num_classes)
    if vocabulary is None or max_length is None:
        raise ValueError(message("vocabulary and max_length", "given together", f"{vocabulary} and {max_length}"))
    if num_classes is not None:
        got = f"{num_classes} and {vocabulary}"
        raise ValueError(message("num_classes and vocabulary", "given one at a time", got))
    return Sequences(vocabulary, max_length)
