"""The baseline: one run at a time, written as a researcher would write it for the paper's Colab.

It shares no code with didsim, so it is also an independent check of the engine.
"""

import torch
import torch.nn.functional as F


def loss_per_pair(name, lp_w, lp_l, ref_w, ref_l, h):
    if name == "dpo":
        return -F.logsigmoid(h["beta"] * ((lp_w - ref_w) - (lp_l - ref_l)))
    if name == "slic":
        return torch.relu(h["delta"] - lp_w + lp_l) - h["lam"] * lp_w
    if name == "orpo":
        log_odds = (lp_w - lp_l) - (torch.log1p(-torch.exp(lp_w)) - torch.log1p(-torch.exp(lp_l)))
        return -lp_w - h["lam"] * F.logsigmoid(log_odds)
    if name == "simpo":
        return -F.logsigmoid(h["beta"] * (lp_w - lp_l) - h["gamma"])
    if name == "cal_dpo":
        hw, hl = lp_w - ref_w, lp_l - ref_l
        return -F.logsigmoid(hw - hl) + (hw - 0.5 / h["beta"]) ** 2 + (hl + 0.5 / h["beta"]) ** 2
    raise ValueError(name)


def js(p, q):
    m = (p + q) / 2
    return 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()


def train(name, hyperparameters, theta_ref, tau, steps, batch_size=512, lr=1e-3, seed=42, record_every=100):
    """Train one policy; return the recorded JS(π*‖π) and the final logits."""
    torch.manual_seed(seed)
    theta_star = theta_ref / tau
    pi_ref = theta_ref.softmax(0)
    pi_star = theta_star.softmax(0)
    pi_l = (2 * theta_ref - theta_star).softmax(0)
    log_ref = theta_ref.log_softmax(0)

    theta = theta_ref.clone().requires_grad_(True)
    optimiser = torch.optim.RMSprop([theta], lr=lr)
    record = []
    for step in range(1, steps + 1):
        w = torch.multinomial(pi_ref, batch_size, replacement=True)
        l = torch.multinomial(pi_l, batch_size, replacement=True)  # noqa: E741 - the paper's letter
        lp = theta.log_softmax(0)
        loss = loss_per_pair(name, lp[w], lp[l], log_ref[w], log_ref[l], hyperparameters).mean()
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_([theta], 1.0)
        optimiser.step()
        if step % record_every == 0:
            with torch.no_grad():
                record.append(js(pi_star, theta.softmax(0)).item())
    return record, theta.detach()
