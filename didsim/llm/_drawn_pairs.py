"""Preference data of which a given policy is DPO's optimum, drawn from language models.

Source: "Differential Information Distribution" paper, Section 3.4 and Appendix L.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from trl.data_utils import _tokenize

from didsim._checks import POSITIVE, check_choice, check_integer, check_number, message
from didsim.llm._entropy import check_same_tokens
from didsim.llm._proposal import RejectedLogits
from didsim.llm._sampling import Ids, check_room, draw, left_padded, prompt_ids, seeded

NORMALISE = ("overall", "prompt")


@dataclass(frozen=True)
class DrawnPair:
    """A pair as it was drawn.

    Attributes:
        prompt: the number of its prompt.
        before: the tokens of the prompt.
        chosen: those of y_w ~ π_ref, with the one that ends it.
        rejected: those of y_l ~ ρ, the proposal.
        log_weight: log w = log π_ref (π_ref/π*)^β − log ρ of y_l, in nats.
    """

    prompt: int
    before: Ids
    chosen: Ids
    rejected: Ids
    log_weight: float


@dataclass(frozen=True)
class DrawnData:
    """Pairs as rows for training, and what is to be known of them.

    Attributes:
        rows: prompt, chosen, rejected, weight and log_weight of each pair.
        effective: the effective number of rejected responses, (Σ w)²/Σ w², w being the weights that were written.
        effective_per_prompt: the same share of the responses to one prompt, a mean over prompts; None for one response.
        empty: pairs that were left out, since a response has no text.
        cut: responses that were cut off; training gives them an end that was not drawn.
        equal: pairs with the same response twice.
        repeated: pairs that came before.
        changed: responses that tokenise to other tokens than were drawn.
    """

    rows: list[dict[str, Any]]
    effective: float
    effective_per_prompt: float | None
    empty: int
    cut: int
    equal: int
    repeated: int
    changed: int


def draw_pairs(
    reference: Any,
    target: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    *,
    beta: float = 1.0,
    samples: int = 1,
    max_new_tokens: int = 256,
    batch_size: int = 8,
    seed: int = 42,
    told: Callable[[int], object] | None = None,
) -> list[DrawnPair]:
    """Draw pairs y_w ~ π_ref, y_l ~ ρ, a proposal near the ideal rejected distribution, with importance weights.

    Args:
        reference: π_ref.
        target: π*, over the same tokens.
        tokenizer: theirs.
        prompts: texts, or lists of messages.
        beta: β of the ideal rejected distribution, and of the DPO that is to end at π*.
        samples: pairs for each prompt.
        max_new_tokens: responses are cut off after so many tokens.
        batch_size: responses drawn at once.
        seed: of the draws.
        told: what is called with the number of responses after each batch.

    Raises:
        ValueError: if an argument is not acceptable.
        BadDataError: if π* excludes a token that π_ref does not.
    """
    exponent = check_number("beta", beta, POSITIVE)
    check_integer("samples", samples, 1, 10**6)
    check_same_tokens(reference, target)
    befores = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    for model in (reference, target):
        check_room(model, befores, max_new_tokens)
    rows = [number for number in range(len(befores)) for _ in range(samples)]
    pairs = []
    with seeded(reference, seed):
        for start in range(0, len(rows), batch_size):
            batch = rows[start : start + batch_size]
            padded = left_padded(tokenizer, [befores[row] for row in batch])
            chosen = draw(reference, tokenizer, padded, max_new_tokens)
            proposal = RejectedLogits(target, exponent, padded[1])
            rejected = draw(reference, tokenizer, padded, max_new_tokens, proposal)
            found = zip(batch, chosen, rejected, proposal.log_weights(rejected), strict=True)
            pairs += [DrawnPair(row, befores[row], one, two, log_w) for row, one, two, log_w in found]
            if told is not None:
                told(2 * len(batch))
    return pairs


def pair_rows(
    pairs: Sequence[DrawnPair], prompts: Sequence[Any], tokenizer: Any, normalise: str = "overall"
) -> DrawnData:
    r"""Write pairs as texts, with weights of mean 1.

    "overall" divides all w by their mean. The expected loss is then Σ_x p(x) Z(x) L(x), up to a factor, where L(x) is
    DPO's loss at prompt x with y_l from the ideal rejected distribution: prompts weigh by Z(x), and the optimum, which
    is π*(·|x) at each, is exact with any number of responses. "prompt" divides by the mean of the prompt's own w, which
    gives Σ_x p(x) L(x) with many responses to each; with few it is biased towards the proposal, and one is refused.

    Args:
        pairs: what `draw_pairs` drew.
        prompts: the prompts, by their numbers.
        tokenizer: of the models.
        normalise: "overall" or "prompt".

    Raises:
        ValueError: if no pair has two texts, or prompts have one pair only and are to be normalised by themselves.
    """
    check_choice("normalise", normalise, NORMALISE)
    texts = [[response_text(tokenizer, pair.before, side) for side in (pair.chosen, pair.rejected)] for pair in pairs]
    kept = [number for number, sides in enumerate(texts) if all(side.strip() for side in sides)]
    if not kept:
        raise ValueError(message("the responses", "not all empty", "none with a text"))
    found, of_prompt = [pairs[number] for number in kept], torch.tensor([pairs[number].prompt for number in kept])
    log_w = torch.tensor([pair.log_weight for pair in found], dtype=torch.float64)
    whole = torch.zeros_like(of_prompt)
    if normalise == "prompt" and len(of_prompt.unique()) == len(found):
        raise ValueError(message("samples", "at least 2 to normalise weights of a prompt", 1, "Normalise overall."))
    weights = mean_one(log_w, of_prompt if normalise == "prompt" else whole)
    rows = [
        {**_row(prompts[pair.prompt], *texts[number]), "weight": weight, "log_weight": pair.log_weight}
        for number, pair, weight in zip(kept, found, weights.tolist(), strict=True)
    ]
    ends, sides = tokenizer.eos_token_id, [side for pair in found for side in (pair.chosen, pair.rejected)]
    several = [group for group in (log_w[of_prompt == number] for number in of_prompt.unique()) if len(group) > 1]
    shares = [float(effective(group.softmax(0)) / len(group)) for group in several]
    return DrawnData(
        rows,
        float(effective(weights)),
        sum(shares) / len(shares) if shares else None,
        empty=len(pairs) - len(found),
        cut=sum(side[-1] != ends for side in sides),
        equal=sum(pair.chosen == pair.rejected for pair in found),
        repeated=len(found) - len({(pair.prompt, pair.chosen, pair.rejected) for pair in found}),
        changed=sum(
            not _comes_back(tokenizer, prompts[pair.prompt], pair.before, side, text)
            for number, pair in zip(kept, found, strict=True)
            for side, text in zip((pair.chosen, pair.rejected), texts[number], strict=True)
        ),
    )


def mean_one(log_weights: Tensor, groups: Tensor) -> Tensor:
    """Return weights [N] whose mean over each group is 1, from their logarithms."""
    weights = torch.empty_like(log_weights)
    for group in groups.unique():
        inside = groups == group
        weights[inside] = log_weights[inside].softmax(0) * inside.sum()
    return weights


def effective(weights: Tensor) -> Tensor:
    """Return Kish's effective number of responses, (Σ w)²/Σ w²."""
    return weights.sum() ** 2 / (weights**2).sum()


def response_text(tokenizer: Any, before: Ids, response: Ids) -> str:
    """Return the text of a response without its end, as it stands behind its prompt."""
    ended = response[-1] == tokenizer.eos_token_id
    tokens = response[:-1] if ended else response
    prompt, whole = (tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in (before, before + tokens))
    if whole.startswith(prompt):
        return whole[len(prompt) :]
    return tokenizer.decode(tokens, clean_up_tokenization_spaces=False)


def _row(prompt: Any, chosen: str, rejected: str) -> dict[str, Any]:
    """Return a row in TRL's standard or its conversational form."""
    if isinstance(prompt, str):
        return {"prompt": prompt, "chosen": chosen, "rejected": rejected}
    sides = {"chosen": chosen, "rejected": rejected}
    return {"prompt": prompt, **{name: [_answer(text)] for name, text in sides.items()}}


def _answer(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


def _comes_back(tokenizer: Any, prompt: Any, before: Ids, response: Ids, text: str) -> bool:
    """Return whether training will read the tokens that were drawn, with an end; a template may put more behind it."""
    end = tokenizer.eos_token_id
    wanted = [*before, *response] if response[-1] == end else [*before, *response, end]
    whole = prompt + text + tokenizer.eos_token if isinstance(prompt, str) else [*prompt, _answer(text)]
    return list(_tokenize(tokenizer, whole)["input_ids"])[: len(wanted)] == wanted
