"""What runs in a process of its own: the student's file, on all inputs, until the first one that fails.

A loop without end, a call of `exit` or a change of numpy's settings then harm nothing but this process.
"""

import copy
import inspect
import io
import json
import signal
import sys
import traceback
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import numpy as np

from didsim.lessons.grading._compare import difference, recognised, shown
from didsim.lessons.grading._exercise import Exercise, Function, Inputs, Quiz
from didsim.lessons.grading._exercises import EXERCISES

NUM_RANDOM = 200
NUM_RECOGNISED = 40
"""Random inputs at which a slip must agree before it is named."""

MOST_PRINTED = 2000

Verdict = dict[str, Any]
"""A "status" with its "sentence", and the "input", "expected", "got" and "line" where there are some."""


class TimeUpError(BaseException):
    """The student's code has run for too long; no `except Exception` of theirs may catch it."""


class HoleLeftError(Exception):
    """The hole is still there."""


class Kept(io.StringIO):
    """What the student's code prints: the beginning is kept."""

    def write(self, text: str) -> int:
        """Keep the text if there is room."""
        return super().write(text[: max(0, MOST_PRINTED - self.tell())])

    def restart(self, text: str = "") -> None:
        """Forget what was printed, and begin with a text."""
        self.seek(0)
        self.truncate()
        self.write(text)


def examine(path: Path, name: str, seconds: float) -> Verdict:
    """Run a student's file, and return the verdict; it never raises what the student's code raises."""
    printed = Kept()
    with redirect_stdout(printed), redirect_stderr(printed), warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            with _limited(seconds):
                verdict = _examined(EXERCISES[name], _run(path), path, printed)
        except HoleLeftError as hole:
            verdict = {"status": "unfinished", "sentence": str(hole)}
        except TimeUpError as error:
            words = f"It did not end within {seconds:g} s. Is there a loop without an end?"
            verdict = {"status": "late", "sentence": words, **_place(error, path)}
        except (Exception, SystemExit) as error:
            verdict = {"status": "stopped", "sentence": _said(error), **_place(error, path)}
    return {**verdict, "printed": printed.getvalue()}


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Raise TimeUpError where the code is when its time is up; code that catches even that is killed a second later."""
    signal.signal(signal.SIGALRM, _time_up)
    signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def _time_up(signum: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    raise TimeUpError


def _run(path: Path) -> dict[str, Any]:
    """Run a file as a module that is not the main one, and return its names."""
    names: dict[str, Any] = {"__name__": "exercise", "__file__": str(path)}
    exec(compile(path.read_bytes(), str(path), "exec"), names)
    return names


def _said(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return "It ends Python itself: leave out exit() and quit()."
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg}"
    return f"{type(error).__name__}: {error}"


def _place(error: BaseException, path: Path) -> Verdict:
    """Return the line of the student's file where it happened, by number and text."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return {"line": [error.lineno or 1, (error.text or "").strip()]}
    theirs = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
    return {"line": [theirs[-1].lineno, (theirs[-1].line or "").strip()]} if theirs else {}


def _examined(exercise: Exercise | Quiz, names: Mapping[str, Any], path: Path, printed: Kept) -> Verdict:
    if isinstance(exercise, Quiz):
        return _examine_answers(exercise, names)
    return _examine_function(exercise, names, path, printed)


def _examine_function(exercise: Exercise, names: Mapping[str, Any], path: Path, printed: Kept) -> Verdict:
    called = exercise.reference.__name__
    function = names.get(called)
    if not callable(function):
        return {"status": "stopped", "sentence": f"There is no function {called} in it. Keep the name of the file's."}
    rng = np.random.default_rng(0)
    drawn = sorted((dict(exercise.draw(rng)) for _ in range(NUM_RANDOM)), key=_size)  # a small one is read more easily
    labels = [(f"random input {number} of {NUM_RANDOM}", inputs) for number, inputs in enumerate(drawn, 1)]
    labels += [(f"the extreme input “{words}”", dict(inputs)) for words, inputs in exercise.extremes.items()]
    for label, inputs in labels:
        printed.restart()
        try:
            verdict = _examine_at(exercise, function, inputs)
        except (NotImplementedError, HoleLeftError) as hole:
            raise HoleLeftError(f"There is still a hole in {called}.") from hole
        except (Exception, SystemExit) as error:
            verdict = {"status": "stopped", "sentence": _said(error), **_place(error, path)}
        if verdict:
            at = {"where": label, "input": {key: shown(value) for key, value in inputs.items()}}
            said = printed.getvalue()
            slip = recognised(exercise, function, [inputs, *drawn[:NUM_RECOGNISED]])
            printed.restart(said)
            return {**verdict, **at, "slip": slip if verdict["status"] == "wrong" else ""}
    return {"status": "right", "random": NUM_RANDOM, "extremes": len(exercise.extremes)}


def _size(inputs: Inputs) -> int:
    return sum(np.size(value) for value in inputs.values())


def _examine_at(exercise: Exercise, function: Function, inputs: Inputs) -> Verdict | None:
    """Compare the student's function with the reference at one input; None if they agree."""
    wrong_arguments = _wrong_arguments(function, inputs)
    if wrong_arguments:
        return {"status": "stopped", "sentence": f"{exercise.reference.__name__} {wrong_arguments}"}
    expected = exercise.observe(exercise.reference, inputs)
    given = copy.deepcopy(dict(inputs))
    got = exercise.observe(function, given)
    if got is Ellipsis:
        raise HoleLeftError
    for name, value in inputs.items():
        if not np.array_equal(given[name], value):
            words = f"Your function changes its argument {name} in place. Compute with a copy."
            return {"status": "wrong", "sentence": words, "expected": shown(value), "got": shown(given[name])}
    found = difference(exercise, expected, got)
    return None if found is None else {"status": "wrong", **asdict(found)}


def _wrong_arguments(function: Any, inputs: Inputs) -> str:
    """Say what is wrong with the arguments that a function takes, or nothing."""
    try:
        inspect.signature(function).bind(*inputs.values())
    except TypeError:
        return f"must take {len(inputs)} arguments: {', '.join(inputs)}."
    except ValueError:  # a function of a library without a signature
        return ""
    return ""


def _examine_answers(quiz: Quiz, names: Mapping[str, Any]) -> Verdict:
    given = names.get("ANSWERS")
    if not isinstance(given, Mapping):
        return {"status": "stopped", "sentence": "There is no mapping ANSWERS in it. Keep the one of the file."}
    answers = {key: str(given.get(key) or "").strip() for key in quiz.answers}
    unanswered = [key for key, answer in answers.items() if answer in ("", "Ellipsis")]
    for key, answer in answers.items():
        if key not in unanswered and answer not in quiz.choices[key]:
            words = f"{key}: {answer!r} is none of the choices, which are: {', '.join(quiz.choices[key])}."
            return {"status": "wrong", "sentence": words}
    right = sum(answers[key] == answer for key, answer in quiz.answers.items())
    wrong = next((key for key in answers if key not in unanswered and answers[key] != quiz.answers[key]), None)
    if wrong is not None:
        count = f"{right} of {len(answers)} are right."
        return {"status": "wrong", "sentence": f"{wrong} is not “{answers[wrong]}”. {quiz.looks[wrong]} {count}"}
    if unanswered:
        others = f"The other {right} are right." if right else "Those are all."
        raise HoleLeftError(f"{len(unanswered)} are not answered yet: {', '.join(unanswered)}. {others}")
    return {"status": "right", "answers": right}


def main(arguments: list[str]) -> None:
    """Examine a file, and write the verdict: FILE EXERCISE SECONDS VERDICT.json."""
    path, name, seconds, verdict = arguments
    found = examine(Path(path), name, float(seconds))
    Path(verdict).write_text(json.dumps(found), "utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
