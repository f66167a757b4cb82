"""Checking a student's file: which exercise it is, and what became of it in a process of its own."""

import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from didsim.errors import BadDataError
from didsim.lessons.grading._exercises import EXERCISES, find

SECONDS = 10.0
"""How long a student's code may run."""

START_UP = 60.0
"""How long Python may take to begin and to load libraries, beyond that."""

MOST_BYTES = 2**20

WIDTH = 98

MARK = re.compile(rb"^# exercise: *(\S+)", re.MULTILINE)
"""The line by which a file says which exercise it is, whatever its name."""


@dataclass(frozen=True)
class Outcome:
    """What became of a check.

    Attributes:
        path: the file.
        exercise: the name of the exercise.
        status: "right", "wrong", "unfinished" (a hole is left), "stopped" (by an exception) or "late".
        facts: what is to be said about it: "sentence", "slip", "where", "input", "expected", "got", "line", "printed".
    """

    path: Path
    exercise: str
    status: str
    facts: dict[str, Any]

    @property
    def text(self) -> str:
        """All of it in words."""
        exercise = EXERCISES[self.exercise]
        head = f"{self.exercise}, {exercise.title}"
        blocks = [head, _wrapped(_SAID[self.status](self.facts)), _evidence(self.facts), _printed(self.facts)]
        if self.status != "right":
            blocks.append(f"A hint: didsim teach hint {self.exercise}")
        return "\n\n".join(block for block in blocks if block)


def check_file(path: Path, seconds: float = SECONDS) -> Outcome:
    """Compare a student's file with the reference of its exercise. The file is run: it is Python code.

    Args:
        path: the file; its line `# exercise: NAME` says which exercise it is.
        seconds: how long its code may run.

    Raises:
        BadDataError: if the file cannot be read, or names no exercise.
    """
    name = exercise_of(path)
    facts = _judged(path.absolute(), name, seconds)
    return Outcome(path, name, facts.pop("status"), facts)


def exercise_of(path: Path) -> str:
    """Return the name of the exercise that a file is for, by its line `# exercise: NAME`; BadDataError if none."""
    try:
        if not path.is_file():
            raise BadDataError(f"Cannot read {path}: there is no such file. `didsim teach start --all` makes them all.")
        with path.open("rb") as file:
            source = file.read(MOST_BYTES)
    except OSError as error:
        raise BadDataError(f"Cannot read {path}: {error.strerror}.") from error
    named = MARK.search(source)
    if named is None:
        hint = "Put the line back that stands in it: # exercise: ex01 (or whichever it is)."
        raise BadDataError(f"{path} does not say which exercise it is. {hint}")
    try:
        return find(named.group(1).decode("utf-8", "replace")).name
    except ValueError as error:
        raise BadDataError(f"{path}, at its line `# exercise:`: {error}") from error


def _judged(path: Path, name: str, seconds: float) -> dict[str, Any]:
    """Run the examination in a process of its own, which ends when its time is up, whatever it does."""
    with tempfile.TemporaryDirectory() as folder:
        verdict = Path(folder) / "verdict.json"
        code = [sys.executable, "-P", "-m", "didsim.lessons.grading._process"]
        arguments = [str(path), name, str(seconds), str(verdict)]
        with subprocess.Popen(
            [*code, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        ) as process:
            try:
                ended = process.wait(seconds + START_UP)
            except subprocess.TimeoutExpired:
                return {"status": "late", "sentence": f"It did not end within {seconds:g} s, and had to be killed."}
            finally:
                _end(process)
        if ended == -signal.SIGALRM:  # it had caught the end of its time
            return {"status": "late", "sentence": f"It did not end within {seconds:g} s."}
        if not verdict.is_file():
            how = f"signal {-ended}" if ended < 0 else f"exit code {ended}"
            return {"status": "stopped", "sentence": f"It ended Python itself ({how}) before a result was there."}
        return json.loads(verdict.read_text("utf-8"))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill the process and what it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _right(facts: dict[str, Any]) -> str:
    if "answers" in facts:
        return f"You are right: all {facts['answers']} answers."
    return f"You are right: {facts['random']} random inputs, {facts['extremes']} extremes."


def _wrong(facts: dict[str, Any]) -> str:
    at = f" It fails at {facts['where']}." if "where" in facts else ""
    return " ".join(part for part in (f"Not right yet.{at}", facts.get("slip") or facts["sentence"]) if part)


def _stopped(facts: dict[str, Any]) -> str:
    number, text = facts.get("line", (None, ""))
    place = f"Your file stops at line {number}: {text}\n" if number else "Your file stops.\n"
    return place + facts["sentence"]


def _late(facts: dict[str, Any]) -> str:
    number, text = facts.get("line", (None, ""))
    return facts["sentence"] + (f"\nIt was at line {number}: {text}" if number else "")


_SAID = {
    "right": _right,
    "wrong": _wrong,
    "unfinished": lambda facts: f"Not finished yet. {facts['sentence']}",
    "stopped": _stopped,
    "late": _late,
}


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.fill(line, WIDTH, break_on_hyphens=False) for line in text.splitlines())


def _evidence(facts: dict[str, Any]) -> str:
    """Return the input, what was expected and what came, one below the other."""
    rows = dict(facts.get("input", {}))
    rows.update({name: facts[key] for name, key in (("expected", "expected"), ("yours", "got")) if key in facts})
    width = max(map(len, rows), default=0)
    return "\n".join(f"  {name:{width}}  {_indented(text, width + 4)}" for name, text in rows.items())


def _indented(text: str, columns: int) -> str:
    return text.replace("\n", "\n" + " " * columns)


def _printed(facts: dict[str, Any]) -> str:
    return f"There it printed:\n{facts['printed'].rstrip()}" if facts.get("printed", "").strip() else ""


__all__ = ["SECONDS", "Outcome", "check_file", "exercise_of"]
