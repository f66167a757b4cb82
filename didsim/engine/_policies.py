"""How the parameters of many runs make policies, and what losses may see of these."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor

from didsim._arrays import FloatArray
from didsim._checks import message
from didsim.objectives import NextTokens, Responses, Tokens
from didsim.policy import Policy
from didsim.preference import TOKEN_WEIGHTS, Problem
from didsim.spaces import Categorical, Space
from didsim.torch_bridge import finite_log, to_array, to_tensor

COMPANIONS = ("prior", "masks")
"""What may be learned beside the policy: the logits of a prior ζ, [N·A]; token masks, [2·N·A]."""

PRIOR_NEEDS = frozenset({"prior", "given_prior"})
"""The needs that a prior beside the policy meets."""


@dataclass(frozen=True)
class PolicyClass:
    """The policies of G runs on X prompts each, as functions of their parameters [G, D].

    D = X·N·A for a free table of logits, one for each decision; D = d for a log-linear class
    π_w(a|x, c) ∝ π_ref(a|x, c) exp(φ(x, c, a)·w).

    Attributes:
        space: what the K responses are.
        next_log_ref: log π_ref(a|x, c) of each decision, finite, [G, X, N, A].
        excluded: True for decisions that the reference excludes, [G, X, N, A].
        log_prompts: log p(x), [G, X].
        features: φ, [G, X·N·A, d], or None for free policies.
        next_log_prior: log ζ(a|c) of the problems' fixed priors, finite, [G, 1, N, A], uniform where there is none.
        token_weights: numbers of each decision, [G, N·A] each, by the names of `TOKEN_WEIGHTS`.
    """

    space: Space
    next_log_ref: Tensor
    excluded: Tensor
    log_prompts: Tensor
    features: Tensor | None
    next_log_prior: Tensor
    token_weights: Mapping[str, Tensor]

    @classmethod
    def of(cls, problems: Sequence[Problem], dtype: torch.dtype) -> "PolicyClass":
        """Collect the policy classes of problems that agree in space, prompts and number of features."""
        space = problems[0].space

        def table(arrays: Iterable[FloatArray]) -> Tensor:
            return torch.stack([to_tensor(array, dtype) for array in arrays])

        def held(name: str, arrays: Sequence[FloatArray]) -> Tensor:
            """Refuse what the dtype would turn into infinity."""
            largest = max(float(abs(array).max()) for array in arrays)
            if largest > torch.finfo(dtype).max:
                raise ValueError(message(name, f"numbers that {dtype} can hold", largest, 'Use dtype="float64".'))
            return table(arrays)

        features = [problem.features for problem in problems if problem.features is not None]
        named = {name for problem in problems for name in problem.token_weights}
        return cls(
            space=space,
            # normalised as policies are, so that log-ratios are exactly 0 where a policy is its reference
            next_log_ref=torch.log_softmax(table(finite_log(problem.next_log_ref) for problem in problems), dim=-1),
            excluded=torch.stack([to_tensor(problem.next_log_ref).isneginf() for problem in problems]),
            # the logarithm in float64: float32 has no room for a weight of 1e-60
            log_prompts=torch.stack([to_tensor(problem.prompt_weights).log() for problem in problems]).to(dtype),
            features=held("features", [values.reshape(-1, values.shape[-1]) for values in features])
            if features
            else None,
            next_log_prior=table(finite_log(problem.next_log_prior) for problem in problems),
            token_weights={
                name: held(f"token_weights[{name!r}]", [problem.token_weight(name) for problem in problems])
                for name in TOKEN_WEIGHTS
                if name in named
            },
        )

    def __getitem__(self, runs: slice | Tensor) -> "PolicyClass":
        return PolicyClass(
            self.space,
            self.next_log_ref[runs],
            self.excluded[runs],
            self.log_prompts[runs],
            None if self.features is None else self.features[runs],
            self.next_log_prior[runs],
            {name: values[runs] for name, values in self.token_weights.items()},
        )

    @property
    def num_prompts(self) -> int:
        """The number of prompts X."""
        return self.next_log_ref.shape[1]

    @cached_property
    def num_parameters(self) -> int:
        """The number of parameters D of a policy."""
        return math.prod(self.next_log_ref.shape[1:]) if self.features is None else self.features.shape[-1]

    @property
    def is_flat(self) -> bool:
        """Whether the parameters are the logits of classes: free, and one decision each."""
        return self.features is None and isinstance(self.space, Categorical)

    def logits(self, parameters: Tensor) -> Tensor:
        """Return the logits of each decision, [G, X, N, A]."""
        if self.features is None:
            return parameters.reshape(self.next_log_ref.shape)
        change = torch.einsum("gnd,gd->gn", self.features.to(parameters.dtype), parameters)
        return self.next_log_ref + change.reshape(self.next_log_ref.shape)

    def next_log_pi(self, parameters: Tensor) -> Tensor:
        """Return log π(a|x, c) of each decision, [G, X, N, A]."""
        return torch.log_softmax(self.logits(parameters), dim=-1)

    def log_pi(self, next_log_pi: Tensor) -> Tensor:
        """Return log π(y|x) of each response, [G, X, K]."""
        return self.space.log_probs(next_log_pi, torch.concatenate)

    def policies(self, parameters: Tensor) -> Policy:
        """Return the policies in float64, [G, X, K]; what the reference excludes has probability 0."""
        logits = torch.where(self.excluded, -torch.inf, self.logits(parameters))
        decided = Policy.from_logits(to_array(logits))
        return Policy(self.space.log_probs(decided.log_probs))

    @cached_property
    def log_ref(self) -> Tensor:
        """Log π_ref(y|x) of each response, [G, X, K]."""
        return self.log_pi(self.next_log_ref)

    @property
    def paths(self) -> "Paths":
        """The decisions of each response."""
        return paths_of(self.space)


@dataclass(frozen=True)
class Paths:
    """The decisions of each response of a space, as indices: contexts and decisions, [K, T], and lengths [K]."""

    contexts: Tensor
    decisions: Tensor
    lengths: Tensor

    @cached_property
    def mask(self) -> Tensor:
        """True where a response has a decision, [K, T]."""
        return torch.arange(self.contexts.shape[1]) < self.lengths[:, None]


@lru_cache(maxsize=4)
def paths_of(space: Space) -> Paths:
    """Read the decisions off a space, once."""
    contexts = to_tensor(space.contexts)
    return Paths(contexts, contexts * space.num_actions + to_tensor(space.actions), to_tensor(space.lengths))


@dataclass(frozen=True)
class Snapshot:
    """What the losses of a group of G runs may see of their current policies.

    Attributes:
        policies: the policy classes of the runs.
        next_log_pi: log π(a|x, c) of each decision, [G, X, N, A].
        needs: what their objective looks at.
        companions: what is learned beside the policies, by name: "prior" [G, N·A], "masks" [G, 2·N·A].
    """

    policies: PolicyClass
    next_log_pi: Tensor
    needs: frozenset[str]
    companions: Mapping[str, Tensor]

    def every_response(self) -> Responses:
        """Return all responses to each prompt of each run, [G·X, K]."""
        policies, paths = self.policies, self.policies.paths
        log_pi = policies.log_pi(self.next_log_pi)

        def rows(table: Tensor) -> Tensor:
            """Lay out [G, X or 1, …] as [G·X, …]."""
            return table.expand(-1, policies.num_prompts, *table.shape[2:]).flatten(0, 1)

        return Responses(
            log_pi=rows(log_pi),
            log_ref=rows(policies.log_ref),
            length=paths.lengths.to(log_pi.dtype).expand(len(log_pi) * policies.num_prompts, -1),
            tokens=self._tokens(
                paths.mask.expand(len(log_pi) * policies.num_prompts, -1, -1),
                lambda table: rows(table.flatten(2)[..., paths.decisions]),
                lambda table: table.reshape(-1, policies.space.num_contexts)[:, paths.contexts],
                lambda table: table.flatten(0, 1),
            ),
            log_marginal=rows(self._marginal(log_pi)) if "marginal" in self.needs else None,
            log_zeta=rows(policies.log_pi(self._prior)) if PRIOR_NEEDS & self.needs else None,
            mean_kl=rows(self._mean_kl(log_pi)) if "mean_kl" in self.needs else None,
        )

    def drawn_responses(self, drawn: Tensor) -> Responses:
        """Return drawn responses, numbered x·K + y, [G, B]."""
        policies, paths = self.policies, self.policies.paths
        space, (prompts, numbers) = policies.space, _divided(drawn, policies.space.num_responses)
        decisions, contexts, mask = paths.decisions[numbers], paths.contexts[numbers], paths.mask[numbers]

        def pick(table: Tensor) -> Tensor:
            """Take the decisions of the drawn responses from a table [G, X or 1, N, A]."""
            offset = prompts * (space.num_contexts * space.num_actions) if table.shape[1] > 1 else 0 * prompts
            return _taken(table.flatten(1), decisions + offset[..., None])

        def pick_context(table: Tensor) -> Tensor:
            return _taken(table, contexts + (prompts * space.num_contexts)[..., None])

        def total(table: Tensor) -> Tensor:
            return torch.where(mask, pick(table), 0.0).sum(-1)

        def marginal() -> Tensor:
            index = decisions.flatten(1).unsqueeze(1).expand(-1, policies.num_prompts, -1)
            steps = self.next_log_pi.flatten(2).gather(2, index).unflatten(2, mask.shape[1:])
            by_prompt = torch.where(mask.unsqueeze(1), steps, 0.0).sum(-1)
            return torch.logsumexp(by_prompt + policies.log_prompts[:, :, None], dim=1)

        return Responses(
            log_pi=total(self.next_log_pi),
            log_ref=total(policies.next_log_ref),
            length=paths.lengths[numbers].to(self.next_log_pi.dtype),
            tokens=self._tokens(mask, pick, pick_context, lambda table: table.flatten(1, 2)),
            log_marginal=marginal() if "marginal" in self.needs else None,
            log_zeta=total(self._prior) if PRIOR_NEEDS & self.needs else None,
            mean_kl=self._mean_kl(policies.log_pi(self.next_log_pi))[:, 0] if "mean_kl" in self.needs else None,
        )

    def _tokens(
        self,
        mask: Tensor,
        pick: Callable[[Tensor], Tensor],
        pick_context: Callable[[Tensor], Tensor],
        contexts_of: Callable[[Tensor], Tensor],
    ) -> Tokens | None:
        """Return the decisions of responses.

        Args:
            mask: where there is one, [..., T].
            pick: takes them from a table of decisions [G, X or 1, N, A].
            pick_context: takes their contexts from a table in the layout of `contexts_of`.
            contexts_of: lays out the contexts of a table [G, X, N, A] beside the hyperparameters of the group.
        """
        if not {"tokens", "vocabulary"} & self.needs:
            return None
        vocabulary = NextTokens(contexts_of(self.next_log_pi), contexts_of(self.policies.next_log_ref))
        shape = (-1, 1, self.policies.space.num_contexts, self.policies.space.num_actions)
        weights = {name: pick(values.reshape(shape)) for name, values in self._token_weights().items()}
        return Tokens(
            pick(self.next_log_pi),
            mask,
            pick(self.policies.next_log_ref),
            vocabulary.map(pick_context),
            **weights,
        )

    def _token_weights(self) -> Mapping[str, Tensor]:
        if "masks" not in self.needs:
            return self.policies.token_weights
        reward_mask, kl_mask = torch.relu(self.companions["masks"]).chunk(2, dim=1)
        return {**self.policies.token_weights, "reward_mask": reward_mask, "kl_mask": kl_mask}

    @property
    def _prior(self) -> Tensor:
        """Log ζ(a|c) of each decision under the learned or given prior, which knows no prompt, [G, 1, N, A]."""
        if "given_prior" in self.needs:
            return self.policies.next_log_prior
        shape = (-1, 1, self.policies.space.num_contexts, self.policies.space.num_actions)
        return torch.log_softmax(self.companions["prior"].reshape(shape), dim=-1)

    def _marginal(self, log_pi: Tensor) -> Tensor:
        """Return log Σ_x p(x) π(y|x), [G, 1, K]."""
        return torch.logsumexp(log_pi + self.policies.log_prompts[..., None], dim=1, keepdim=True)

    def _mean_kl(self, log_pi: Tensor) -> Tensor:
        """Return Σ_x p(x) KL(π(·|x) ‖ π_ref(·|x)), [G, 1, 1]."""
        kl = (log_pi.exp() * (log_pi - self.policies.log_ref)).sum(-1)
        return (self.policies.log_prompts.exp() * kl).sum(1)[:, None, None]


def _divided(drawn: Tensor, num_responses: int) -> tuple[Tensor, Tensor]:
    """Split numbers x·K + y into prompts and responses."""
    prompts = torch.div(drawn, num_responses, rounding_mode="floor")
    return prompts, drawn - prompts * num_responses


def _taken(table: Tensor, index: Tensor) -> Tensor:
    """Take entries [G, B, T] from rows [G, …]."""
    return table.gather(1, index.flatten(1)).reshape(index.shape)
