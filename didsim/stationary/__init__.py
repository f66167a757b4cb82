"""Stationary policies of the population problem, and of finite datasets, each with a certificate."""

from didsim.stationary._likelihood import MaximumLikelihood, maximum_likelihood
from didsim.stationary._rounds import solve_alternating, solve_rounds
from didsim.stationary._solution import Solution
from didsim.stationary._solve import solve, solve_many

__all__ = [
    "MaximumLikelihood",
    "Solution",
    "maximum_likelihood",
    "solve",
    "solve_alternating",
    "solve_many",
    "solve_rounds",
]
