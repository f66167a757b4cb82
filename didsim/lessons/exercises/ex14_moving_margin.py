"""Exercise 14 (lesson 7): α-DPO's margin, a prior that moves behind a stopped gradient.

SimPO asks every pair for the margin γ. α-DPO asks for more where the policy has moved from π_ref
already, which is as if the prior were ∝ (π/π_ref)^α. For responses of one token, and without its
z-scores, its loss is

    −log σ( β (log π(chosen) − log π(rejected)) − sg[γ + α m] ),    m = β times DPO's margin of log π/π_ref,

where sg[·] is a constant to the gradient. All log-probabilities are torch tensors, [B]; your loss
and its gradient by both log π are checked.

Check it:  didsim teach check ex14_moving_margin.py
A hint:    didsim teach hint ex14
"""

# exercise: ex14

import torch


def moving_margin_loss(log_pi_chosen, log_pi_rejected, log_ref_chosen, log_ref_rejected, beta, gamma, alpha):
    """Return the loss of each pair, a tensor [B]."""
    raise NotImplementedError  # your code here: about three lines
