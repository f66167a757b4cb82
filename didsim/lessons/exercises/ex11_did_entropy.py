"""Exercise 11 (lesson 6): the entropy of the DID, when τ smooths and when it reinforces.

The reference is softmax(θ), the target softmax(θ/τ): τ > 1 smooths, τ < 1 reinforces. Return the
entropy, in nats, of the DID from reference to target. τ may be as small as 0.001. (Then look: at
which τ is it largest? Does it tell smoothing from reinforcing?)

Check it:  didsim teach check ex11_did_entropy.py
A hint:    didsim teach hint ex11
"""

# exercise: ex11

import numpy as np


def did_entropy(logits, tau):
    """Return the entropy, in nats, of the DID from softmax(logits) to softmax(logits/τ)."""
    raise NotImplementedError  # your code here: about four lines
