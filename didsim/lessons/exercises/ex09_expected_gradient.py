"""Exercise 9 (lesson 5): is the DID construction stationary at the target? The gradient by hand.

Chosen responses i are drawn from π_ref, rejected ones j from π_l, independently. The expected DPO
loss is Σ_ij π_ref(i) π_l(j) [−log σ(β m_ij)], with m_ij = log π(i)/π_ref(i) − log π(j)/π_ref(j).
Return its gradient by the logits θ of π = softmax(θ). Exercise 6 has the pull of one pair. At π =
π*, with the π_l of exercise 8, it must vanish.

Check it:  didsim teach check ex09_expected_gradient.py
A hint:    didsim teach hint ex09
"""

# exercise: ex09

import numpy as np


def expected_gradient(policy, reference, rejected, beta):
    """Return the gradient of the expected DPO loss by the policy's logits, [K]."""
    raise NotImplementedError  # your code here: about four lines
