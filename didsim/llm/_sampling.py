"""Responses drawn from a language model exactly: at temperature 1, of all tokens, with nothing penalised or forced."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList
from trl.data_utils import _tokenize
from trl.trainer.utils import add_fused_lm_head

from didsim._checks import check_integer, message
from didsim.errors import BadDataError
from didsim.llm._reading import padded, read

Ids = tuple[int, ...]


@dataclass(frozen=True)
class Sample:
    """A response that was drawn.

    Attributes:
        prompt: the number of its prompt.
        before: the tokens of the prompt.
        tokens: those of the response, with the one that ends it.
        log_prob: log π(y|x) under the model that it was drawn from, in nats.
        cut: whether it was cut off before its end.
    """

    prompt: int
    before: Ids
    tokens: Ids
    log_prob: float
    cut: bool


def sample_responses(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[Any],
    count: int,
    max_new_tokens: int,
    seed: int,
    batch_size: int = 8,
    told: Callable[[int], object] | None = None,
) -> list[Sample]:
    """Draw responses y ~ π(·|x), whatever the model's own settings for generation say.

    A response ends with the tokenizer's end of sequence, as those of training do, and is cut off after
    `max_new_tokens`: what is drawn is exact for responses cut off there.

    Args:
        model: the policy π.
        tokenizer: its tokenizer.
        prompts: texts, or lists of messages.
        count: so many responses for each prompt.
        max_new_tokens: the most tokens of a response.
        seed: of the draws; the same seed, batch size and machine give the same responses.
        batch_size: responses drawn at once.
        told: what is called with the number of responses after each batch, such as the `update` of a progress bar.

    Returns:
        The responses to the first prompt, then those to the second, and so on.
    """
    check_integer("count", count, 1, 10**6)
    befores = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    check_room(model, befores, max_new_tokens)
    rows = [number for number in range(len(befores)) for _ in range(count)]
    drawn: list[Ids] = []
    with seeded(model, seed):
        for start in range(0, len(rows), batch_size):
            batch = [befores[row] for row in rows[start : start + batch_size]]
            drawn += draw(model, tokenizer, left_padded(tokenizer, batch), max_new_tokens)
            if told is not None:
                told(len(batch))
    log_probs = score(model, tokenizer, [befores[row] for row in rows], drawn, batch_size).tolist()
    ends = [tokens[-1] == tokenizer.eos_token_id for tokens in drawn]
    found = zip(rows, drawn, log_probs, ends, strict=True)
    return [Sample(row, befores[row], tokens, log_prob, not end) for row, tokens, log_prob, end in found]


def check_room(model: Any, befores: Sequence[Ids], limit: int) -> None:
    """Refuse prompts after which a model has no room for a response of `limit` tokens.

    Raises:
        ValueError: if there is one.
    """
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    longest = max(map(len, befores))
    if positions is not None and longest + limit > positions:
        room = f"at most {positions - longest}" if positions > longest else "possible"
        hint = f"The longest prompt has {longest} tokens, and the model takes {positions} in all."
        raise ValueError(message("max_new_tokens", room, limit, hint))


def prompt_ids(tokenizer: Any, prompt: Any) -> Ids:
    """Return the tokens of a prompt, as TRL makes them; of one that has none, a first token.

    Raises:
        BadDataError: if the chat template does not take the messages, or there is none.
    """
    try:
        template = {"add_generation_prompt": True} if isinstance(prompt, list) else {}
        ids = _tokenize(tokenizer, prompt, **template)["input_ids"]
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise BadDataError(f"The tokenizer cannot read the prompt {str(prompt)!r:.60}: {first}") from error
    first = tokenizer.bos_token_id
    return tuple(ids) or (tokenizer.eos_token_id if first is None else first,)


def score(model: Any, tokenizer: Any, befores: Sequence[Ids], responses: Sequence[Ids], batch_size: int = 8) -> Tensor:
    """Return log π of whole responses, each to its prompt, in nats, float64 [N]; all are tokens."""
    _with_fused_head(model)
    found = [torch.zeros(0, dtype=torch.float64)]
    for start in range(0, len(befores), batch_size):
        part = slice(start, start + batch_size)
        rows = padded(befores[part], responses[part], tokenizer.pad_token_id, model.device)
        with torch.no_grad():
            found.append(read(model, model, rows).log_probs.double().sum(1).cpu())
    return torch.cat(found)


@contextmanager
def seeded(model: Any, seed: int) -> Iterator[None]:
    """Let a seed decide the draws of a model, and leave those of the caller as they were."""
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def left_padded(tokenizer: Any, befores: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Lay out prompts for generation: their tokens [B, P], and where they stand, 0 or 1 [B, P]."""
    width = max(map(len, befores))
    ids = [[tokenizer.pad_token_id] * (width - len(before)) + list(before) for before in befores]
    seen = [[0] * (width - len(before)) + [1] * len(before) for before in befores]
    return torch.tensor(ids), torch.tensor(seen)


def draw(
    model: Any, tokenizer: Any, prompts: tuple[Tensor, Tensor], limit: int, processor: LogitsProcessor | None = None
) -> list[Ids]:
    """Draw one response to each prompt, from the model itself or from what a processor makes of its logits."""
    ids, seen = (part.to(model.device) for part in prompts)
    end = tokenizer.eos_token_id
    settings = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=limit,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
    )
    processors = LogitsProcessorList([] if processor is None else [processor])
    with torch.no_grad(), _plainly(model):
        out = model.generate(ids, attention_mask=seen, generation_config=settings, logits_processor=processors)
    rows = [row[ids.shape[1] :] for row in out.tolist()]
    return [tuple(row[: row.index(end) + 1] if end in row else row) for row in rows]


@contextmanager
def _plainly(model: Any) -> Iterator[None]:
    """Set aside the model's own settings, with which generation would fill whatever is not given."""
    own, model.generation_config = model.generation_config, GenerationConfig()
    try:
        yield
    finally:
        model.generation_config = own


def _with_fused_head(model: Any) -> None:
    """Let a model score tokens without whole logits, unless a trainer has done so already."""
    if "forward" not in vars(model):
        add_fused_lm_head(model)
