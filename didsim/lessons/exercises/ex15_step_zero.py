"""Exercise 15 (lesson 8): two checks before the first step of training.

You get a loss of one pair, loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected,
beta), that claims to be DPO's. At π = π_ref, where training starts, DPO's loss is log 2 whatever
β is, and its slope by log_pi_chosen is −β/2. Return whether each of the two is true, as two truth
values. You may only call the loss: find the slope by a small step.

Check it:  didsim teach check ex15_step_zero.py
A hint:    didsim teach hint ex15
"""

# exercise: ex15

import numpy as np


def step_zero(loss, log_ref_chosen, log_ref_rejected, beta):
    """Return two truth values about a loss at π = π_ref: is it log 2, and is its slope by log_pi_chosen −β/2?"""
    raise NotImplementedError  # your code here: about four lines
