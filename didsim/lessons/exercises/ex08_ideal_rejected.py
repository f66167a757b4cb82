"""Exercise 8 (lesson 4): the ideal rejected distribution.

Chosen responses are drawn from π_ref, rejected ones from π_l. For which π_l is DPO's expected
loss at this β smallest at the target π*? Find it on paper (the labels' log-odds must equal β
times the margin of log π*/π_ref), then return it. β may be as large as 200.

Check it:  didsim teach check ex08_ideal_rejected.py
A hint:    didsim teach hint ex08
"""

# exercise: ex08

import numpy as np


def ideal_rejected(reference, target, beta):
    """Return the distribution of rejected responses, [K], for which DPO at this β ends at the target."""
    raise NotImplementedError  # your code here: about three lines
