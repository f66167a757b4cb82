"""Exercise 5 (lesson 3): the DPO loss, safe at any margin.

DPO's implicit reward of a response is β (log π(y) − log π_ref(y)). By Bradley–Terry the chosen
response beats the rejected one with probability σ(reward_chosen − reward_rejected), σ(x) = 1/(1 +
exp(−x)). The loss is minus the logarithm of that probability. It must be right for pairs with
log-probabilities of −9000, too.

Check it:  didsim teach check ex05_dpo_loss.py
A hint:    didsim teach hint ex05
"""

# exercise: ex05

import numpy as np


def dpo_loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta):
    """Return the DPO loss of each pair, [B], from log-probabilities, [B] each."""
    raise NotImplementedError  # your code here: about two lines
