"""Objectives that look at the tokens of a response: TDPO, TIS-DPO, SparsePO, ε-DPO, WPO and LD-DPO.

One pair of responses of two tokens and one token, over a vocabulary of two, with a uniform reference:

>>> from torch import tensor
>>> from didsim.objectives import NextTokens, Pairs, Responses, Tokens, objective
>>> def response(probs, mask):
...     log_pi, half = tensor(probs).log(), tensor([[0.5, 0.5]] * len(probs)).log()
...     mask = tensor(mask)
...     tokens = Tokens(log_pi[..., 0], mask, half[..., 0], NextTokens(log_pi, half))
...     total = tokens.total
...     return Responses(total(log_pi[..., 0]), total(half[..., 0]), mask.sum(-1), tokens)
>>> pairs = Pairs(response([[0.8, 0.2], [0.8, 0.2]], [True, True]), response([[0.5, 0.5], [0.5, 0.5]], [True, False]))

The chosen response has the log-ratio 2 log 1.6 and the divergences K = 2 log 1.25 forward and K′ = 2·0.19274 reverse;
the rejected response has none. Hence S(0.94 + 0.4463) for TDPO1, as for SparsePO whose masks are 1 at no cost; α = ½ of
K for TDPO2; S(0.94 − 0.3855) for TIS-DPO:

>>> names = [("tdpo1", {}), ("sparse_po", {"lam": 0.0}), ("tdpo2", {}), ("tis_dpo", {})]
>>> [round(float(objective(name, beta=1.0, **options)(pairs)), 4) for name, options in names]
[0.2231, 0.2231, 0.2719, 0.4538]

ε-DPO finds that a larger ε would raise the margin, and lowers β to β/(1 + ε); WPO weighs S(0.94) by how likely the
policy itself would write both, e^{log 0.8 − log 0.68}; LD-DPO takes one token of each, and half of the second:

>>> names = [("epsilon_dpo", {"epsilon": 0.01}), ("wpo", {}), ("ld_dpo", {"ld_alpha": 0.5})]
>>> [round(float(objective(name, beta=1.0, **options)(pairs)), 4) for name, options in names]
[0.3324, 0.3879, 0.4015]
"""

import torch
from torch import Tensor

from didsim._checks import NON_NEGATIVE, POSITIVE, Interval
from didsim.objectives._links import LOGISTIC
from didsim.objectives._log_ratio import scaled_log_ratio
from didsim.objectives._math import scaled, softplus_neg, stop_gradient
from didsim.objectives._objective import Objective, Parameter
from didsim.objectives._pair_functions import Jumps
from didsim.objectives._pairs import Pairs, Responses


def forward_kl(y: Responses) -> Tensor:
    """K = Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t))."""
    return y.decisions.total(y.decisions.sums.forward_kl())


def weighted_log_ratio(y: Responses) -> Tensor:
    """Σ_t w_t h_t; all w are 1 unless given."""
    tokens = y.decisions
    return tokens.total(_times(tokens.weights, tokens.log_ratio))


def weighted_reverse_kl(y: Responses) -> Tensor:
    """K′ = Σ_t w_t KL(π(·|y_<t) ‖ π_ref(·|y_<t))."""
    tokens = y.decisions
    return tokens.total(_times(tokens.weights, tokens.sums.reverse_kl()))


def masked_log_ratio(y: Responses) -> Tensor:
    """Σ_t μ₁ h_t; all μ are 1 unless given."""
    tokens = y.decisions
    return tokens.total(_times(tokens.reward_mask, tokens.log_ratio))


def masked_forward_kl(y: Responses) -> Tensor:
    """K^{μ₂} = Σ_t μ₂ KL(π_ref(·|y_<t) ‖ π(·|y_<t))."""
    tokens = y.decisions
    return tokens.total(_times(tokens.kl_mask, tokens.sums.forward_kl()))


def _times(weights: Tensor | None, values: Tensor) -> Tensor:
    return values if weights is None else weights * values


def token_dpo(y: Responses, *, beta: float | Tensor) -> Tensor:
    """β (h + K): the difference of two of these is β [D − (K_l − K_w)]."""
    return beta * (y.log_ratio + forward_kl(y))


def token_dpo_chosen(y: Responses, *, beta: float | Tensor, alpha: float | Tensor) -> Tensor:
    """β (h + α sg[K])."""
    return beta * (y.log_ratio + scaled(alpha, stop_gradient(forward_kl(y))))


def token_dpo_rejected(y: Responses, *, beta: float | Tensor, alpha: float | Tensor) -> Tensor:
    """β (h + α K)."""
    return beta * (y.log_ratio + scaled(alpha, forward_kl(y)))


def importance_sampled(y: Responses, *, beta: float | Tensor, alpha: float | Tensor) -> Tensor:
    """β (Σ_t w h − α K′)."""
    return beta * (weighted_log_ratio(y) - scaled(alpha, weighted_reverse_kl(y)))


def sparse_score(y: Responses, *, beta: float | Tensor, masks: str) -> Tensor:
    """β (Σ_t μ₁ h + K^{μ₂}), whether the masks are given or learned."""
    return beta * (masked_log_ratio(y) + masked_forward_kl(y))


def mask_size(y: Responses, *, lam: float | Tensor) -> Tensor:
    """λ Σ_t (|μ₁| + |μ₂|)."""
    tokens = y.decisions
    ones = torch.ones_like(tokens.log_pi)
    sizes = _times(tokens.reward_mask, ones).abs() + _times(tokens.kl_mask, ones).abs()
    return scaled(lam, tokens.total(sizes))


def tilt_effect(y: Responses, exponent: float | Tensor) -> Tensor:
    """Return how much logits (1+ε)θ − εθ_ref in place of θ change log π of a response: Σ_t (ε h_t − log Z_t)."""
    tokens = y.decisions
    change = tokens.total(tokens.log_ratio) * exponent
    return change - tokens.total(tokens.sums.log_tilt(exponent))


def tilt_switches(pairs: Pairs, *, epsilon: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return two numbers per pair, per unit of ε: the first is positive where z₊ > z > z₋, the second in reverse."""
    up, down = (
        tilt_effect(pairs.chosen, exponent) - tilt_effect(pairs.rejected, exponent) for exponent in (epsilon, -epsilon)
    )
    size = torch.as_tensor(epsilon, dtype=up.dtype)
    unit = torch.where(size > 0, size, 1.0)
    return torch.minimum(up, -down) / unit, torch.minimum(-up, down) / unit


def adaptive_logistic(
    pairs: Pairs, rises: Tensor, falls: Tensor, *, beta: float | Tensor, epsilon: float | Tensor
) -> Tensor:
    """S(β/(1+εs) D), s = rises − falls."""
    difference = pairs.chosen.log_ratio - pairs.rejected.log_ratio
    return softplus_neg(beta / (1.0 + epsilon * (rises - falls)) * difference)


TILT = Jumps(tilt_switches, adaptive_logistic)


def self_likelihood(y: Responses) -> Tensor:
    """Return mean_t [log π(y_t) − log Σ_v π(v)²]: how likely the policy itself is to write the response, in nats."""
    tokens = y.decisions
    return tokens.mean(tokens.log_pi - tokens.sums.log_collision())


def weighted_dpo(pairs: Pairs, *, beta: float | Tensor) -> Tensor:
    """Sg[w_w w_l] S(βD), w = e^{mean_t [log π(y_t) − log Σ_v π(v)²]}."""
    weight = torch.exp(self_likelihood(pairs.chosen) + self_likelihood(pairs.rejected))
    loss = softplus_neg(beta * (pairs.chosen.log_ratio - pairs.rejected.log_ratio))
    return scaled(stop_gradient(weight), loss)


def length_desensitised(pairs: Pairs, *, beta: float | Tensor, ld_alpha: float | Tensor) -> Tensor:
    """S(βD′), whose log-ratios count tokens beyond the shared length min(|y_w|, |y_l|) by a factor only."""
    both = (pairs.chosen.decisions, pairs.rejected.decisions)
    shared = torch.minimum(*(tokens.mask.sum(-1, keepdim=True) for tokens in both))
    chosen, rejected = (
        tokens.total(torch.where(tokens.position <= shared, tokens.log_ratio, 0.0))
        + scaled(ld_alpha, tokens.total(torch.where(tokens.position > shared, tokens.log_ratio, 0.0)))
        for tokens in both
    )
    return softplus_neg(beta * (chosen - rejected))


BETA = Parameter(0.1, POSITIVE, (0.01, 0.05, 0.1, 0.5, 1.0), "scale β of the implicit reward")
VOCABULARY = frozenset({"reference", "tokens", "vocabulary"})

TDPO1 = Objective(
    name="tdpo1",
    title="Token-level DPO, first form",
    formula="S(β[h_w − h_l − (K_l − K_w)]),  K = Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t))",
    source="Zeng et al. 2024, Eq. 16",
    parameters={"beta": BETA},
    score=token_dpo,
    link=LOGISTIC,
    needs=VOCABULARY,
)

TDPO2 = Objective(
    name="tdpo2",
    title="Token-level DPO, second form",
    formula="S(β[h_w − h_l − α(K_l − sg K_w)]),  K = Σ_t KL(π_ref(·|y_<t) ‖ π(·|y_<t))",
    source="Zeng et al. 2024, Eq. 17",
    parameters={"beta": BETA, "alpha": Parameter(0.5, NON_NEGATIVE, (0.1, 0.5, 1.0), "weight α of the divergences")},
    score=token_dpo_chosen,
    rejected_score=token_dpo_rejected,
    link=LOGISTIC,
    implicit_reward=scaled_log_ratio,
    needs=VOCABULARY,
    conventions=("No gradient flows through K_w. The implied reward is β h, without the divergences.",),
)

TIS_DPO = Objective(
    name="tis_dpo",
    title="Token-level importance-sampled DPO",
    formula="S(β[Σ w h_w − Σ w h_l − α(K′_w − K′_l)]),  K′ = Σ_t w KL(π(·|y_<t) ‖ π_ref(·|y_<t))",
    source="Liu et al. 2025, Eq. 16",
    parameters={
        "beta": BETA,
        "alpha": Parameter(1.0, NON_NEGATIVE, (0.5, 1.0), "weight α of the divergences: 1 (paper), 0.5 (repository)"),
    },
    score=importance_sampled,
    link=LOGISTIC,
    needs=VOCABULARY,
    conventions=(
        "The divergences are reverse KLs, and stand in the opposite order to TDPO's.",
        "Token weights w are given with the problem, and are 1 otherwise; estimating them is not part of the loss.",
    ),
)

SPARSE_PO = Objective(
    name="sparse_po",
    title="Sparse token-masked preference optimisation",
    formula="S(β[Σ μ₁ h_w − Σ μ₁ h_l − (K_l − K_w)]) + λ Σ_t(|μ₁|+|μ₂|),  K = Σ_t μ₂ KL(π_ref(·|y_<t) ‖ π(·|y_<t))",
    source="Christopoulou et al. 2024, Eq. 6",
    parameters={
        "beta": BETA,
        "lam": Parameter(0.0, NON_NEGATIVE, (0.0, 1e-3, 1e-2), "weight λ of the L1 norm of the masks"),
        "masks": Parameter("given", ("given", "learned"), ("given",), "masks of the problem (1), or learned ones"),
    },
    score=sparse_score,
    link=LOGISTIC,
    chosen_anchor=mask_size,
    rejected_anchor=mask_size,
    needs=VOCABULARY,
    option_needs={("masks", "learned"): frozenset({"masks"})},
    conventions=(
        "Nothing is detached, and the divergence is the forward KL. The norm is summed over the tokens of both "
        "responses.",
        "A learned mask of a tabular policy is one number max(0, v) for each decision, 1 at the start; the paper's is "
        "computed from a language model's activations.",
    ),
)

EPSILON_DPO = Objective(
    name="epsilon_dpo",
    title="ε-DPO",
    formula="S(β_i(h_w − h_l)),  β_i = β/(1 + ε s),  s = ±1 as the margin rises or falls with ε, else 0",
    source="Lee et al. 2025, Eq. 9 and Algorithm 1",
    parameters={
        "beta": Parameter(0.01, POSITIVE, (0.01,), "scale β of the implicit reward"),
        "epsilon": Parameter(0.01, Interval(0.0, 1.0, closed_low=True), (0.005, 0.01, 0.02), "step ε of the tilt"),
    },
    pair=TILT.pair,
    jumps=TILT,
    implicit_reward=scaled_log_ratio,
    needs=VOCABULARY,
    conventions=(
        "s = +1 if the margin log π_w − log π_l under logits (1+ε)θ − εθ_ref exceeds that under θ, and this the one "
        "under (1−ε)θ + εθ_ref; −1 in the reverse order. The field jumps where s does; it has no kink.",
    ),
)

WPO = Objective(
    name="wpo",
    title="Weighted preference optimisation",
    formula="sg[w_w w_l] S(β(h_w − h_l)),  w = exp(mean_t[log π(y_t) − log Σ_v π(v)²])",
    source="Zhou et al. 2024, Eq. 2 and Section 3.2 (sampled alignment)",
    parameters={"beta": BETA},
    pair=weighted_dpo,
    implicit_reward=scaled_log_ratio,
    needs=VOCABULARY,
    conventions=("The weight is not cut at 1, as in TRL's use_weighting; the authors' code cuts it.",),
)

LD_DPO = Objective(
    name="ld_dpo",
    title="Length-desensitised DPO",
    formula="S(β(h′_w − h′_l)),  h′ = Σ_{t≤n} h_t + α Σ_{t>n} h_t,  n = min(|y_w|, |y_l|)",
    source="Liu et al. 2024, Eq. 12",
    parameters={
        "beta": BETA,
        "ld_alpha": Parameter(
            0.5,
            Interval(0.0, 1.0, closed_low=True, closed_high=True),
            (0.0, 0.3, 0.5, 0.7),
            "weight α of tokens beyond the shared length",
        ),
    },
    pair=length_desensitised,
    implicit_reward=scaled_log_ratio,
    needs=frozenset({"reference", "tokens"}),
    conventions=("The reference's log-probabilities are cut in the same way as the policy's.",),
)
