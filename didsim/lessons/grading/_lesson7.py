"""Exercise of lesson 7 in numpy: mutual information of prompt and response."""

import numpy as np

from didsim.lessons.grading._exercise import Exercise, Inputs, Slip
from didsim.lessons.grading._inputs import probabilities, size


def mutual_information(policy, prompts):
    """Return I(prompt; response) in nats of a policy, [X, K], for prompts of these probabilities, [X]."""
    joint = prompts[:, None] * policy
    independent = prompts[:, None] * joint.sum(axis=0)[None, :]
    occurs = joint > 0
    return np.sum(joint[occurs] * np.log(joint[occurs] / independent[occurs]))


def _draw_mutual(rng: np.random.Generator) -> Inputs:
    classes, prompts = size(rng), int(rng.integers(2, 4))
    policy = np.stack([probabilities(rng, classes) for _ in range(prompts)])
    return {"policy": policy, "prompts": probabilities(rng, prompts)}


def _equal_prompts(policy, prompts):
    return np.sum(prompts[:, None] * policy * np.log(policy / policy.mean(axis=0)))


def _unweighted(policy, prompts):
    return np.sum(policy * np.log(policy / (prompts @ policy)))


def _marginal_entropy(policy, prompts):
    marginal = prompts @ policy
    return -np.sum(marginal * np.log(marginal))


def _plain_mutual(policy, prompts):
    return np.sum(prompts[:, None] * policy * np.log(policy / (prompts @ policy)))


MUTUAL_INFORMATION = Exercise(
    "ex13",
    7,
    "mutual information: how much a response says about its prompt",
    mutual_information,
    draw=_draw_mutual,
    extremes={
        "every prompt has the same policy: the response says nothing": {
            "policy": np.array([[0.2, 0.8], [0.2, 0.8]]),
            "prompts": np.array([0.25, 0.75]),
        },
        "each prompt has a response of its own: the response says all, H(prompt)": {
            "policy": np.array([[1.0, 0.0], [0.0, 1.0]]),
            "prompts": np.array([0.25, 0.75]),
        },
        "a response that nobody gives": {
            "policy": np.array([[0.5, 0.5, 0.0], [0.1, 0.9, 0.0]]),
            "prompts": np.array([0.5, 0.5]),
        },
        "a prompt that nobody asks": {
            "policy": np.array([[0.5, 0.5], [0.1, 0.9]]),
            "prompts": np.array([1.0, 0.0]),
        },
    },
    hints=(
        "The pointwise mutual information is log π(y|x) − log π(y), with the marginal π(y) = Σ_x p(x) π(y|x). The "
        "mutual information is its expectation, over prompts and responses.",
        "Weigh each pair (x, y) with p(x) π(y|x). The marginal is weighted with p(x) too: it is no plain mean.",
        "Pairs that never occur add 0: select those with p(x) π(y|x) > 0 by a mask before you take a logarithm.",
    ),
    slips=(
        Slip("The marginal is a plain mean over prompts. Weigh them: π(y) = Σ_x p(x) π(y|x).", _equal_prompts),
        Slip("The divergences are added up over prompts; weigh them with p(x).", _unweighted),
        Slip("This is the entropy of the marginal; subtract the mean entropy given the prompt.", _marginal_entropy),
        Slip(
            "This is in bits. Nats need the natural logarithm, np.log.",
            lambda policy, prompts: mutual_information(policy, prompts) / np.log(2.0),
        ),
        Slip("0 · log 0 is nan in floating point. Pairs that never occur add 0: leave them out.", _plain_mutual),
    ),
)

EXERCISES = (MUTUAL_INFORMATION,)
