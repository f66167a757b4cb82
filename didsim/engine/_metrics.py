"""What is recorded during training: exact quantities of the current policies, in float64 and nats."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch

from didsim._arrays import FloatArray
from didsim._numerics import expectation
from didsim.differential import did
from didsim.engine._gradient import Group, plain_losses
from didsim.engine._weights import TableWeights
from didsim.info import entropy, js, kl
from didsim.policy import Policy
from didsim.torch_bridge import finite_log, to_array, to_tensor

TABLE_METRICS = frozenset({"loss", "accuracy"})
"""Metrics that sum over all K² pairs."""


@dataclass(frozen=True)
class Truth:
    """What the current policies of R runs are compared with; every policy is a batch [R, K].

    Attributes:
        reference: π_ref.
        target: π*.
        did: q_{π*/π_ref}.
        chosen: the distribution of chosen responses.
        rejected: the distribution of rejected responses.
        groups: the runs by objective, in float64.
        weights: the weights of the pairs that are trained on in expectation: the population's, or the
            dataset's.
    """

    reference: Policy
    target: Policy
    did: Policy
    chosen: Policy
    rejected: Policy
    groups: list[Group]
    weights: TableWeights | None


Metric = Callable[[Truth, Policy], FloatArray]


def _expected_loss(truth: Truth, policy: Policy) -> FloatArray:
    return _by_group(truth, policy, lambda group, log_pi: plain_losses(group, log_pi, _weights(truth)))


def _accuracy(truth: Truth, policy: Policy) -> FloatArray:
    """Return the probability that the implicit reward ranks a pair as labelled; a tie counts one half."""

    def accuracy(group: Group, log_pi: torch.Tensor) -> torch.Tensor:
        reward = group.loss.implicit_reward(group.responses(log_pi))
        ranked = 0.5 * (1.0 + torch.sign(reward - reward.mT))
        return (ranked * _weights(truth).joint.index_select(0, group.streams)).sum((1, 2))

    return _by_group(truth, policy, accuracy)


def _by_group(truth: Truth, policy: Policy, function: Callable[[Group, torch.Tensor], torch.Tensor]) -> FloatArray:
    log_pi = to_tensor(finite_log(policy.log_probs)).unsqueeze(-1)
    return to_array(torch.cat([function(group, log_pi[group.rows]) for group in truth.groups]))


def _weights(truth: Truth) -> TableWeights:
    assert truth.weights is not None  # built whenever a table metric is asked for
    return truth.weights


def _margin(truth: Truth, policy: Policy) -> FloatArray:
    log_ratio = finite_log(policy.log_probs) - finite_log(truth.reference.log_probs)
    return expectation(truth.chosen.probs, log_ratio) - expectation(truth.rejected.probs, log_ratio)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "loss": _expected_loss,
        "js_target": lambda truth, policy: js(truth.target, policy),
        "js_did": lambda truth, policy: js(truth.did, policy),
        "kl_target_policy": lambda truth, policy: kl(truth.target, policy),
        "kl_policy_target": lambda truth, policy: kl(policy, truth.target),
        "log_pi_chosen": lambda truth, policy: expectation(truth.chosen.probs, policy.log_probs),
        "log_pi_rejected": lambda truth, policy: expectation(truth.rejected.probs, policy.log_probs),
        "margin": _margin,
        "accuracy": _accuracy,
        "did_entropy": lambda truth, policy: entropy(did(policy, truth.reference)),
    }
)
"""Every recorded quantity, by name.

`loss`: the expected loss, over the problem's pairs, or over the dataset when one is trained on; `accuracy` likewise;
all others refer to the problem. `js_target`, `js_did`: JS(π*‖π), JS(q‖π). `kl_target_policy`, `kl_policy_target`:
KL(π*‖π), KL(π‖π*). `log_pi_chosen`, `log_pi_rejected`: E log π(y_w), E log π(y_l). `margin`: the mean
log-ratio margin E[h_w − h_l]. `accuracy`: how often the implicit reward ranks a pair as labelled.
`did_entropy`: H(q_{π/π_ref}) of the current policy.
"""
