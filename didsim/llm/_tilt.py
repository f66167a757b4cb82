"""How far a policy is from the nearest exponential tilt π_β(y|x) ∝ π_ref(y|x) exp(r(x,y)/β) of its reference.

With λ = 1/β, the divergence KL(π ‖ π_β), averaged over prompts, is

    f(λ) = E_π[log π − log π_ref] − λ E_π[r] + log Z(λ),    Z(x; λ) = E_π_ref[exp(λ r)].

The logarithm of Z is the cumulant generating function of r under π_ref, so that f′(λ) = E_π_λ[r] − E_π[r] and
f″(λ) = Var_π_λ[r] ≥ 0: f is convex, and strictly so where rewards of a prompt differ. Its minimum on λ ≥ 0 is where the
tilt has the reward of π; at λ = 0 (β infinite) if π has no higher reward than π_ref; and nowhere if π has the reward of
the best responses to every prompt, or more. The same holds of the weighted means over responses that stand for them.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BISECTIONS = 200
"""So often an interval of slopes is halved: to the last digit of float64."""

LARGEST_SLOPE = 2.0**60
"""Slopes, in units of the spread of rewards, beyond which a tilt has only the best responses."""

LEAST_EFFECTIVE = 2.0
"""Responses of π_ref for each prompt on which a normaliser must rest, as counted by `Tilt.effective`."""


@dataclass(frozen=True)
class Draws:
    """Responses with rewards, of one policy: a row for each prompt, filled up with weight 0.

    Attributes:
        reward: r(x, y), [X, N].
        weight: of each response for a mean over its prompt's, [X, N]; rows sum to 1.
        log_ratio: log π − log π_ref, in nats, [X, N]; not looked at where the responses are π_ref's.
    """

    reward: Tensor
    weight: Tensor
    log_ratio: Tensor

    @classmethod
    def of(cls, prompts: Tensor, reward: Tensor, log_ratio: Tensor) -> "Draws":
        """Lay out responses that come with the numbers of their prompts, 0 to X − 1, all [N]; all weigh alike."""
        counts = torch.bincount(prompts)
        order = prompts.argsort(stable=True)
        there = torch.arange(int(counts.max())) < counts.unsqueeze(1)
        rewards, log_ratios = (
            torch.zeros(there.shape, dtype=torch.float64).masked_scatter(there, values[order].double())
            for values in (reward, log_ratio)
        )
        return cls(rewards, there / counts.unsqueeze(1).double(), log_ratios)

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean for each prompt, [X]."""
        return (self.weight * values).sum(1)

    def error(self, values: Tensor) -> float:
        """Return the standard error of the mean over prompts, for these prompts, of equally weighted draws.

        It is NaN where a prompt has one response only.
        """
        count = (self.weight > 0).sum(1)
        spread = self.mean((values - self.mean(values).unsqueeze(1)) ** 2)
        return float((spread / (count - 1)).sum().sqrt() / len(count))


@dataclass(frozen=True)
class Tilt:
    """The nearest tilt.

    Attributes:
        kl: KL(π ‖ π_β) for the best β > 0, averaged over prompts, in nats.
        error: the standard error of `kl`, for these prompts; NaN where a prompt has one response only.
        inverse_beta: 1/β, in nats per unit of reward; 0 if π_ref itself is nearest.
        inverse_beta_error: the standard error of `inverse_beta`, likewise.
        bias: about how much too low `kl` is since Z is a mean of few responses, in nats.
        effective: Kish's effective number of responses of π_ref on which Z rests, the mean over prompts.
        unknown: why the responses do not tell the nearest tilt, in words; empty where they do.
    """

    kl: float
    error: float
    inverse_beta: float
    inverse_beta_error: float
    bias: float
    effective: float
    unknown: str = ""

    @property
    def beta(self) -> float:
        """The best β, perhaps infinite."""
        return math.inf if self.inverse_beta == 0.0 else 1.0 / self.inverse_beta


def nearest_tilt(policy: Draws, reference: Draws) -> Tilt:
    """Find the tilt of the reference by a reward from which a policy diverges least.

    Args:
        policy: responses of π with rewards and log-ratios.
        reference: responses of π_ref to the same prompts with rewards.

    Returns:
        Estimates; exact where the responses are all there are and their weights are probabilities. Where rewards do
        not differ, or those of π are as high as the best of π_ref, no tilt is nearest, and the numbers are NaN.
    """
    if unknown := _why_none(policy, reference):
        return Tilt(math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, unknown)
    low, high = _extremes(reference)
    slope = _best_slope(policy, reference, 1.0 / float((high - low).max()))
    tilted, log_z = _tilted(reference, slope)
    gain = policy.log_ratio - slope * policy.reward
    effective = 1.0 / (tilted**2).sum(1)
    bias = 0.5 * (1.0 / effective - 1.0 / (reference.weight > 0).sum(1).double()).mean()
    mean = float(effective.mean())
    return Tilt(
        kl=float((policy.mean(gain) + log_z).mean()),
        inverse_beta=slope,
        **_errors(policy, reference, gain, tilted),
        bias=float(bias),
        effective=mean,
        unknown="" if mean >= LEAST_EFFECTIVE else _too_few(mean),
    )


def _errors(policy: Draws, reference: Draws, gain: Tensor, tilted: Tensor) -> dict[str, float]:
    """Return standard errors by the delta method; to first order that of λ does not matter to f at its minimum."""
    ratio = torch.where(reference.weight > 0, tilted / reference.weight, 0.0)  # of which log Z is a mean
    centred = reference.reward - (tilted * reference.reward).sum(1, keepdim=True)
    curvature = float((tilted * centred**2).sum(1).mean())
    return {
        "error": math.hypot(policy.error(gain), reference.error(ratio)),
        "inverse_beta_error": math.hypot(policy.error(policy.reward), reference.error(ratio * centred)) / curvature,
    }


def _tilted(reference: Draws, slope: float) -> tuple[Tensor, Tensor]:
    """Return the weights of responses under a tilt, [X, N], and log Z, [X]."""
    logits = torch.where(reference.weight > 0, reference.weight.log() + slope * reference.reward, -math.inf)
    log_z = logits.logsumexp(1)
    return (logits - log_z.unsqueeze(1)).exp(), log_z


def _best_slope(policy: Draws, reference: Draws, unit: float) -> float:
    """Return λ ≥ 0 at which f′ changes its sign, by bisection; f′ does not fall."""
    reward = float(policy.mean(policy.reward).mean())

    def is_beyond(slope: float) -> bool:
        weights, _ = _tilted(reference, slope)
        return float((weights * reference.reward).sum(1).mean()) >= reward

    low, high = 0.0, unit
    if is_beyond(low):
        return low
    while not is_beyond(high) and high < unit * LARGEST_SLOPE:
        low, high = high, 2.0 * high
    for _ in range(BISECTIONS):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if is_beyond(middle) else (middle, high)
    return 0.5 * (low + high)


def _extremes(draws: Draws) -> tuple[Tensor, Tensor]:
    """Return the lowest and the highest reward of each prompt's responses, [X] each."""
    there = draws.weight > 0
    return (
        torch.where(there, draws.reward, math.inf).amin(1),
        torch.where(there, draws.reward, -math.inf).amax(1),
    )


def _why_none(policy: Draws, reference: Draws) -> str:
    """Say why no tilt is nearest; nothing if one is."""
    low, high = _extremes(reference)
    if not bool((high > low).any()):
        return "The rewards of π_ref's responses to each prompt are all equal, so that every tilt is π_ref itself."
    reward = float(policy.mean(policy.reward).mean())
    if reward >= float(high.mean()):
        return (
            f"The mean reward of π's responses, {reward:.4g}, is not below that of the best responses of π_ref to each "
            f"prompt, {float(high.mean()):.4g}: no β > 0 is best. Draw more responses of π_ref."
        )
    return ""


def _too_few(effective: float) -> str:
    return (
        f"The normaliser rests on {effective:.2g} responses of π_ref to a prompt, as weighted by the tilt, fewer than "
        f"{LEAST_EFFECTIVE:g}: the estimate would be too low by an unknown amount. Draw more responses of π_ref."
    )


@dataclass(frozen=True)
class Fit:
    """The straight line through log-ratios over rewards, within prompts.

    Attributes:
        slope: an estimate of 1/β, if π is a tilt; in nats per unit of reward.
        r_squared: the share of the variance of log-ratios within prompts that the line explains; 1 for a tilt.
        count: so many responses were looked at.
    """

    slope: float
    r_squared: float
    count: int


def fit_within(groups: Tensor, reward: Tensor, log_ratio: Tensor) -> Fit:
    """Fit log π/π_ref = r/β − log Z(x) by least squares, with a log Z of its own for each prompt.

    Args:
        groups: the number of the prompt of each response, [N].
        reward: r(x, y), [N].
        log_ratio: log π − log π_ref, in nats, [N].

    Returns:
        The line; NaN where rewards, or log-ratios, do not differ within any prompt.
    """
    x, y = (_within(groups, values.double()) for values in (reward, log_ratio))
    xx, xy, yy = (float((one * two).sum()) for one, two in ((x, x), (x, y), (y, y)))
    slope = xy / xx if xx > 0 else math.nan
    return Fit(slope, slope * xy / yy if yy > 0 else math.nan, len(groups))


def _within(groups: Tensor, values: Tensor) -> Tensor:
    """Subtract the mean of each group."""
    sums = values.new_zeros(int(groups.max()) + 1).index_add(0, groups, values)
    return values - (sums / torch.bincount(groups))[groups]
