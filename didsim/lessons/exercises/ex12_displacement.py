"""Exercise 12 (lesson 6): displacement, by how much chosen and rejected responses fall.

DPO has gone from π_ref to the target π*. Chosen responses had been drawn from π_ref, rejected
ones from π_l ∝ π_ref²/π*. Return two numbers: the expected change of log π of chosen responses,
and that of rejected ones. Guess the sign of the first before you compute it.

Check it:  didsim teach check ex12_displacement.py
A hint:    didsim teach hint ex12
"""

# exercise: ex12

import numpy as np


def displacement(reference, target):
    """Return two numbers: the expected change of log π, in nats, of chosen and of rejected responses."""
    raise NotImplementedError  # your code here: about four lines
