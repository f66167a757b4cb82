"""Exercise 10 (lesson 5): where SimPO ends, in closed form.

Without a margin, and for responses of one token, SimPO's loss is −log σ(β (log π(chosen) − log
π(rejected))). Pairs are those of the DID construction: chosen ones from π_ref, rejected ones from
π_l ∝ π_ref²/π*. At which policy is the expected loss smallest? It is not the target. β may be as
small as 0.001.

Check it:  didsim teach check ex10_simpo_policy.py
A hint:    didsim teach hint ex10
"""

# exercise: ex10

import numpy as np


def simpo_policy(reference, target, beta):
    """Return the policy at which SimPO without a margin is stationary, [K]."""
    raise NotImplementedError  # your code here: about three lines
