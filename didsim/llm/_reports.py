"""All that is reported of a policy beside its reference: on pairs, on responses of both, and beside a reward's tilt."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from datasets import Dataset
from torch import Tensor

from didsim.errors import BadDataError, ResourceError
from didsim.llm._evaluation import PairScores, score_pairs
from didsim.llm._responses import POLICY, REFERENCE, Drawn, Rewards, Source
from didsim.llm._rows import REWARDS
from didsim.llm._sampling import sample_responses, score
from didsim.llm._tilt import Draws, Fit, fit_within, nearest_tilt
from didsim.objectives import BoundObjective

Row = dict[str, float | str]

DRIFT = 0.02
"""Responses of which a model now says something else by so many nats a token are not its own.

Half precision and other devices make smaller differences.
"""


@dataclass(frozen=True)
class EvaluationSettings:
    """How a policy is looked at.

    Attributes:
        loss: an objective whose rewards and loss are reported too.
        batch_size: pairs, or responses, that are looked at together.
        max_length: the most tokens of the prompt and a response of a pair.
        samples: responses drawn for each prompt; 0 draws none.
        prompts: for so many prompts, the first ones of the data.
        max_new_tokens: the most tokens of a drawn response.
        seed: of the draws.
        with_reference: draw responses of π_ref too.
    """

    loss: BoundObjective | None = None
    batch_size: int = 8
    max_length: int = 1024
    samples: int = 4
    prompts: int = 32
    max_new_tokens: int = 256
    seed: int = 0
    with_reference: bool = False


@dataclass
class Evaluation:
    """Policies beside one reference, on the same pairs.

    Attributes:
        reference: π_ref.
        name: its name.
        tokenizer: the tokenizer of all models.
        pairs: as of `load_pairs`.
        settings: how policies are looked at.
        rewards: of responses, if there are any; where these were drawn by us, they stand for new draws.
        drawn: what was drawn, by role and model.
    """

    reference: Any
    name: str
    tokenizer: Any
    pairs: Dataset
    settings: EvaluationSettings = field(default_factory=EvaluationSettings)
    rewards: Rewards | None = None
    drawn: dict[Source, Drawn] = field(default_factory=dict)

    @property
    def prompts(self) -> list[Any]:
        """The first different prompts of the pairs."""
        found: list[Any] = []
        for prompt in self.pairs["prompt"]:
            if len(found) == self.settings.prompts:
                break
            if prompt not in found:
                found.append(prompt)
        return found

    def report(self, model: Any, name: str, told: Callable[[int], object] | None = None) -> Row:
        """Return all that is known of a policy, under the names of the training log; errors end in `_error`.

        Numbers that nothing tells are absent, or NaN.

        Args:
            model: the policy π.
            name: its name.
            told: what is called with the number of pairs after each batch.

        Raises:
            BadDataError: if the responses that were given are not those of the model.
            ResourceError: if the memory of the device does not suffice.
        """
        try:
            return self._report(model, name, told)
        except torch.OutOfMemoryError as error:
            hint = "Take a smaller --batch-size, --max-length or --max-new-tokens, or --dtype bfloat16."
            raise ResourceError(f"The memory of the device does not suffice. {hint}") from error

    def _report(self, model: Any, name: str, told: Callable[[int], object] | None) -> Row:
        options = self.settings
        scores = score_pairs(
            model,
            self.reference,
            self.tokenizer,
            self.pairs,
            loss=options.loss,
            batch_size=options.batch_size,
            max_length=options.max_length,
            told=told,
        )
        row: Row = {"pairs": len(scores.rows)}
        for quantity, (mean, error) in scores.estimates().items():
            row |= {quantity: mean, f"{quantity}_error": error}
        row |= self._fit_to_pairs(scores)
        own = self._responses((POLICY, name), model)
        return row if own is None else row | self._of_responses(model, own)

    def _fit_to_pairs(self, scores: PairScores) -> Row:
        """Fit log-ratios to rewards within pairs that have both."""
        rewards = [self._reward_of(name) for name in REWARDS]
        both = torch.tensor(rewards, dtype=torch.float64)[:, list(scores.rows)]
        ratios = torch.stack([scores.values[f"displacement/{side}"] for side in ("chosen", "rejected")])
        known = both.isfinite().all(0)
        if not bool(known.any()):
            return {}
        pairs = torch.arange(int(known.sum())).repeat(2)
        return _of_fit("pairs", fit_within(pairs, both[:, known].flatten(), ratios[:, known].flatten()))

    def _reward_of(self, name: str) -> list[float]:
        """Return the rewards of one side of all pairs, NaN where there is none; a file counts before a column."""
        if self.rewards is not None:
            side = name.removeprefix("reward_")
            columns = zip(self.pairs["prompt"], self.pairs[side], strict=True)
            return [self.rewards.of(prompt, response) for prompt, response in columns]
        if name not in self.pairs.column_names:
            return [math.nan] * len(self.pairs)
        return [math.nan if value is None else value for value in self.pairs[name]]

    def _responses(self, source: Source, model: Any) -> Drawn | None:
        """Return the responses of a policy: those given with rewards, or new ones; None if none are wanted."""
        if source not in self.drawn:
            options = self.settings
            if self.rewards is not None and self.rewards.drawn:
                self.drawn[source] = self._given(source, model)
            elif options.samples == 0:
                return None
            else:
                samples = sample_responses(
                    model,
                    self.tokenizer,
                    self.prompts,
                    options.samples,
                    options.max_new_tokens,
                    options.seed + (source[0] == REFERENCE),  # else both would draw alike where they agree
                    options.batch_size,
                )
                self.drawn[source] = Drawn(samples)
        return self.drawn[source]

    def _given(self, source: Source, model: Any) -> Drawn:
        assert self.rewards is not None  # there are responses with rewards
        if source not in self.rewards.drawn:
            known = ", ".join(sorted({name for _, name in self.rewards.drawn}))
            hint = "Draw responses of the same models with --samples-out."
            raise BadDataError(f"The rewards have no responses of the {source[0]} {source[1]}, but of {known}. {hint}")
        drawn = self.rewards.drawn[source]
        change = (self._score(model, drawn) - drawn.log_probs).abs().sum()
        if float(change) > DRIFT * sum(len(sample.tokens) for sample in drawn.samples):
            hint = "Draw them anew with --samples-out."
            raise BadDataError(f"The responses with rewards were not drawn from {source[1]} as it is now. {hint}")
        return drawn

    def _score(self, model: Any, drawn: Drawn) -> Tensor:
        befores, tokens = zip(*((sample.before, sample.tokens) for sample in drawn.samples), strict=True)
        return score(model, self.tokenizer, befores, tokens, self.settings.batch_size)

    def _of_responses(self, model: Any, own: Drawn) -> Row:
        """Return divergences from the reference and, where there are rewards, from its nearest tilt."""
        ratios = own.log_probs - self._score(self.reference, own)
        row: Row = {
            "samples": len(own.samples),
            "samples/prompts": len(own.prompts.unique()),
            "samples/cut_share": sum(sample.cut for sample in own.samples) / len(own.samples),
            **_divergence("kl/policy_ref", own, ratios),
        }
        if not (self.settings.with_reference or own.rewards is not None):
            return row
        other = self._responses((REFERENCE, self.name), self.reference)
        assert other is not None  # as there are responses of the policy
        theirs = self._score(model, other) - other.log_probs
        row |= _divergence("kl/ref_policy_samples", other, -theirs)
        return row | _of_rewards(own, ratios, other, theirs)


def _divergence(name: str, drawn: Drawn, ratios: Tensor) -> Row:
    """Return the mean over prompts of mean log-ratios, and its standard error for these prompts."""
    draws = Draws.of(_numbered(drawn.prompts), torch.zeros_like(ratios), ratios)
    return {name: float(draws.mean(draws.log_ratio).mean()), f"{name}_error": draws.error(draws.log_ratio)}


def _of_rewards(own: Drawn, ratios: Tensor, other: Drawn, theirs: Tensor) -> Row:
    """Return the nearest tilt and the fit to responses of both, where all have rewards."""
    if own.rewards is None or other.rewards is None:
        return {}
    if not torch.equal(own.prompts.unique(), other.prompts.unique()):
        raise BadDataError("The responses with rewards of the model and of the reference answer different prompts.")
    policy = Draws.of(_numbered(own.prompts), own.rewards, ratios)
    reference = Draws.of(_numbered(other.prompts), other.rewards, theirs)
    tilt = nearest_tilt(policy, reference)
    groups, rewards, log_ratios = (
        torch.cat(parts) for parts in ((own.prompts, other.prompts), (own.rewards, other.rewards), (ratios, theirs))
    )
    known = not tilt.unknown
    return {
        "tilt/kl": tilt.kl if known else math.nan,
        "tilt/kl_error": tilt.error if known else math.nan,
        "tilt/beta": tilt.beta if known else math.nan,
        "tilt/inverse_beta": tilt.inverse_beta if known else math.nan,
        "tilt/inverse_beta_error": tilt.inverse_beta_error if known else math.nan,
        "tilt/bias": tilt.bias,
        "tilt/effective": tilt.effective,
        "tilt/unknown": tilt.unknown,
        **_of_fit("samples", fit_within(_numbered(groups), rewards, log_ratios)),
    }


def _of_fit(where: str, found: Fit) -> Row:
    return {
        f"fit_{where}/inverse_beta": found.slope,
        f"fit_{where}/r_squared": found.r_squared,
        f"fit_{where}/responses": found.count,
    }


def _numbered(prompts: Tensor) -> Tensor:
    """Number prompts without gaps."""
    return prompts.unique(return_inverse=True)[1]
