"""Preference data in the forms in which they lie on the hub, and what is wrong with rows that are none."""

import json
import os
import re

import pytest

pytest.importorskip("trl", reason="the extra llm is not installed")

from datasets import Dataset, DatasetDict, disable_progress_bar

from didsim.errors import BadDataError
from didsim.llm import load_pairs
from didsim.llm._data import collect
from didsim.llm._rows import pair_of

pytestmark = pytest.mark.llm
disable_progress_bar()


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


TEXTS = {"prompt": "Say hello.", "chosen": " Hello!", "rejected": " No."}
APART = {"prompt": [user("Hi")], "chosen": [assistant("Hello")], "rejected": [assistant("No")]}
HH = {
    "chosen": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Hello\n\nAssistant: Hello!",
    "rejected": "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Hello\n\nAssistant: No.",
}
ULTRAFEEDBACK = {
    "prompt": "Hi",
    "prompt_id": "5f",
    "chosen": [user("Hi"), assistant("Hello")],
    "rejected": [user("Hi"), assistant("No")],
    "messages": [user("Hi"), assistant("Hello")],
    "score_chosen": 8.5,
    "score_rejected": 4.0,
}
MAGPIE = {"uuid": "1", "instruction": "Hi", "chosen": ULTRAFEEDBACK["chosen"], "rejected": ULTRAFEEDBACK["rejected"]}
IMPLICIT = {name: ULTRAFEEDBACK[name] for name in ("chosen", "rejected")}


def write(path, *lines):
    path.write_text("".join(f"{line if isinstance(line, str) else json.dumps(line)}\n" for line in lines), "utf-8")
    return path


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        (TEXTS, TEXTS),
        ({"instruction": "Say hello.", **{k: TEXTS[k] for k in ("chosen", "rejected")}}, TEXTS),
        (APART, APART),
        (ULTRAFEEDBACK, APART),
        (MAGPIE, APART),
        (IMPLICIT, APART),
        ({**APART, "prompt": "Hi"}, APART),
        ({**IMPLICIT, "prompt": [user("Hi")]}, APART),
        ({**TEXTS, "weight": 2}, {**TEXTS, "weight": 2.0}),
        ({**TEXTS, "weight": None}, TEXTS),
    ],
)
def test_every_form_is_an_explicit_pair(row, wanted):
    assert pair_of(row) == wanted


def test_a_transcript_is_split_at_the_last_answer():
    before = "\n\nHuman: Hi\n\nAssistant: What?\n\nHuman: Hello\n\nAssistant:"
    assert pair_of(HH) == {"prompt": before, "chosen": " Hello!", "rejected": " No."}


def test_a_text_pair_with_a_prompt_is_not_split():
    assert pair_of({**TEXTS, "chosen": "a\n\nAssistant: b"})["chosen"] == "a\n\nAssistant: b"


def test_further_fields_of_messages_are_left_out():
    row = {**IMPLICIT, "chosen": [{**user("Hi"), "id": 3}, {**assistant("Hello"), "model": "x"}]}
    assert pair_of(row) == APART


BAD = {
    "chosen is missing": {"prompt": "a", "rejected": "b"},
    "chosen is missing; the row has prompt": {"prompt": "a", "chosen": None, "rejected": None},
    "both be texts, or both lists": {**TEXTS, "chosen": [assistant("Hello")]},
    "got int and int": {"chosen": 3, "rejected": 4},
    "chosen is empty": {**TEXTS, "chosen": "  "},
    "rejected is empty": {**APART, "rejected": [assistant("")]},
    "prompt is missing, and chosen and rejected are no transcripts": {"chosen": "a", "rejected": "b"},
    "what precedes the last answer differs": {**HH, "rejected": HH["rejected"].replace("What", "Who")},
    "the messages before the last differ": {**IMPLICIT, "rejected": [user("Ho"), assistant("No")]},
    "prompt is missing, and chosen and rejected consist of one message": {k: APART[k] for k in ("chosen", "rejected")},
    "the messages of prompt are not those": {**IMPLICIT, "prompt": [user("Ho")]},
    "must be the assistant's; got 'user'": {**IMPLICIT, "chosen": [user("Hi")]},
    'a message of chosen must have the texts "role"': {**IMPLICIT, "chosen": [{"role": "assistant"}]},
    "chosen must be a text or a list of messages; got []": {"chosen": [], "rejected": []},
    "prompt is a list of messages, but": {**TEXTS, "prompt": [user("Hi")]},
    "prompt must be a text or a list of messages; got 3": {**TEXTS, "prompt": 3},
    "weight must be a number": {**TEXTS, "weight": "2"},
    "finite and not negative; got -1": {**TEXTS, "weight": -1},
    "finite and not negative; got nan": {**TEXTS, "weight": float("nan")},
    "half a character": {**TEXTS, "chosen": "\ud800"},
}


@pytest.mark.parametrize("words", BAD)
def test_what_is_no_pair_is_refused_in_words(words):
    with pytest.raises(ValueError, match=re.escape(words)):
        pair_of(BAD[words])


def test_a_bad_row_stops_with_its_line(tmp_path):
    path = write(tmp_path / "pairs.jsonl", TEXTS, "", {**TEXTS, "chosen": None})
    with pytest.raises(BadDataError, match=r"pairs.jsonl, line 3: chosen is missing.*on_bad_row=.skip."):
        load_pairs(path)


def test_bad_rows_are_left_out_and_counted_when_asked(tmp_path):
    path = write(tmp_path / "pairs.jsonl", TEXTS, {"x": 1}, "{", "3", {**TEXTS, "chosen": " No."}, APART)
    found = load_pairs(path, on_bad_row="skip")
    assert len(found.pairs) == 2
    assert found.equal == 1
    assert [place.partition(":")[0] for place in found.skipped] == ["line 2", "line 3", "line 4", "line 6"]
    assert found.sentence.startswith("2 pairs, 1 of them with the same response twice, 4 rows skipped (line 2: ")
    assert "this pair consists of messages, the first of texts" in found.skipped[-1]


def test_half_a_last_line_is_no_row(tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_text(json.dumps(TEXTS) + "\n" + json.dumps(TEXTS)[:20], "utf-8")
    with pytest.raises(BadDataError, match="line 2: no JSON"):
        load_pairs(path)


def test_marks_and_line_ends_of_other_systems_are_read(tmp_path):
    path = tmp_path / "pairs.jsonl"
    line = json.dumps({**TEXTS, "chosen": "a\u2028b"}, ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{line}\r\n{line}\r\n".encode())
    assert load_pairs(path).pairs["chosen"] == ["a\u2028b"] * 2


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "has no pair"),
        (b"\xff\xfe{", "not UTF-8"),
        (b'{"prompt": "\x00"}', "line 1: no JSON"),
        (b"[1]", "an object"),
    ],
)
def test_what_is_no_data_is_refused(content, words, tmp_path):
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadDataError, match=words):
        load_pairs(path)


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(BadDataError, match=r"There is no file .*hub=True"):
        load_pairs(tmp_path / "none.jsonl")
    with pytest.raises(BadDataError, match="no folder that datasets saved"):
        load_pairs(tmp_path)
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(BadDataError, match="is not a file"):
            load_pairs(tmp_path / "pipe")


def test_a_saved_dataset_is_read_by_its_split(tmp_path):
    parts = DatasetDict({"train": Dataset.from_list([TEXTS] * 2), "test": Dataset.from_list([TEXTS])})
    parts.save_to_disk(tmp_path / "data")
    assert len(load_pairs(tmp_path / "data", split="test").pairs) == 1
    with pytest.raises(BadDataError, match="no split 'dev'; it has train, test"):
        load_pairs(tmp_path / "data", split="dev")


def test_nothing_goes_to_the_network_unless_asked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadDataError, match="There is no file trl-lib/ultrafeedback_binarized"):
        load_pairs("trl-lib/ultrafeedback_binarized")


def test_rows_without_a_weight_among_weighted_ones_count_once():
    found = collect([("row 0", {**TEXTS, "weight": 3.0}), ("row 1", TEXTS)], "here")
    assert found.pairs["weight"][:] == [3.0, 1.0]
