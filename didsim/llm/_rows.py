r"""A row of a preference dataset, in any of the forms in which they lie about, as an explicit pair that TRL takes.

- texts: `prompt`, `chosen`, `rejected` (TRL's standard form; also with `instruction` for `prompt`);
- dialogues: lists of messages {"role", "content"}, with the prompt apart (TRL's conversational form), or repeated at
  the start of both (UltraFeedback-binarized, Magpie-Air and Pro);
- transcripts: "\n\nHuman: …\n\nAssistant: …" (Anthropic-HH), split at the last "\n\nAssistant:".
"""

import math
from collections.abc import Mapping
from typing import Any

Pair = dict[str, Any]

REWARDS = ("reward_chosen", "reward_rejected")
"""Rewards by another model, for evaluation: training does not look at them."""

TURN = "\n\nAssistant:"
"""Where the last answer of a transcript begins."""


def pair_of(row: Mapping[str, Any]) -> Pair:
    r"""Return `prompt`, `chosen` and `rejected` of a row, and its `weight` if there is one.

    Prompt and responses are texts, or lists of messages. An equal pair is one too: its margin is 0.

    Raises:
        ValueError: if a field is missing or of a wrong type, a response is empty, or both do not answer one prompt.

    >>> pair_of({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: No"})
    {'prompt': '\n\nHuman: Hi\n\nAssistant:', 'chosen': ' Hello', 'rejected': ' No'}
    >>> answers = {name: [{"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    >>> pair_of({"instruction": "Hi", **answers})["prompt"]
    [{'role': 'user', 'content': 'Hi'}]
    """
    sides = {name: _given(row, name) for name in ("chosen", "rejected")}
    kinds = {type(side) for side in sides.values()}
    if kinds == {str}:
        pair = _of_texts(_prompt(row), **sides)
    elif kinds == {list}:
        pair = _of_dialogues(_prompt(row), **{name: _messages(name, side) for name, side in sides.items()})
    else:
        found = " and ".join(type(side).__name__ for side in sides.values())
        raise ValueError(f"chosen and rejected must both be texts, or both lists of messages; got {found}")
    _check_characters(pair)
    if row.get("weight") is not None:
        pair["weight"] = _weight(row["weight"])
    return pair | {name: _reward(name, row[name]) for name in REWARDS if row.get(name) is not None}


def prompt_of(row: Mapping[str, Any]) -> Any:
    """Return the prompt of a row, a text or messages: of a pair, or of a row that has nothing else.

    Raises:
        ValueError: if there is none.

    >>> prompt_of({"prompt": "Hi"})
    'Hi'
    """
    if row.get("chosen") is not None:
        return pair_of(row)["prompt"]
    prompt = _prompt(row)
    if prompt is None:
        raise ValueError("prompt is missing")
    _check_characters({"prompt": prompt})
    return prompt


def is_dialogue(pair: Pair) -> bool:
    """Return whether a pair consists of messages, and not of texts."""
    return isinstance(pair["chosen"], list)


def _given(row: Mapping[str, Any], name: str) -> Any:
    if row.get(name) is None:
        found = ", ".join(sorted(key for key, value in row.items() if value is not None)) or "nothing"
        raise ValueError(f"{name} is missing; the row has {found}")
    return row[name]


def _prompt(row: Mapping[str, Any]) -> Any:
    """Return the prompt, a text or messages, or None if it stands in the responses."""
    prompt = row.get("prompt") if row.get("prompt") is not None else row.get("instruction")
    if prompt is None or isinstance(prompt, str):
        return prompt
    return _messages("prompt", prompt)


def _of_texts(prompt: Any, chosen: str, rejected: str) -> Pair:
    if isinstance(prompt, list):
        raise ValueError("prompt is a list of messages, but chosen and rejected are texts")
    if prompt is None:
        parts = [side.rpartition(TURN) for side in (chosen, rejected)]
        if not all(turn for _, turn, _ in parts):
            raise ValueError('prompt is missing, and chosen and rejected are no transcripts with "\\n\\nAssistant:"')
        if parts[0][0] != parts[1][0]:
            raise ValueError("chosen and rejected do not answer the same prompt: what precedes the last answer differs")
        prompt, chosen, rejected = parts[0][0] + TURN, parts[0][2], parts[1][2]
    for name, text in (("chosen", chosen), ("rejected", rejected)):
        if not text.strip():
            raise ValueError(f"{name} is empty")
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}


def _of_dialogues(prompt: Any, chosen: list[Pair], rejected: list[Pair]) -> Pair:
    for name, side in (("chosen", chosen), ("rejected", rejected)):
        if side[-1]["role"] != "assistant":
            raise ValueError(f"the last message of {name} must be the assistant's; got {side[-1]['role']!r}")
        if not side[-1]["content"].strip():
            raise ValueError(f"{name} is empty")
    if chosen[:-1] != rejected[:-1]:
        raise ValueError("chosen and rejected do not answer the same prompt: the messages before the last differ")
    before = chosen[:-1]
    if isinstance(prompt, list):
        if before and before != prompt:
            raise ValueError("the messages of prompt are not those with which chosen and rejected begin")
        before = prompt
    elif not before:
        if prompt is None:
            raise ValueError("prompt is missing, and chosen and rejected consist of one message")
        before = [{"role": "user", "content": prompt}]
    return {"prompt": before, "chosen": chosen[-1:], "rejected": rejected[-1:]}


def _messages(name: str, side: Any) -> list[Pair]:
    """Return messages with role and content alone."""
    if not isinstance(side, list) or not side:
        raise ValueError(f"{name} must be a text or a list of messages; got {side!r:.60}")
    for message in side:
        texts = isinstance(message, Mapping) and all(isinstance(message.get(key), str) for key in ("role", "content"))
        if not texts:
            raise ValueError(f'a message of {name} must have the texts "role" and "content"; got {message!r:.60}')
    return [{"role": message["role"], "content": message["content"]} for message in side]


def _check_characters(pair: Pair) -> None:
    for name, side in pair.items():
        for text in [side] if isinstance(side, str) else [message["content"] for message in side]:
            if any("\ud800" <= character <= "\udfff" for character in text):
                raise ValueError(f"{name} has half a character, a lone surrogate such as \\ud800")


def _weight(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < math.inf:
        raise ValueError(f"weight must be a number that is finite and not negative; got {value!r:.40}")
    return float(value)


def _reward(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{name} must be a finite number; got {value!r:.40}")
    return float(value)
