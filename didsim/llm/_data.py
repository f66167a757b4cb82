"""Preference data: from a local file, from a dataset, or, only when asked, from the hub."""

import json
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset

from didsim._checks import check_choice
from didsim.errors import BadDataError
from didsim.llm._rows import REWARDS, Pair, is_dialogue, pair_of, prompt_of

ON_BAD_ROW = ("error", "skip")

LARGEST_FILE = 8 * 2**30
"""Bytes of a file that is read: all its rows are held in memory."""

SHOWN = 5
"""So many bad rows are told one by one."""


@dataclass(frozen=True)
class PairData:
    """Pairs for training.

    Attributes:
        pairs: with the columns prompt, chosen, rejected, and, where rows have them, weight, reward_chosen and
            reward_rejected.
        skipped: what is wrong with each row that was left out, "line 7: …".
        equal: how many pairs have the same response twice; their margin is 0.
    """

    pairs: Dataset
    skipped: tuple[str, ...]
    equal: int

    @property
    def sentence(self) -> str:
        """What was read, in words."""
        parts = [f"{len(self.pairs)} pairs"]
        if self.equal:
            parts.append(f"{self.equal} of them with the same response twice")
        if self.skipped:
            more = "" if len(self.skipped) <= SHOWN else f" and {len(self.skipped) - SHOWN} more"
            parts.append(f"{len(self.skipped)} rows skipped ({'; '.join(self.skipped[:SHOWN])}{more})")
        return ", ".join(parts)


def load_pairs(source: str | Path, *, split: str = "train", hub: bool = False, on_bad_row: str = "error") -> PairData:
    """Read preference data.

    Args:
        source: a JSON-lines file, a folder that `datasets` saved to disk, or, with `hub`, the name of a dataset there.
        split: which part of a dataset that has several.
        hub: look on the Hugging Face hub; otherwise nothing goes to the network.
        on_bad_row: "error" stops at the first row that is no pair, "skip" leaves such rows out and counts them.

    Raises:
        BadDataError: if there is no such file, it cannot be read, a row is no pair, or none is left.
    """
    check_choice("on_bad_row", on_bad_row, ON_BAD_ROW)
    return collect(_rows(source, split, hub), str(source), on_bad_row)


def load_prompts(source: str | Path, *, split: str = "train", hub: bool = False) -> list[Any]:
    """Read prompts, texts or lists of messages: rows with a `prompt`, or preference data, whose prompts are taken.

    Args:
        source: as of `load_pairs`.
        split: which part of a dataset that has several.
        hub: look on the Hugging Face hub; otherwise nothing goes to the network.

    Raises:
        BadDataError: if there is no such file, it cannot be read, a row has no prompt, or there is none.
    """
    prompts = []
    for place, row in _rows(source, split, hub):
        try:
            prompts.append(prompt_of(mapping_of(row, "prompt")))
        except ValueError as error:
            raise BadDataError(f"{source}, {place}: {error}.") from error
    if not prompts:
        raise BadDataError(f"{source} has no prompt.")
    return prompts


def _rows(source: str | Path, split: str, hub: bool) -> Iterable[tuple[str, Any]]:
    path = Path(source)
    if hub and not path.exists():
        from datasets import load_dataset

        return _numbered(load_dataset(str(source), split=split))
    return _numbered(_from_disk(path, split)) if path.is_dir() else lines(path)


def collect(rows: Iterable[tuple[str, Any]], where: str, on_bad_row: str = "error") -> PairData:
    """Make pairs of rows, each of which comes with its place, such as "line 7".

    Raises:
        BadDataError: if a row is no pair, or none is left.
    """
    pairs: list[Pair] = []
    skipped: list[str] = []
    for place, row in rows:
        try:
            pairs.append(_same_kind(pair_of(mapping_of(row, "chosen and rejected")), pairs))
        except ValueError as error:
            if on_bad_row == "error":
                hint = 'Mend the row, or leave such rows out: on_bad_row="skip" (--on-bad-row skip).'
                raise BadDataError(f"{where}, {place}: {error}. {hint}") from error
            skipped.append(f"{place}: {error}")
    if not pairs:
        raise BadDataError(f"{where} has no pair{'; ' + skipped[0] if skipped else ''}.")
    without = {"weight": 1.0, **dict.fromkeys(REWARDS)}
    held = {name: value for name, value in without.items() if any(name in pair for pair in pairs)}
    pairs = [held | pair for pair in pairs]
    equal = sum(pair["chosen"] == pair["rejected"] for pair in pairs)
    return PairData(Dataset.from_list(pairs), tuple(skipped), equal)


def mapping_of(row: Any, fields: str) -> Mapping[str, Any]:
    """Return a row that is an object.

    Raises:
        ValueError: if it is not, or was no JSON.
    """
    if isinstance(row, _Broken):
        raise ValueError(row.words)
    if not isinstance(row, Mapping):
        raise ValueError(f"a row must be an object with {fields}; got {row!r:.60}")
    return row


def _same_kind(pair: Pair, others: list[Pair]) -> Pair:
    if others and is_dialogue(pair) != is_dialogue(others[0]):
        kinds = ("texts", "messages")
        raise ValueError(
            f"this pair consists of {kinds[is_dialogue(pair)]}, the first of {kinds[is_dialogue(others[0])]}"
        )
    return pair


def _numbered(rows: Iterable[Any]) -> Iterator[tuple[str, Any]]:
    return ((f"row {number}", row) for number, row in enumerate(rows))


@dataclass(frozen=True)
class _Broken:
    """A line that is no JSON."""

    words: str


def lines(path: Path) -> Iterator[tuple[str, Any]]:
    """Yield the rows of a JSON-lines file; blank lines do not count."""
    for number, line in enumerate(_text(path).split("\n"), start=1):  # JSON may hold other line ends
        if line.strip():
            try:
                yield f"line {number}", json.loads(line)
            except ValueError as error:
                yield f"line {number}", _Broken(f"no JSON: {error}")


def _text(path: Path) -> str:
    """Return the text of a regular file, without a byte-order mark.

    Raises:
        BadDataError: if there is none, or it is no text.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise BadDataError(f"{path} is not a file, and no folder that datasets saved.")
        if status.st_size > LARGEST_FILE:
            raise BadDataError(f"{path} is larger than {LARGEST_FILE // 2**30} GiB.")
        return path.read_text("utf-8-sig")
    except FileNotFoundError:
        hint = "Give a JSON-lines file, or look on the hub with hub=True."
        raise BadDataError(f"There is no file {path}. {hint}") from None
    except UnicodeDecodeError as error:
        raise BadDataError(
            f"{path} is not UTF-8 text: byte {error.start} is {error.object[error.start]:#04x}."
        ) from error
    except OSError as error:
        raise BadDataError(f"{path} cannot be read: {error.strerror}.") from error


def _from_disk(path: Path, split: str) -> Iterable[Any]:
    from datasets import DatasetDict, load_from_disk

    try:
        found = load_from_disk(str(path))
    except Exception as error:
        raise BadDataError(f"{path} is no folder that datasets saved: {error}.") from error
    if not isinstance(found, DatasetDict):
        return found
    if split not in found:
        raise BadDataError(f"{path} has no split {split!r}; it has {', '.join(map(str, found))}.")
    return found[split]
