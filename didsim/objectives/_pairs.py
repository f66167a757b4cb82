"""What a loss sees: the chosen and rejected responses of preference pairs, and the weights of the pairs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from didsim._checks import message
from didsim.objectives._math import scaled
from didsim.objectives._tokens import Tokens, required

PASS_LOG_REF, PASS_LENGTH, PASS_LOG_MARGINAL = (
    f"pass {name}_chosen= and {name}_rejected=" for name in ("log_ref", "length", "log_marginal")
)


@dataclass(frozen=True)
class Responses:
    """One response of each pair, as far as a loss may look at it.

    Attributes:
        log_pi: log π(y|x) in nats, summed over tokens.
        log_ref: the same under π_ref, or None when there is no reference.
        length: the number of tokens, or None when it is not known.
        tokens: the decisions of which the response consists, or None.
        log_marginal: log π(y), the policy's probability of the response whatever the prompt: Σ_x p(x) π(y|x) in a
            tabular world, an unprompted pass of a language model; or None.
        log_zeta: log ζ(y) under a prior that is learned beside the policy, or given with the problem; or None.
        mean_kl: KL(π(·|x) ‖ π_ref(·|x)) averaged over prompts, in nats, the same for all responses; or None.
    """

    log_pi: Tensor
    log_ref: Tensor | None = None
    length: Tensor | None = None
    tokens: Tokens | None = None
    log_marginal: Tensor | None = None
    log_zeta: Tensor | None = None
    mean_kl: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Responses":
        """Apply a function to every quantity that is there."""
        tokens = None if self.tokens is None else self.tokens.map(function)
        others = (self.log_ref, self.length, self.log_marginal, self.log_zeta, self.mean_kl)
        log_ref, length, log_marginal, log_zeta, mean_kl = (None if x is None else function(x) for x in others)
        return Responses(function(self.log_pi), log_ref, length, tokens, log_marginal, log_zeta, mean_kl)

    @property
    def reference(self) -> Tensor:
        """The log-probability under π_ref, in nats; an error if there is none."""
        return required(self.log_ref, "the reference policy", PASS_LOG_REF)

    @property
    def log_ratio(self) -> Tensor:
        """The log-ratio h = log π − log π_ref, in nats."""
        return self.log_pi - self.reference

    @property
    def num_tokens(self) -> Tensor:
        """The length |y| in tokens; an error if it is not known."""
        return required(self.length, "the lengths of the responses", PASS_LENGTH)

    @property
    def mean_log_pi(self) -> Tensor:
        """The log-probability per token a = log π / |y|, in nats."""
        return self.log_pi / self.num_tokens

    @property
    def decisions(self) -> Tokens:
        """The tokens; an error if they are not known."""
        how = "make the pairs with Pairs(Responses(…, tokens=Tokens(…)), Responses(…))"
        return required(self.tokens, "the tokens of the responses", how)

    @property
    def marginal(self) -> Tensor:
        """The log-probability log π(y) whatever the prompt, in nats; an error if it is not known."""
        return required(self.log_marginal, "log π(y) without the prompt", PASS_LOG_MARGINAL)

    @property
    def prior(self) -> Tensor:
        """The learned or given log ζ(y), in nats; an error if there is none."""
        return required(self.log_zeta, "the learned prior", "train it with didsim.train, or give log_zeta=")

    @property
    def policy_kl(self) -> Tensor:
        """The mean KL(π ‖ π_ref) over prompts, in nats; an error if it is not known."""
        return required(self.mean_kl, "the mean KL(π ‖ π_ref)", "pass mean_kl=")


@dataclass(frozen=True)
class Pairs:
    """Preference pairs, each with a weight.

    Attributes:
        chosen: the chosen responses y_w.
        rejected: the rejected responses y_l; broadcastable against `chosen`.
        weights: the non-negative weight of each pair, or None when all count alike.
        rows_per_run: None when all pairs are one batch; else the first axis holds several runs, each of so many
            consecutive rows, and statistics such as `mean` are taken for each run on its own.
    """

    chosen: Responses
    rejected: Responses
    weights: Tensor | None = None
    rows_per_run: int | None = None

    @classmethod
    def from_log_probs(
        cls,
        *,
        log_pi_chosen: Tensor,
        log_pi_rejected: Tensor,
        log_ref_chosen: Tensor | None = None,
        log_ref_rejected: Tensor | None = None,
        length_chosen: Tensor | None = None,
        length_rejected: Tensor | None = None,
        log_marginal_chosen: Tensor | None = None,
        log_marginal_rejected: Tensor | None = None,
        mean_kl: Tensor | None = None,
        weights: Tensor | None = None,
    ) -> "Pairs":
        """Check and collect the tensors of a batch of pairs.

        Args:
            log_pi_chosen: log π(y_w|x) summed over tokens, in nats, [B].
            log_pi_rejected: log π(y_l|x), [B].
            log_ref_chosen: log π_ref(y_w|x), [B]; needed by objectives with a reference.
            log_ref_rejected: log π_ref(y_l|x), [B].
            length_chosen: the number of tokens of y_w, integer or float, [B]; needed by objectives that
                normalise by length.
            length_rejected: the number of tokens of y_l, [B].
            log_marginal_chosen: log π(y_w) without the prompt, [B]; needed by RMiPO.
            log_marginal_rejected: log π(y_l) without the prompt, [B].
            mean_kl: KL(π ‖ π_ref) averaged over prompts, in nats, one number; needed by KTO.
            weights: the weight of each pair, [B]; all alike by default.

        Raises:
            TypeError: if one of them is not a tensor, or log-probabilities are not floating-point.
            ValueError: if shapes differ, only one side is given, or a length is not positive.
        """
        _check_together("log_ref", log_ref_chosen, log_ref_rejected)
        _check_together("length", length_chosen, length_rejected)
        _check_together("log_marginal", log_marginal_chosen, log_marginal_rejected)
        given = {
            "log_pi_chosen": log_pi_chosen,
            "log_pi_rejected": log_pi_rejected,
            "log_ref_chosen": log_ref_chosen,
            "log_ref_rejected": log_ref_rejected,
            "length_chosen": length_chosen,
            "length_rejected": length_rejected,
            "log_marginal_chosen": log_marginal_chosen,
            "log_marginal_rejected": log_marginal_rejected,
            "weights": weights,
        }
        for name, tensor in given.items():
            if tensor is not None:
                _check_tensor(name, tensor, like=log_pi_chosen)
        return cls(
            Responses(log_pi_chosen, log_ref_chosen, length_chosen, None, log_marginal_chosen, None, mean_kl),
            Responses(log_pi_rejected, log_ref_rejected, length_rejected, None, log_marginal_rejected, None, mean_kl),
            weights,
        )

    def mean(self, values: Tensor) -> Tensor:
        """Return the weighted mean of one value per pair; a pair of weight 0 does not count, even if infinite.

        Returns:
            A number, or one for each row when there are several runs, [rows, 1, …].

        Raises:
            ValueError: if there are no pairs, or if all their weights are 0.
        """
        if values.numel() == 0:
            raise ValueError(message("the number of pairs", "at least 1", 0))
        if self.weights is None and self.rows_per_run is None:
            return values.mean()
        weights = torch.ones_like(values) if self.weights is None else self.weights
        total = self._sum(weights)
        if bool((total == 0.0).any()):
            raise ValueError(message("weights", "positive for at least one pair", "all 0"))
        return self._sum(torch.where(weights > 0, weights * values, 0.0)) / total

    def std(self, values: Tensor) -> Tensor:
        """Return the weighted standard deviation (ddof 0) of one value per pair, as `mean` does.

        Its gradient is 0, not NaN, where all values are equal.
        """
        variance = self.mean((values - self.mean(values)) ** 2)
        spread = torch.where(variance > 0, variance, 1.0).sqrt()
        return torch.where(variance > 0, spread, 0.0)

    def difference(self, part: Callable[[Responses], Tensor]) -> Tensor:
        """Return part(y_w) − part(y_l), one number per pair."""
        return part(self.chosen) - part(self.rejected)

    def standardise(self, values: Tensor) -> Tensor:
        """Return (v − mean v)/std v over all pairs; 0 where all are equal."""
        std = self.std(values)
        return torch.where(std > 0, (values - self.mean(values)) / torch.where(std > 0, std, 1.0), 0.0)

    def quantile_coupling(self, x: Tensor, y: Tensor, cost: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Couple two values per pair by their ranks, and return the cost that falls on each pair.

        The k-th smallest x of a batch meets its k-th smallest y. With weights, both are cut into pieces of equal
        mass, so that the q-quantile of x meets the q-quantile of y for every q: the optimal transport plan between
        the two distributions for a convex cost of x − y.

        Args:
            x: one value per pair, to which the cost is ascribed.
            y: another value per pair.
            cost: a function of coupled values.

        Returns:
            The mean cost over the mass of each pair, of the pairs' shape; its weighted mean is the transport cost.
        """
        shape = torch.broadcast_shapes(x.shape, y.shape)
        weights = x.new_ones(shape) if self.weights is None else self.weights.expand(shape)
        runs = 1 if self.rows_per_run is None else shape[0] // self.rows_per_run
        first, second, mass = (part.expand(shape).reshape(runs, -1) for part in (x, y, weights))
        plan = _quantile_plan(first.detach(), second.detach(), mass)
        costs = scaled(plan.mass, cost(first.gather(1, plan.first), second.gather(1, plan.second)))
        ascribed = torch.zeros_like(first).scatter_add(1, plan.first, costs)
        return torch.where(mass > 0, ascribed / torch.where(mass > 0, mass, 1.0), 0.0).reshape(shape)

    def _sum(self, values: Tensor) -> Tensor:
        """Add up each run, and repeat the sum for each of its rows."""
        if self.rows_per_run is None:
            return values.sum()
        sums = values.reshape(len(values) // self.rows_per_run, -1).sum(1)
        return sums.repeat_interleave(self.rows_per_run).reshape(-1, *(1 for _ in values.shape[1:]))


@dataclass(frozen=True)
class _Plan:
    """Pieces of equal quantile ranges: which x and which y each joins, and its mass, all [runs, pieces]."""

    first: Tensor
    second: Tensor
    mass: Tensor


def _quantile_plan(x: Tensor, y: Tensor, mass: Tensor) -> _Plan:
    """Cut the mass of x and of y, both [runs, N], at the union of their cumulative masses."""
    orders = [values.argsort(dim=1, stable=True) for values in (x, y)]
    ends = [mass.gather(1, order).cumsum(1) for order in orders]
    cuts = torch.cat(ends, dim=1).sort(dim=1).values
    starts = torch.cat([torch.zeros_like(cuts[:, :1]), cuts[:, :-1]], dim=1)
    middles = 0.5 * (starts + cuts)
    positions = [torch.searchsorted(end, middles).clamp(max=x.shape[1] - 1) for end in ends]
    joined = [order.gather(1, position) for order, position in zip(orders, positions, strict=True)]
    return _Plan(joined[0], joined[1], cuts - starts)


def _check_together(name: str, chosen: Tensor | None, rejected: Tensor | None) -> None:
    if (chosen is None) != (rejected is None):
        missing = f"{name}_chosen" if chosen is None else f"{name}_rejected"
        raise ValueError(message(f"{name}_chosen and {name}_rejected", "given together", f"no {missing}"))


def _check_tensor(name: str, tensor: Tensor, like: Tensor) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(message(name, "a torch tensor", type(tensor).__name__))
    if tensor.shape != like.shape:
        raise ValueError(message(f"the shape of {name}", str(tuple(like.shape)), tuple(tensor.shape)))
    if name.startswith("log_") and not tensor.is_floating_point():
        raise TypeError(message(name, "a floating-point tensor", tensor.dtype))
    if name.startswith("length") and not bool((tensor > 0).all()):
        raise ValueError(message(name, "positive everywhere", tensor.min().item()))
    if name == "weights" and not bool((tensor >= 0).all()):
        raise ValueError(message(name, "non-negative everywhere", tensor.min().item()))
