"""Files of responses with rewards: drawn here, scored elsewhere, and read back.

Each line is an object with `prompt`, `response` and `reward`. Lines that `response_lines` wrote have the tokens, and
whose they are, too: these stand for draws from a policy, the others for responses of which no more is known.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from didsim.errors import BadDataError
from didsim.llm._data import lines, mapping_of
from didsim.llm._sampling import Sample, prompt_ids

REFERENCE = "reference"
"""The role of responses that were drawn from π_ref."""

POLICY = "policy"

Source = tuple[str, str]
"""A role, and the name of a model."""


@dataclass(frozen=True)
class Drawn:
    """Responses of one policy, and their rewards, [N], if these are known."""

    samples: Sequence[Sample]
    rewards: Tensor | None = None

    @property
    def prompts(self) -> Tensor:
        """The numbers of the prompts, [N]."""
        return torch.tensor([sample.prompt for sample in self.samples])

    @property
    def log_probs(self) -> Tensor:
        """Log π of each response under the policy it was drawn from, in nats, [N]."""
        return torch.tensor([sample.log_prob for sample in self.samples], dtype=torch.float64)


@dataclass(frozen=True)
class Rewards:
    """What a file says.

    Attributes:
        table: rewards by prompt and response.
        drawn: responses that were drawn, by role and model; their prompts are numbered as they come.
    """

    table: dict[tuple[str, str], float]
    drawn: dict[Source, Drawn]

    def of(self, prompt: Any, response: Any) -> float:
        """Return the reward of a response, or NaN if it is not known."""
        return self.table.get(_key(prompt, response), math.nan)


def response_lines(source: Source, prompts: Sequence[Any], samples: Iterable[Sample], tokenizer: Any) -> list[str]:
    """Return a line of JSON for each response of a policy; a `reward` is to be added to it."""
    rows = (
        {
            "role": source[0],
            "model": source[1],
            "prompt": prompts[sample.prompt],
            "response": tokenizer.decode(sample.tokens, skip_special_tokens=True),
            "tokens": list(sample.tokens),
            "log_prob": sample.log_prob,
            "cut": sample.cut,
        }
        for sample in samples
    )
    return [json.dumps(row, ensure_ascii=False) for row in rows]


def read_rewards(path: Path, tokenizer: Any, num_tokens: int) -> Rewards:
    """Read rewards of responses.

    Args:
        path: a JSON-lines file.
        tokenizer: the tokenizer of the models.
        num_tokens: so many tokens the models know.

    Raises:
        BadDataError: if the file cannot be read, or a line is none of these.
    """
    table: dict[tuple[str, str], float] = {}
    numbers: dict[str, int] = {}
    samples: dict[Source, list[tuple[Sample, float]]] = {}
    for place, line in lines(path):
        try:
            row = mapping_of(line, "prompt, response and reward")
            prompt, response, reward = _scored(row)
            table[_key(prompt, response)] = reward
            if "tokens" in row:
                number = numbers.setdefault(_text(prompt), len(numbers))
                sample = _sample(row, number, prompt_ids(tokenizer, prompt), num_tokens)
                samples.setdefault((row["role"], row["model"]), []).append((sample, reward))
        except ValueError as error:
            raise BadDataError(f"{path}, {place}: {error}.") from error
    if not table:
        raise BadDataError(f"{path} has no reward.")
    drawn = {
        source: Drawn([sample for sample, _ in pairs], torch.tensor([r for _, r in pairs], dtype=torch.float64))
        for source, pairs in samples.items()
    }
    return Rewards(table, drawn)


def _scored(row: Mapping[str, Any]) -> tuple[Any, Any, float]:
    if missing := [name for name in ("prompt", "response", "reward") if row.get(name) is None]:
        raise ValueError(f"{missing[0]} is missing; a line has prompt, response and reward")
    reward = row["reward"]
    if isinstance(reward, bool) or not isinstance(reward, int | float) or not math.isfinite(reward):
        raise ValueError(f"reward must be a finite number; got {reward!r:.40}")
    return row["prompt"], row["response"], float(reward)


def _sample(row: Mapping[str, Any], number: int, before: tuple[int, ...], known: int) -> Sample:
    tokens, log_prob = row["tokens"], row.get("log_prob")
    if not isinstance(tokens, list) or not tokens or not all(type(one) is int and 0 <= one < known for one in tokens):
        raise ValueError(f"tokens must be those of a response, numbers below {known}; got {tokens!r:.60}")
    if not isinstance(log_prob, float) or row.get("role") not in (POLICY, REFERENCE) or "model" not in row:
        raise ValueError("a line with tokens must keep its role, model, log_prob and cut as they were written")
    return Sample(number, before, tuple(tokens), log_prob, bool(row.get("cut")))


def _key(prompt: Any, response: Any) -> tuple[str, str]:
    """Return how a response is found again: whatever blanks surround it, as a text or as a message."""
    if isinstance(response, list) and response and isinstance(response[-1], dict):
        response = response[-1].get("content")
    return _text(prompt), _text(response.strip() if isinstance(response, str) else response)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
