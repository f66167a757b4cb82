"""What is wrong with preference data, as the trainer will see them: after TRL's own preparation."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from trl.data_utils import _tokenize
from trl.trainer.dpo_trainer import DPOTrainer

from didsim.doctor import Finding
from didsim.llm._data import SHOWN, PairData
from didsim.llm._rows import is_dialogue
from didsim.llm._trainer import PairCollator

SIDES = ("chosen", "rejected")

CHANCE, STANDARD_ERRORS = 0.1, 3.0
"""How far from ½ the share of pairs whose longer response is chosen must lie, itself and in standard errors."""

CUT = 0.05
"""The share of responses that may lose their end without a warning."""


@dataclass(frozen=True)
class Prepared:
    """Pairs as the trainer will see them.

    Attributes:
        prompts: the tokens of each prompt when it stands alone.
        rows: the tokens of each pair, as TRL splits them: prompt_ids, chosen_ids and rejected_ids.
        masks: of each side, for each pair, whether each token of its sequence is scored, after truncation.
        tokenizer: that of the model.
        max_length: in tokens, of a prompt with its response.
    """

    prompts: list[list[int]]
    rows: list[dict[str, list[int]]]
    masks: dict[str, list[list[int]]]
    tokenizer: Any
    max_length: int

    def scored(self, side: str, number: int) -> list[int]:
        """Return the tokens of a response that are scored; the first of a sequence is predicted from nothing."""
        row, mask = self.rows[number], self.masks[side][number]
        tokens = row["prompt_ids"] + row[f"{side}_ids"]
        return [token for token, counts in list(zip(tokens, mask, strict=False))[1:] if counts]

    def where(self, is_wrong: Callable[[int], bool]) -> list[int]:
        """Return the numbers of pairs of which something is true."""
        return [number for number in range(len(self.rows)) if is_wrong(number)]


def examine_data(data: PairData, tokenizer: Any, max_length: int) -> list[Finding]:
    """Look for what usually goes wrong with preference data.

    Args:
        data: the pairs, read with on_bad_row="skip".
        tokenizer: that of the model.
        max_length: in tokens, of a prompt with its response; longer ones lose their end.
    """
    findings = [_rows(data)]
    if is_dialogue(data.pairs[0]) and tokenizer.chat_template is None:
        words = (
            "The pairs are dialogues, and the tokenizer has no chat template to write them with. Take the tokenizer "
        )
        return [*findings, Finding("template", "problem", words + "of a chat model, or pairs of texts.")]
    prepared = prepare(data, tokenizer, max_length)
    return [*findings, *(check(prepared) for check in CHECKS)]


def prepare(data: PairData, tokenizer: Any, max_length: int) -> Prepared:
    """Tokenise pairs as TRL's trainer does, and cut them as its collator does; none is dropped here."""
    settings: Any = SimpleNamespace(dataset_num_proc=None, max_length=None, truncation_mode="keep_start")
    trainer: Any = SimpleNamespace(_tokenizer=tokenizer)
    columns = data.pairs.select_columns(["prompt", *SIDES])
    rows = list(DPOTrainer._prepare_dataset(trainer, columns, tokenizer, settings, "train"))
    spoken = {"add_generation_prompt": True} if is_dialogue(data.pairs[0]) else {}
    prompts = [_tokenize(tokenizer, prompt, **spoken)["input_ids"] for prompt in data.pairs["prompt"]]
    collator = PairCollator(pad_token_id=tokenizer.pad_token_id, max_length=max_length)
    masks: dict[str, list[list[int]]] = {side: [] for side in SIDES}
    for row in rows:
        for side, mask in zip(SIDES, collator([row])["completion_mask"].tolist(), strict=True):
            masks[side].append(mask)
    return Prepared(prompts, rows, masks, tokenizer, max_length)


def _rows(data: PairData) -> Finding:
    if not data.skipped:
        return Finding("rows", "ok", f"All {len(data.pairs)} rows are pairs.")
    shown = "; ".join(data.skipped[:SHOWN]) + (" …" if len(data.skipped) > SHOWN else "")
    words = f"{len(data.skipped)} rows are no pairs: {shown}. Mend them, or leave them out with --on-bad-row skip."
    return Finding("rows", "problem", words)


def _listed(numbers: Sequence[int]) -> str:
    """Say how many pairs, and which first."""
    first = ", ".join(map(str, numbers[:SHOWN])) + (" …" if len(numbers) > SHOWN else "")
    return f"{len(numbers)} pairs ({first})"


def _finding(name: str, status: str, numbers: Sequence[int], words: str, ok: str) -> Finding:
    """Return a finding about some pairs, or that there are none such; pairs are counted from 0."""
    return Finding(name, status, f"{_listed(numbers)} {words}") if numbers else Finding(name, "ok", ok)


def _empty(prepared: Prepared) -> Finding:
    numbers = prepared.where(lambda n: not all(prepared.scored(side, n) for side in SIDES))
    words = (
        f"have a response of which no token is left at --max-length {prepared.max_length}; training leaves such pairs "
    )
    words += "out, or stops. Raise it, or shorten the prompts."
    return _finding("empty", "problem", numbers, words, "Every response has a token that is scored.")


def _cut(prepared: Prepared) -> Finding:
    def is_cut(number: int) -> bool:
        row = prepared.rows[number]
        return any(len(row["prompt_ids"] + row[f"{side}_ids"]) > prepared.max_length for side in SIDES)

    numbers = prepared.where(is_cut)
    status = "warning" if len(numbers) > CUT * len(prepared.rows) else "info"
    words = f"are longer than --max-length {prepared.max_length} and lose their end. Raise it if memory allows."
    return _finding("cut", status, numbers, words, f"No pair is longer than {prepared.max_length} tokens.")


def _equal(prepared: Prepared) -> Finding:
    numbers = prepared.where(lambda n: prepared.scored("chosen", n) == prepared.scored("rejected", n) != [])
    words = "have the same tokens as chosen and as rejected response, so their margin is always 0. Leave them out."
    return _finding("equal", "warning", numbers, words, "The two responses of every pair differ.")


def _keys(prepared: Prepared, sides: Sequence[str]) -> list[tuple[tuple[int, ...], ...]]:
    names = ("prompt_ids", *(f"{side}_ids" for side in sides))
    return [tuple(tuple(row[name]) for name in names) for row in prepared.rows]


def _duplicates(prepared: Prepared) -> Finding:
    keys, seen = _keys(prepared, SIDES), set()
    numbers = [number for number, key in enumerate(keys) if key in seen or seen.add(key)]
    words = "stand in the data more than once, and count as often. Leave the others out unless that is meant."
    return _finding("duplicates", "warning", numbers, words, "No pair stands there twice.")


def _contradictions(prepared: Prepared) -> Finding:
    reversed_ = set(_keys(prepared, SIDES[::-1]))
    same = _keys(prepared, SIDES)
    numbers = prepared.where(lambda n: same[n] in reversed_ and same[n][1] != same[n][2])
    words = "have their reverse in the data too: both cannot be preferred, and their gradients nearly cancel. Decide."
    return _finding("contradictions", "warning", numbers, words, "No pair has its reverse in the data.")


def _double_start(prepared: Prepared) -> Finding:
    start = prepared.tokenizer.bos_token_id
    numbers = prepared.where(lambda n: start is not None and prepared.rows[n]["prompt_ids"][:2] == [start, start])
    words = (
        f"begin with {prepared.tokenizer.bos_token!r} twice: the text or the chat template has it, and the tokenizer "
    )
    return _finding("start", "problem", numbers, words + "adds it. Take it out of one.", "No sequence begins twice.")


def _without_end(prepared: Prepared) -> Finding:
    end = prepared.tokenizer.eos_token_id
    numbers = prepared.where(lambda n: any(end not in prepared.rows[n][f"{side}_ids"] for side in SIDES))
    words = (
        f"have a response without {prepared.tokenizer.eos_token!r}: the model does not learn where to stop. Let the "
    )
    words += "chat template write it after each answer."
    return _finding("end", "problem", numbers, words, f"Every response ends with {prepared.tokenizer.eos_token!r}.")


def _boundary(prepared: Prepared) -> Finding:
    numbers = prepared.where(lambda n: prepared.prompts[n] != prepared.rows[n]["prompt_ids"])
    words = (
        "have a prompt whose last tokens become others when a response follows, so that training sees another prompt "
    )
    words += "than generation does. "
    if numbers:
        row, alone = prepared.rows[numbers[0]], prepared.prompts[numbers[0]]
        words += f"There {_text(prepared, alone[len(row['prompt_ids']) :])} is taken for a part of the response. "
    words += "Let the prompt end, or the response begin, with the space between them."
    return _finding("boundary", "warning", numbers, words, "Prompts have the same tokens with a response and without.")


def _text(prepared: Prepared, tokens: Sequence[int]) -> str:
    """Return the end of a text, in quotes."""
    text = prepared.tokenizer.decode(list(tokens))
    return repr(text if len(text) <= 80 else "…" + text[-80:])


def _lengths(prepared: Prepared) -> Finding:
    lengths = {side: [len(row[f"{side}_ids"]) for row in prepared.rows] for side in SIDES}
    means = {side: sum(lengths[side]) / len(prepared.rows) for side in SIDES}
    longer = [c > r for c, r in zip(*lengths.values(), strict=True) if c != r]
    share = sum(longer) / len(longer) if longer else 0.5
    words = (
        f"Chosen responses have {means['chosen']:.4g} tokens on average, rejected ones {means['rejected']:.4g}; the "
    )
    words += f"longer one is chosen in {share:.0%} of the pairs that differ in length."
    if abs(share - 0.5) > CHANCE and abs(share - 0.5) > STANDARD_ERRORS * 0.5 / math.sqrt(len(longer)):
        hint = " Length alone tells the two apart, and may be what is learnt. Compare with a loss that divides by it."
        return Finding("length", "warning", words + hint)
    return Finding("length", "ok", words)


def _scored(prepared: Prepared) -> Finding:
    prompt, response = prepared.rows[0]["prompt_ids"], prepared.scored("chosen", 0)
    words = (
        f"Of the first pair {_text(prepared, response)} is scored as chosen response, {_text(prepared, prompt)} before "
    )
    return Finding("scored", "info", words + "it is not.")


CHECKS = (
    *(_empty, _cut, _equal, _duplicates, _contradictions, _double_start, _without_end, _boundary, _lengths),
    _scored,
)
"""All that is looked for in prepared pairs."""
