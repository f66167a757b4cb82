"""Gradients of expected losses with respect to the parameters of many runs at once.

`plain_losses` is the definition: the shared composition applied to every weighted pair, and automatic
differentiation through it and through the policy. `fused_gradient` gives the same numbers faster where the loss sees
whole responses only and the parameters are logits of classes: then only the link's slope is needed on the K × K table,
and everything else lives on the K classes.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial, reduce

import torch
from torch import Tensor

from didsim.engine._policies import COMPANIONS, PolicyClass, Snapshot
from didsim.engine._product import ProductWeights
from didsim.engine._separable import separable_losses
from didsim.engine._weights import Streams, Weights
from didsim.objectives import BoundObjective, Responses


@dataclass(frozen=True)
class Group:
    """Runs that share one objective and its named options, so that one call serves them all.

    A run has one row in the batch, or with tables of pairs one for each prompt.

    Attributes:
        loss: the objective, its numbers stacked to tensors [L, 1, 1], one for each row.
        policies: the policy classes of the runs.
        runs: where these runs stand in the batch.
        rows: where their rows stand.
        streams: which pairs each row sees.
        log_ref: log π_ref of each response of a row, [L, K, 1].
        length: the length of each response, [L, K, 1].
    """

    loss: BoundObjective
    policies: PolicyClass
    runs: slice
    rows: slice
    streams: Streams
    log_ref: Tensor
    length: Tensor

    def take(self, runs: Tensor) -> "Group":
        """Return some of the runs, numbered within the group, as a group of their own."""
        per_run = len(self.log_ref) // len(self.policies.next_log_ref)
        rows = (runs[:, None] * per_run + torch.arange(per_run)).flatten()
        return Group(
            loss=self.loss.take(rows),
            policies=self.policies[runs],
            runs=slice(0, len(runs)),
            rows=slice(0, len(rows)),
            streams=Streams(self.streams.index[rows], None),
            log_ref=self.log_ref[rows],
            length=self.length[rows],
        )

    @cached_property
    def is_fused(self) -> bool:
        """Whether `fused_gradient` serves this group."""
        return self.loss.sees_responses_only and self.policies.is_flat

    def responses(self, log_pi: Tensor) -> Responses:
        """Return the responses of each row, given their log π, [L, K, 1]."""
        return Responses(log_pi, self.log_ref, self.length)

    def snapshot(self, parameters: Tensor) -> Snapshot:
        """Return what the losses may see, given the parameters of the runs, [G, D + companions]."""
        end = self.policies.num_parameters
        companions: dict[str, Tensor] = {}
        next_log_pi = self.policies.next_log_pi(parameters[:, :end])
        for name, size in self.companion_sizes:
            companions[name] = parameters[:, end : end + size]
            end += size
        return Snapshot(self.policies, next_log_pi, self.loss.needs, companions)

    @property
    def companion_sizes(self) -> list[tuple[str, int]]:
        """What each run learns beside its policy, and how many numbers that takes, in the order of its parameters."""
        decisions = self.policies.space.num_contexts * self.policies.space.num_actions
        sizes = {"prior": decisions, "masks": 2 * decisions}
        return [(name, sizes[name]) for name in COMPANIONS if name in self.loss.needs]


def plain_losses(group: Group, parameters: Tensor, weights: Weights) -> Tensor:
    """Return the expected loss of each run of a group, [G], differentiable in their parameters [G, D]."""
    pairs = weights.pairs(group.snapshot(parameters), group.streams)
    return _expectation(pairs.weights, group.loss(pairs), len(parameters))


def _expectation(weights: Tensor | None, losses: Tensor, num_runs: int) -> Tensor:
    """Return Σ w·loss of each run, where a pair of weight 0 does not count, even if infinite."""
    assert weights is not None  # all kinds of weights give them
    return torch.where(weights > 0, weights * losses, 0.0).reshape(num_runs, -1).sum(1)


Differentiator = Callable[[Callable[[Tensor], Tensor], Tensor], Tensor]
"""``grad(function, x)``: the gradient of a function with one value."""


def backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the gradient by reverse-mode differentiation: the fastest, but not differentiable itself."""
    leaf = x.detach().requires_grad_()
    return torch.autograd.grad(function(leaf), leaf)[0]


def nested_backward(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return the same gradient in a form that forward-mode differentiation goes through."""
    return torch.func.grad(function)(x)


def plain_gradient(group: Group, parameters: Tensor, weights: Weights, grad: Differentiator = backward) -> Tensor:
    """Return d loss / d parameters of the runs of a group, [G, D], by automatic differentiation.

    For a gradient rule it is the rule's combination of the gradients of both mean negative log-likelihoods.
    """
    rule = group.loss.objective.gradient_rule
    if rule is None:
        return grad(lambda leaf: plain_losses(group, leaf, weights).sum(), parameters)
    chosen, rejected = (partial(_mean_nll, group, weights, side) for side in (0, 1))
    return rule(grad(chosen, parameters), grad(rejected, parameters))


def _mean_nll(group: Group, weights: Weights, side: int, parameters: Tensor) -> Tensor:
    """Return the mean negative log-likelihood of chosen (0) or rejected (1) responses, added up over the runs."""
    pairs = weights.pairs(group.snapshot(parameters), group.streams)
    log_pi = torch.broadcast_tensors(pairs.chosen.log_pi, pairs.rejected.log_pi)[side]
    return _expectation(pairs.weights, -log_pi, len(parameters)).sum()


def separable_gradient(
    group: Group, parameters: Tensor, weights: ProductWeights, grad: Differentiator = backward
) -> Tensor:
    """Return what `plain_gradient` does, [G, D], for a loss that sees both responses of a pair apart: without a table.

    Raises:
        ValueError: if the margin of the loss is no difference of scores.
    """
    sums = weights.sums(group.loss, group.streams)

    def losses(leaf: Tensor) -> Tensor:
        return separable_losses(group.loss, weights.independent_pairs(group.snapshot(leaf), group.streams), sums)

    return grad(losses, parameters)


@torch.no_grad()
def fused_gradient(groups: list[Group], logits: Tensor, weights: Weights) -> Tensor:
    """Return d loss / d logits of the runs of some groups, [G, X·K], from slopes on pairs and on classes."""
    log_pi = torch.log_softmax(logits.reshape(-1, groups[0].policies.space.num_responses), dim=1)
    columns = log_pi.view(groups[-1].rows.stop, -1, 1)
    parts = [_by_log_pi(group, group.responses(columns[group.rows]), weights) for group in groups]
    by_log_pi = torch.cat(parts).view_as(log_pi)
    # log π = θ − log Σ e^θ, hence d/dθ = d/d log π − π · Σ d/d log π
    return by_log_pi.addcmul_(log_pi.exp_(), by_log_pi.sum(dim=1, keepdim=True), value=-1.0).view_as(logits)


def _by_log_pi(group: Group, responses: Responses, weights: Weights) -> Tensor:
    """Return the derivative of the expected loss of each row by log π of each response, [L, K, 1]."""
    loss, record, terms = group.loss, group.loss.objective, []
    if record.score is not None:
        terms.append(_by_scores(loss, responses, weights, group.streams))
    if record.chosen_anchor is not None:
        terms.append(loss.pull_back(record.chosen_anchor, responses, weights.chosen(group.streams)))
    if record.rejected_anchor is not None:
        terms.append(loss.pull_back(record.rejected_anchor, responses, weights.rejected(group.streams)))
    return reduce(torch.add, terms)


def _by_scores(loss: BoundObjective, responses: Responses, weights: Weights, streams: Streams) -> Tensor:
    record, scores = loss.objective, loss.score(responses)
    assert record.score is not None  # its caller asks
    if record.rejected_score is None:
        chosen, rejected = weights.slope_sums(loss, scores, scores, streams)
        return loss.pull_back(record.score, responses, chosen.sub_(rejected))
    chosen, rejected = weights.slope_sums(loss, scores, loss.rejected_score(responses), streams)
    by_chosen = loss.pull_back(record.score, responses, chosen)
    return by_chosen - loss.pull_back(record.rejected_score, responses, rejected)


def gradient_of(groups: list[Group], parameters: Tensor, weights: Weights) -> Tensor:
    """Return the gradients of all runs, [R, D + companions]: fused where that serves, by differentiation elsewhere.

    Groups stand in the order of their runs, those that are fused first.
    """
    if groups[-1].is_fused:
        return fused_gradient(groups, parameters, weights)
    fused = [group for group in groups if group.is_fused]
    parts = []
    if fused:
        runs, size = slice(0, fused[-1].runs.stop), fused[0].policies.num_parameters
        gradient = fused_gradient(fused, parameters[runs, :size], weights)
        beside = parameters.shape[1] - size
        parts.append(torch.nn.functional.pad(gradient, (0, beside)) if beside else gradient)
    parts += [_differentiated(group, parameters[group.runs], weights) for group in groups[len(fused) :]]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _differentiated(group: Group, parameters: Tensor, weights: Weights) -> Tensor:
    if isinstance(weights, ProductWeights):
        return separable_gradient(group, parameters, weights)
    return plain_gradient(group, parameters, weights)
