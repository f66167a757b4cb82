"""Exercise 3 (lesson 2): the policy that maximises reward minus β KL.

Among all policies one maximises E_π[r(y)] − β KL(π‖π_ref). Find it on paper, then return it.
Rewards may be in the thousands and β as small as 0.001; π_ref may be 0 for some responses.

Check it:  didsim teach check ex03_optimal_policy.py
A hint:    didsim teach hint ex03
"""

# exercise: ex03

import numpy as np


def optimal_policy(reference, reward, beta):
    """Return the policy π, [K], that maximises E_π[r] − β KL(π‖π_ref)."""
    raise NotImplementedError  # your code here: about three lines
