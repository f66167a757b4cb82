"""A lesson as one HTML file with everything in it: text, formulas, charts drawn, style, and script."""

import base64
import hashlib
import inspect
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any

from didsim import CLAIMS, __version__
from didsim.lessons._chart import data_of, draw
from didsim.lessons._lesson import Lesson, Step, View
from didsim.lessons._text import formula, inline, paragraphs, say, sentence
from didsim.plotting import OKABE_ITO

COLOURS = ("black", "orange", "sky", "green", "yellow", "blue", "vermilion", "purple")
"""The names of `OKABE_ITO`, as charts use them; "ink" is the colour of the text."""

SIGNIFICANT = 7
"""Digits of numbers that are computed when the page is made: more than can be seen or are written."""


def lesson_page(lesson: Lesson, lessons: Mapping[str, Lesson] | None = None) -> str:
    """Return a lesson as a page.

    Args:
        lesson: the lesson.
        lessons: the course that it links to, of pages beside it; None if it stands alone.
    """
    body = "\n".join(
        [
            _header(lesson, lessons),
            "<main>",
            *[_step(step, number) for number, step in enumerate(lesson.steps, 1)],
            "</main>",
            _footer(lesson, lessons),
        ]
    )
    return document(f"{lesson.title}: lesson {lesson.number}", body, script_of(lesson))


def notes_page(lesson: Lesson) -> str:
    """Return what the lecturer reads of a lesson as a page."""
    steps = "\n".join(_notes(lesson, step, number) for number, step in enumerate(lesson.steps, 1))
    body = (
        f'<header>\n<p class="place">Lecturer\'s notes · <a href="lesson{lesson.number}.html">lesson '
        f"{lesson.number}</a> · {lesson.minutes} minutes</p>\n<h1>{inline(lesson.title)}</h1>\n"
        f'<p class="aim">{inline(lesson.aim)}</p>\n</header>\n<main class="notes">\n{steps}\n</main>'
    )
    return document(f"Notes on lesson {lesson.number}", body)


def _notes(lesson: Lesson, step: Step, number: int) -> str:
    presets = " · ".join(
        f'<a href="lesson{lesson.number}.html#{step.name}={value!r}">{inline(text)}</a>'
        for text, value in step.control.presets.items()
    )
    return "\n".join(
        [
            f'<section>\n<h2><span class="number">{number}</span> {inline(step.title)}</h2>',
            f"<p>{step.notes.minutes} minutes. {inline(step.predict)}</p>",
            f"<h3>Ask before the slider moves</h3>\n{_items(step.notes.ask)}",
            f"<h3>Wrong answers that will come</h3>\n{_items(step.notes.wrong)}",
            f"<h3>Settings to show</h3>\n<p>{presets}</p>" if presets else "",
            f"<h3>The check</h3>\n<p>{inline(step.check.text)} {_answer(step)}</p>",
            _claims(step),
            "</section>",
        ]
    )


def _items(texts: Sequence[str]) -> str:
    return "<ul>\n" + "\n".join(f"<li>{inline(text)}</li>" for text in texts) + "\n</ul>"


def index_page(lessons: Mapping[str, Lesson]) -> str:
    """Return the page that leads to all lessons."""
    items = "\n".join(
        f'<li><a href="lesson{x.number}.html">{x.number}. {inline(x.title)}</a><p>{inline(x.aim)} {x.minutes} minutes; '
        f'<a href="lesson{x.number}-notes.html">notes for the lecturer<span class="hidden"> of lesson {x.number}</span>'
        "</a>.</p></li>"
        for x in lessons.values()
    )
    minutes = sum(lesson.minutes for lesson in lessons.values())
    body = (
        "<header>\n<h1>Preference optimisation, with the truth on the screen</h1>\n"
        f'<p class="aim">{len(lessons)} lessons, {minutes} minutes. Predict, move a slider, read one sentence, '
        "check.</p>\n"
        f'</header>\n<main>\n<ol class="course">\n{items}\n</ol>\n</main>\n'
        f"<footer><p>Made by didsim {__version__}. The pages ask nothing of the network.</p></footer>"
    )
    return document("Preference optimisation", body)


def course(lessons: Mapping[str, Lesson]) -> Iterator[tuple[str, str]]:
    """Make all pages of the course, with the names of their files."""
    yield "index.html", index_page(lessons)
    for lesson in lessons.values():
        yield f"lesson{lesson.number}.html", lesson_page(lesson, lessons)
        yield f"lesson{lesson.number}-notes.html", notes_page(lesson)


def script_of(lesson: Lesson) -> str:
    """Return the script of a lesson's page: the runtime, the models, and the data."""
    runtime, models = _file("runtime.js"), _file(f"course/lesson{lesson.number}.js")
    steps = [_data(step) for step in lesson.steps]
    text = json.dumps(_named(steps), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    quoted = json.dumps(text, ensure_ascii=False).replace("</", "<\\/").replace("<!", "<\\!")
    return f'{runtime}\n{models}\nif (typeof document !== "undefined") open(revived({quoted}));\n'


def document(title: str, body: str, script: str = "") -> str:
    """Return a whole page, whose policy allows its own style and script and nothing else."""
    style = _style()
    policy = f"default-src 'none'; style-src {_hash(style)}; base-uri 'none'; form-action 'none'"
    if script:
        policy += f"; script-src {_hash(script)}"
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en-GB">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            "</head>",
            "<body>",
            body,
            f"<script>{script}</script>" if script else "",
            "</body>",
            "</html>",
            "",
        ]
    )


def _hash(text: str) -> str:
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return f"'sha256-{digest}'"


def _style() -> str:
    palette = "".join(f"--{name}:{colour};" for name, colour in zip(COLOURS, OKABE_ITO, strict=True))
    rules = "".join(f".c-{name}{{--c:var(--{name})}}" for name in (*COLOURS[1:], "ink"))
    return f":root{{{palette}}}\n.c-black{{--c:var(--ink)}}{rules}\n{_file('page.css')}"


def _file(name: str) -> str:
    return files("didsim.lessons").joinpath(name).read_text("utf-8")


# --- what the script knows --------------------------------------------------------------------------------------


def _data(step: Step) -> dict[str, Any]:
    data = {
        "name": step.name,
        "values": step.control.values,
        "start": step.control.start,
        "digits": step.control.digits,
        "words": step.control.words,
        "chart": data_of(step.chart),
        "answer": step.check.answer,
        "why": step.check.why,
    }
    if step.live:
        return data | {"constants": step.constants}
    return data | {"frames": [_frame(view) for view in step.views]}


def _frame(view: View) -> dict[str, Any]:
    series = {name: [_rounded(value) for value in values] for name, values in view.series.items()}
    return {"series": series, "numbers": {name: _rounded(value) for name, value in view.numbers.items()}}


def _rounded(value: float | str) -> float | str:
    return value if isinstance(value, str) or not math.isfinite(value) else float(f"{value:.{SIGNIFICANT}g}")


def _named(value: Any) -> Any:
    """Give what JSON has no word for a name; arrays become lists."""
    if isinstance(value, Mapping):
        return {name: _named(item) for name, item in value.items()}
    if isinstance(value, list | tuple) or hasattr(value, "tolist"):
        items = value if isinstance(value, list | tuple) else value.tolist()
        return [_named(item) for item in items] if isinstance(items, list | tuple) else _named(items)
    if isinstance(value, float) and math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return value


# --- what is read -----------------------------------------------------------------------------------------------


def _header(lesson: Lesson, lessons: Mapping[str, Lesson] | None) -> str:
    place = f"Lesson {lesson.number}"
    if lessons is not None:
        place = f'<a href="index.html">Preference optimisation</a> · {place} of {len(lessons)}'
    contents = "\n".join(f'<li><a href="#{step.name}">{inline(step.title)}</a></li>' for step in lesson.steps)
    return (
        f'<header>\n<p class="place">{place} · {lesson.minutes} minutes</p>\n<h1>{inline(lesson.title)}</h1>\n'
        f'<p class="aim">{inline(lesson.aim)}</p>\n'
        f'<nav aria-label="Steps of this lesson"><ol>\n{contents}\n</ol></nav>\n'
        "<noscript><p>Each chart is shown at one setting; its slider needs JavaScript.</p></noscript>\n</header>"
    )


def _footer(lesson: Lesson, lessons: Mapping[str, Lesson] | None) -> str:
    neighbours = []
    if lessons is not None:
        for other in lessons.values():
            if abs(other.number - lesson.number) == 1:
                word = "Next" if other.number > lesson.number else "Before"
                neighbours.append(f'<a href="lesson{other.number}.html">{word}: {escape(other.title)}</a>')
    links = f'<nav aria-label="Other lessons">{" ".join(neighbours)}</nav>\n' if neighbours else ""
    return (
        f"<footer>\n{links}<p>Made by didsim {__version__}. All numbers are computed by the library; logarithms are "
        "natural, and information is in nats.</p>\n</footer>"
    )


def _step(step: Step, number: int) -> str:
    view = step.opening
    return "\n".join(
        [
            f'<section id="{step.name}" aria-labelledby="{step.name}-heading">',
            f'<h2 id="{step.name}-heading"><span class="number">{number}</span> {inline(step.title)}</h2>',
            paragraphs(step.text),
            # wide formulas scroll on a phone, and a keyboard must be able to scroll them
            f'<div class="formula" tabindex="0" role="group" aria-label="Equation">{formula(step.formula, block=True)}',
            f"<p>{inline(step.source)}</p></div>",
            f'<p class="predict"><strong>Predict.</strong> {inline(step.predict)}</p>',
            f"<figure>\n<figcaption>{inline(step.chart.title)}</figcaption>",
            f"{draw(step.chart, view.series, step.name)}\n</figure>",
            _control(step),
            f'<p class="seen" role="status">{sentence(step.sentence, view.numbers)}</p>',
            _check(step),
            _python(step),
            _claims(step),
            "</section>",
        ]
    )


def _control(step: Step) -> str:
    control, name = step.control, f"{step.name}-slider"
    start = control.values.index(control.start)
    words = control.words[start] if control.words else say(control.start, control.digits)
    pressed = {True: "true", False: "false"}
    buttons = "".join(
        f'<button type="button" data-value="{value!r}" aria-pressed="{pressed[value == control.start]}">'
        f"{inline(text)}</button>"
        for text, value in control.presets.items()
    )
    return (
        f'<div class="control">\n<label for="{name}">{inline(control.label)}</label>\n'
        f'<input type="range" id="{name}" min="0" max="{len(control.values) - 1}" step="1" value="{start}" '
        f'aria-valuetext="{escape(words)}" autocomplete="off">\n'
        f'<output class="value" for="{name}">{escape(words)}</output>\n'
        f'<div class="presets" role="group" aria-label="Settings worth seeing">{buttons}</div>\n</div>'
    )


def _check(step: Step) -> str:
    question = step.check
    options = "\n".join(
        f'<label><input type="radio" name="{step.name}-check" value="{index}" autocomplete="off"> '
        f"<span>{inline(text)}</span></label>"
        for index, text in enumerate(question.options)
    )
    return (
        f'<fieldset class="check">\n<legend><strong>Check.</strong> {inline(question.text)}</legend>\n{options}\n'
        '<p class="reply" role="status"></p>\n<details><summary>Answer</summary>'
        f"<p>{_answer(step)}</p></details>\n</fieldset>"
    )


def _answer(step: Step) -> str:
    return f"<em>{inline(step.check.options[step.check.answer])}</em> {inline(step.check.why)}"


def _python(step: Step) -> str:
    return (
        "<details>\n<summary>The Python that gives these numbers</summary>\n"
        f'<pre tabindex="0"><code>{escape(code_of(step))}</code></pre>\n</details>'
    )


def code_of(step: Step) -> str:
    """Return the program that computes what a step shows."""
    source = inspect.getsource(step.model)
    heads = [
        line
        for line, used in (
            ("import numpy as np", "np." in source),
            ("import didsim as ds", True),
            ("from didsim.lessons import View", True),
        )
        if used
    ]
    call = f"print({step.model.__name__}({step.control.start!r}).numbers)"
    return "\n".join([*heads, "", "", source.strip(), "", "", call, ""])


def _claims(step: Step) -> str:
    if not step.claims:
        return ""
    items = "\n".join(f"<li><code>{name}</code> {inline(verdict_of(name))}</li>" for name in step.claims)
    return (
        f'<div class="claims"><p>What this rests on; <code>didsim verify {step.claims[0]}</code> checks it:</p>\n'
        f"<ul>\n{items}\n</ul></div>"
    )


def verdict_of(name: str) -> str:
    """Say what the ledger has found of a claim."""
    claim = CLAIMS[name]
    if claim.verdict == "holds-conditionally":
        condition = claim.condition[0] if claim.condition else "a further condition is met"
        return f"fails as printed; holds if {condition}."
    if claim.verdict == "fails":
        return "fails as printed" + (f"; `{claim.corrected}` holds in its place." if claim.corrected else ".")
    return {"holds": "holds.", "approximate": "is approximately true.", "inconclusive": "is open."}[claim.verdict]
