"""What is recorded during training: exact quantities of the current policies, in float64 and nats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim._numerics import expectation
from didsim.differential import did
from didsim.engine._gradient import Group, plain_losses
from didsim.engine._weights import TableWeights
from didsim.info import entropy, js, kl, mutual_information
from didsim.policy import Policy
from didsim.torch_bridge import finite_log, to_array

TABLE_METRICS = frozenset({"loss", "accuracy"})
"""Metrics that sum over all K² pairs."""


@dataclass(frozen=True)
class Truth:
    """What the current policies of R runs are compared with; every policy is a batch [R, X, K].

    Attributes:
        prompts: the weights p(x) of the prompts, [R, X].
        reference: π_ref.
        target: π*.
        did: q_{π*/π_ref}.
        chosen: the distribution of chosen responses.
        rejected: the distribution of rejected responses.
        groups: the runs by objective, in float64, with tables of pairs.
        weights: the weights of the pairs that are trained on in expectation: the population's, or the
            dataset's.
    """

    prompts: FloatArray
    reference: Policy
    target: Policy
    did: Policy
    chosen: Policy
    rejected: Policy
    groups: list[Group]
    weights: TableWeights | None


@dataclass(frozen=True)
class State:
    """The current policies [R, X, K] and the parameters that make them, float64 [R, D + companions]."""

    policy: Policy
    parameters: Tensor


Metric = Callable[[Truth, State], FloatArray]


def _mean(truth: Truth, by_prompt: FloatArray) -> FloatArray:
    """Average a quantity of each prompt, [R, X]."""
    return expectation(truth.prompts, by_prompt)


def _expected_loss(truth: Truth, state: State) -> FloatArray:
    weights = _weights(truth)
    losses = [plain_losses(group, state.parameters[group.runs], weights) for group in truth.groups]
    return to_array(torch.cat(losses))


def _accuracy(truth: Truth, state: State) -> FloatArray:
    """Return the probability that the implicit reward ranks a pair as labelled; a tie counts one half."""
    accuracies = []
    for group in truth.groups:
        pairs = _weights(truth).pairs(group.snapshot(state.parameters[group.runs]), group.streams)
        reward = group.loss.implicit_reward
        ranked = 0.5 * (1.0 + torch.sign(reward(pairs.chosen) - reward(pairs.rejected)))
        assert pairs.weights is not None  # a table gives them
        num_runs = group.runs.stop - group.runs.start
        accuracies.append((ranked * pairs.weights).reshape(num_runs, -1).sum(1))
    return to_array(torch.cat(accuracies))


def _weights(truth: Truth) -> TableWeights:
    assert truth.weights is not None  # built whenever a table metric is asked for
    return truth.weights


def _margin(truth: Truth, state: State) -> FloatArray:
    log_ratio = finite_log(state.policy.log_probs) - finite_log(truth.reference.log_probs)
    return _mean(truth, expectation(truth.chosen.probs, log_ratio) - expectation(truth.rejected.probs, log_ratio))


def _log_likelihood(truth: Truth, responses: Policy, state: State) -> FloatArray:
    return _mean(truth, expectation(responses.probs, state.policy.log_probs))


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "loss": _expected_loss,
        "js_target": lambda truth, state: _mean(truth, js(truth.target, state.policy)),
        "js_did": lambda truth, state: _mean(truth, js(truth.did, state.policy)),
        "kl_target_policy": lambda truth, state: _mean(truth, kl(truth.target, state.policy)),
        "kl_policy_target": lambda truth, state: _mean(truth, kl(state.policy, truth.target)),
        "log_pi_chosen": lambda truth, state: _log_likelihood(truth, truth.chosen, state),
        "log_pi_rejected": lambda truth, state: _log_likelihood(truth, truth.rejected, state),
        "margin": _margin,
        "accuracy": _accuracy,
        "did_entropy": lambda truth, state: _mean(truth, entropy(did(state.policy, truth.reference))),
        "mutual_information": lambda truth, state: mutual_information(state.policy, truth.prompts),
    }
)
"""Every recorded quantity, by name; with prompts, its mean over them by their weights.

`loss`: the expected loss, over the problem's pairs, or over the dataset when one is trained on; `accuracy` likewise;
all others refer to the problem. `js_target`, `js_did`: JS(π*‖π), JS(q‖π). `kl_target_policy`, `kl_policy_target`:
KL(π*‖π), KL(π‖π*). `log_pi_chosen`, `log_pi_rejected`: E log π(y_w), E log π(y_l). `margin`: the mean
log-ratio margin E[h_w − h_l]. `accuracy`: how often the implicit reward ranks a pair as labelled.
`did_entropy`: H(q_{π/π_ref}) of the current policy. `mutual_information`: I(prompt; response), 0 without prompts.
"""
