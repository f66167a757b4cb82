"""The zoo of wrong implementations: given the mistake, predict the curve; given the curve, name the mistake."""

from collections.abc import Mapping

from didsim.lessons.grading._exercise import Quiz

MISTAKES: Mapping[str, str] = {
    "no mistake": "DPO as it should be: the distance falls to 0 and the loss begins at log 2 = 0.693.",
    "flipped margin": "The loss is that of a healthy run, digit for digit: pairs turned round are as easy to learn. "
    "Only the distance and the margin, which falls, say that the wrong thing is learnt.",
    "negated loss": "The loss begins at −log 2 and falls without end: nothing bounds −(−log σ) from below.",
    "β twice": "The loss begins at log 2 and falls, more slowly. The policy passes the target by and ends at "
    "π_ref (π*/π_ref)^{1/β}, with a margin 1/β times too large: the distance falls, then rises.",
    "lost reference": "The loss does not begin at log 2, since log π(y_w) − log π(y_l) is not 0 at the start. The end "
    "is the DID, not the target: the distance falls and stays above 0.",
    "detached margin": "Nothing moves: the gradient is stopped. Distance, loss and margin stay where they are.",
    "wrong log base": "The loss begins at 1 = log₂ 2. It is DPO's loss times 1.44, with the same minimum: the distance "
    "falls to 0.",
    "noisy labels": "The loss begins at log 2 and stays close to it, since no margin can please labels that contradict "
    "each other. The margin ends too small: the distance falls and stays above 0.",
    "moving reference": "The loss stays at log 2: the policy is compared with itself. Every step is a first step, the "
    "margin grows without end, and the policy passes the target by.",
    "swapped halfway": "The loss leaps up halfway and falls again, while the distance, which was nearly 0, rises.",
}
"""The mistakes, each with what gives it away."""

CURVES: Mapping[str, str] = dict(
    zip(
        "ABCDEFGHIJ",
        (
            *("wrong log base", "moving reference", "no mistake", "noisy labels", "negated loss"),
            *("swapped halfway", "lost reference", "flipped margin", "detached margin", "β twice"),
        ),
        strict=True,
    )
)
"""Which run is drawn under which letter."""

_LOOKS = {
    **dict.fromkeys(("wrong log base", "negated loss", "lost reference"), "Look at where its loss begins."),
    **dict.fromkeys(("moving reference", "detached margin"), "Look at its loss and its margin together."),
    **dict.fromkeys(("no mistake", "flipped margin"), "Look at the signs: of the margin, and of the distance's slope."),
    **dict.fromkeys(("noisy labels", "β twice"), "Look at how large its margin becomes, beside that of the others."),
    "swapped halfway": "Look at the middle of the run.",
}

ZOO_NAMES = Quiz(
    "ex18",
    8,
    "the zoo: given the curve, name the mistake",
    answers=CURVES,
    choices=dict.fromkeys(CURVES, tuple(MISTAKES)),
    reasons={letter: f"{name}. {MISTAKES[name]}" for letter, name in CURVES.items()},
    hints=(
        "Begin with the loss at step 0. At π = π_ref DPO's margin is 0, so that its loss is log 2 = 0.693 whatever β "
        "is. Which curves begin elsewhere?",
        "Then look for what does not move, and for what never stops moving. A loss that does not fall while the policy "
        "moves is compared with the wrong thing.",
        "Of the rest, compare the margins at the end with that of the run without a mistake: too small, too large, "
        "negative?",
    ),
    looks={letter: _LOOKS[name] for letter, name in CURVES.items()},
)

DISTANCES = ("falls to 0", "falls and stays above 0", "falls, then rises", "rises", "stays")
LOSSES = ("begins at log 2 and falls", "stays at log 2", "begins elsewhere and stays above 0", "falls below 0")

_DISTANCE_OF = {
    "flipped margin": "rises",
    "β twice": "falls, then rises",
    "lost reference": "falls and stays above 0",
    "detached margin": "stays",
    "wrong log base": "falls to 0",
    "noisy labels": "falls and stays above 0",
    "moving reference": "falls, then rises",
}
_LOSS_OF = {
    "flipped margin": "begins at log 2 and falls",
    "negated loss": "falls below 0",
    "lost reference": "begins elsewhere and stays above 0",
    "wrong log base": "begins elsewhere and stays above 0",
    "moving reference": "stays at log 2",
}


def _questions(of_distance: Mapping[str, str], of_loss: Mapping[str, str]) -> dict[str, str]:
    """Name the questions: the mistake, and which curve."""
    distances = {f"{name}: distance": value for name, value in of_distance.items()}
    return {**distances, **{f"{name}: loss": value for name, value in of_loss.items()}}


ZOO_CURVES = Quiz(
    "ex17",
    8,
    "the zoo: given the mistake, predict the curve",
    answers=_questions(_DISTANCE_OF, _LOSS_OF),
    choices={
        question: DISTANCES if question.endswith("distance") else LOSSES
        for question in _questions(_DISTANCE_OF, _LOSS_OF)
    },
    reasons=_questions(
        {name: f"{value}. {MISTAKES[name]}" for name, value in _DISTANCE_OF.items()},
        {name: f"{value}. {MISTAKES[name]}" for name, value in _LOSS_OF.items()},
    ),
    hints=(
        "For the loss, evaluate it at π = π_ref first. Then ask what one gradient step does to it.",
        "For the distance, ask where the gradient vanishes: at the target, at another policy, everywhere, or nowhere?",
        "A policy that ends beyond the target has passed it by: on its way the distance falls, and later it rises.",
    ),
    looks=_questions(
        dict.fromkeys(_DISTANCE_OF, "Where does the gradient vanish, and does the policy pass the target on its way?"),
        dict.fromkeys(_LOSS_OF, "What is the loss at π = π_ref, and what does one gradient step do to it?"),
    ),
)

EXERCISES = (ZOO_CURVES, ZOO_NAMES)
