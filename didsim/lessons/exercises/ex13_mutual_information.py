"""Exercise 13 (lesson 7): mutual information, how much a response says about its prompt.

Prompts x have probabilities p(x), and π(y|x) are the rows of a policy. The mutual information is
the expectation of log π(y|x) − log π(y), where π(y) = Σ_x p(x) π(y|x) is the marginal.
Probabilities may be 0; pairs that never occur add nothing.

Check it:  didsim teach check ex13_mutual_information.py
A hint:    didsim teach hint ex13
"""

# exercise: ex13

import numpy as np


def mutual_information(policy, prompts):
    """Return I(prompt; response) in nats of a policy, [X, K], for prompts of these probabilities, [X]."""
    raise NotImplementedError  # your code here: about four lines
