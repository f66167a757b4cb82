"""Exercise 7 (lesson 4): the differential information distribution.

Which distribution q, multiplied onto π_ref and normalised, gives π? It is the differential
information distribution (DID) from π_ref to π. Return it. Where π and π_ref both exclude a
response, q = 0; π never has one that π_ref excludes.

Check it:  didsim teach check ex07_did.py
A hint:    didsim teach hint ex07
"""

# exercise: ex07

import numpy as np


def did(policy, reference):
    """Return the DID from π_ref to π, [K]."""
    raise NotImplementedError  # your code here: about three lines
