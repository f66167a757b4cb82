"""Exercise 6 (lesson 3): how hard a pair pulls, the weight of DPO's gradient.

With the margin m = (log π − log π_ref)(chosen) − (log π − log π_ref)(rejected), DPO's loss is
−log σ(βm). By how much does it fall when log π(chosen) rises by a little? Return −∂loss/∂log
π(chosen). It is positive, it is tiny for pairs that are right already, and even there all of its
digits count.

Check it:  didsim teach check ex06_gradient_weight.py
A hint:    didsim teach hint ex06
"""

# exercise: ex06

import numpy as np


def gradient_weight(margin, beta):
    """Return −∂loss/∂log π(y_chosen) of the DPO loss, [B], from the margins of the log-ratios, [B]."""
    raise NotImplementedError  # your code here: one line
