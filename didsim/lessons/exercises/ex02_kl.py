"""Exercise 2 (lesson 1): KL divergence with zero probabilities.

KL(p‖q) = Σ_y p(y) log(p(y)/q(y)), in nats. Two conventions belong to it: a response with p(y) = 0
adds nothing, whatever q(y) is; and a response with p(y) > 0 and q(y) = 0 makes the divergence
infinite (return np.inf, not a large number).

Check it:  didsim teach check ex02_kl.py
A hint:    didsim teach hint ex02
"""

# exercise: ex02

import numpy as np


def kl(p, q):
    """Return KL(p‖q) in nats of two distributions, [K] each, some of whose probabilities may be 0."""
    raise NotImplementedError  # your code here: two or three lines
