"""Worlds: preference problems whose truth is known, among them those that DPO was not made for.

Each is a function that returns a `Problem`; `WORLDS` names them all, with what they are and where they come from.

>>> problem = bradley_terry(num_classes=8, beta=0.5)
>>> problem.num_classes, problem.pairs.shape
(8, (8, 8))
"""

from didsim.worlds._finite import draw_finite, finite_data
from didsim.worlds._independent import did
from didsim.worlds._labelled import boilerplate, bradley_terry, labelled_pairs, length_bias, suboptimal_reference, ties
from didsim.worlds._matches import distinct_pairs, win_rate
from didsim.worlds._non_transitive import intransitivity, nash_policy, non_transitive
from didsim.worlds._registry import WORLDS, World
from didsim.worlds._restricted import best_in_class, restricted

__all__ = [
    "WORLDS",
    "World",
    "best_in_class",
    "boilerplate",
    "bradley_terry",
    "did",
    "distinct_pairs",
    "draw_finite",
    "finite_data",
    "intransitivity",
    "labelled_pairs",
    "length_bias",
    "nash_policy",
    "non_transitive",
    "restricted",
    "suboptimal_reference",
    "ties",
    "win_rate",
]
