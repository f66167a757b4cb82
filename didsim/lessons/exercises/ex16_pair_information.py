"""Exercise 16 (lesson 8): finite data, how much one pair says about the scores.

A pair is made of a response drawn from `chosen`, w, and one from `rejected`, l. Seen from i and
j: they are compared with probability ν_ij = w_i l_j + w_j l_i, and i then wins with probability
p_ij = w_i l_j/ν_ij. The Fisher information of one pair about the scores is Σ_{i<j} ν_ij p_ij (1 −
p_ij) (e_i − e_j)(e_i − e_j)ᵀ. With n pairs the errors of the scores shrink like its inverse over
n. A response may have w_i = 0, l_i = 0 or both.

Check it:  didsim teach check ex16_pair_information.py
A hint:    didsim teach hint ex16
"""

# exercise: ex16

import numpy as np


def pair_information(chosen, rejected):
    """Return the Fisher information, [K, K], of one pair about the scores."""
    raise NotImplementedError  # your code here: about six lines
