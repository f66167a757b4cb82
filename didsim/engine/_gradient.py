"""Gradients of expected losses with respect to the logits of many runs at once.

`plain_losses` is the definition: the shared composition applied to every weighted pair, and automatic
differentiation through it. `fused_gradient` gives the same numbers faster: since the loss separates, only
the link's slope is needed on the K × K table, and everything else lives on the K classes.
"""

from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from didsim.engine._weights import Weights
from didsim.objectives import BoundObjective, Responses


@dataclass(frozen=True)
class Group:
    """Runs that share one objective and its named options, so that one call serves them all.

    Attributes:
        loss: the objective, its numbers stacked to tensors [R, 1, 1].
        rows: where these runs stand in the batch.
        streams: which stream of pairs each of them sees, int64 [R].
        log_ref: log π_ref of each run, [R, K, 1].
        length: the length of each response; 1 for a single categorical draw, [R, K, 1].
    """

    loss: BoundObjective
    rows: slice
    streams: Tensor
    log_ref: Tensor
    length: Tensor

    def responses(self, log_pi: Tensor) -> Responses:
        """Return the K responses of each of these runs, given their log π, [R, K, 1]."""
        return Responses(log_pi, self.log_ref, self.length)


def plain_losses(group: Group, log_pi: Tensor, weights: Weights) -> Tensor:
    """Return the expected loss of each run of a group, [R], differentiable in their log π [R, K, 1]."""
    pairs = weights.pairs(group.responses(log_pi), group.streams)
    assert pairs.weights is not None  # both kinds of weights give them
    weighted = torch.where(pairs.weights > 0, pairs.weights * group.loss(pairs), 0.0)
    return weighted.flatten(1).sum(1)


def plain_gradient(groups: list[Group], logits: Tensor, weights: Weights) -> Tensor:
    """Return d loss / d logits of every run, [R, K], by automatic differentiation of `plain_losses`."""
    leaf = logits.detach().requires_grad_()
    log_pi = torch.log_softmax(leaf, dim=1).unsqueeze(-1)
    total = torch.stack([plain_losses(group, log_pi[group.rows], weights).sum() for group in groups]).sum()
    return torch.autograd.grad(total, leaf)[0]


@torch.no_grad()
def fused_gradient(groups: list[Group], logits: Tensor, weights: Weights) -> Tensor:
    """Return d loss / d logits of every run, [R, K], from slopes on pairs and on classes."""
    log_pi = torch.log_softmax(logits, dim=1)
    columns = log_pi.unsqueeze(-1)
    by_log_pi = torch.cat([_by_log_pi(group, group.responses(columns[group.rows]), weights) for group in groups])
    by_log_pi = by_log_pi.squeeze(-1)
    # log π = θ − log Σ e^θ, hence d/dθ = d/d log π − π · Σ d/d log π
    return by_log_pi.addcmul_(log_pi.exp_(), by_log_pi.sum(dim=1, keepdim=True), value=-1.0)


def _by_log_pi(group: Group, responses: Responses, weights: Weights) -> Tensor:
    """Return the derivative of the expected loss of each run by log π of each class, [R, K, 1]."""
    loss, record, terms = group.loss, group.loss.objective, []
    if record.score is not None:
        slopes = weights.slope_sums(loss, loss.score(responses), group.streams)
        terms.append(loss.pull_back(record.score, responses, slopes))
    if record.chosen_anchor is not None:
        terms.append(loss.pull_back(record.chosen_anchor, responses, weights.chosen(group.streams)))
    if record.rejected_anchor is not None:
        terms.append(loss.pull_back(record.rejected_anchor, responses, weights.rejected(group.streams)))
    return reduce(torch.add, terms)
