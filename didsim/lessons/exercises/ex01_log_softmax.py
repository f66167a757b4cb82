"""Exercise 1 (lesson 1): a log-softmax that no logit can break.

A softmax policy with logits θ gives response i the probability π(i) = exp θ_i / Σ_j exp θ_j.
Return all log π(i).

Your function must survive logits of 1000, of −1000 and of −∞ (a response that is excluded), and
keep its digits: where π(i) is far below the smallest floating-point number, log π(i) is still an
ordinary number.

Check it:  didsim teach check ex01_log_softmax.py
A hint:    didsim teach hint ex01
"""

# exercise: ex01

import numpy as np


def log_softmax(logits):
    """Return log π, [K], of the policy with these logits, [K]."""
    raise NotImplementedError  # your code here: about two lines
