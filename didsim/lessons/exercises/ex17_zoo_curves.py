"""Exercise 17 (lesson 8): the zoo. Given the mistake, predict the curve.

Each mistake is made in DPO's loss, and a policy is trained from π_ref by gradient descent on the expected loss: eight
responses, β = 0.5, a target that reinforces π_ref, pairs of the DID construction, 200 steps. What becomes of the
distance JS(π*‖π) to the target, and of the loss that the wrong code reports?

    flipped margin    chosen and rejected are exchanged in the margin
    negated loss      log σ in the place of −log σ
    β twice           the rewards are multiplied by β, and then again
    lost reference    log π_ref is left out
    detached margin   the gradient of the margin is stopped
    wrong log base    log₂ σ in the place of log σ
    noisy labels      three labels of ten are wrong
    moving reference  π_ref is replaced by a copy of π before every step

Write one of these into each pair of quotes, for a distance

    falls to 0
    falls and stays above 0
    falls, then rises
    rises
    stays

and for a loss

    begins at log 2 and falls
    stays at log 2
    begins elsewhere and stays above 0
    falls below 0

Check it:  didsim teach check ex17_zoo_curves.py
A hint:    didsim teach hint ex17
"""

# exercise: ex17

ANSWERS = {
    "flipped margin: distance": "",
    "β twice: distance": "",
    "lost reference: distance": "",
    "detached margin: distance": "",
    "wrong log base: distance": "",
    "noisy labels: distance": "",
    "moving reference: distance": "",
    "flipped margin: loss": "",
    "negated loss: loss": "",
    "lost reference: loss": "",
    "wrong log base: loss": "",
    "moving reference: loss": "",
}
