"""The course: what the lessons say is what the library computes, and what the ledger has found."""

import base64
import contextlib
import functools
import hashlib
import io
import json
import math
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from test_lessons_kernel import run_script

import didsim as ds
from didsim.lessons import LESSONS, Control, View
from didsim.lessons.pages import code_of, course, lesson_page, notes_page, script_of, verdict_of

pytestmark = pytest.mark.slow

STEPS = {(lesson.slug, step.name): step for lesson in LESSONS.values() for step in lesson.steps}
LIVE = [key for key, step in STEPS.items() if step.live]


@functools.cache
def view_of(slug: str, name: str, value: float) -> View:
    """Return what a step shows; some train or solve for it."""
    return STEPS[slug, name].model(value)


@functools.cache
def page_of(slug: str) -> str:
    return lesson_page(LESSONS[slug])


# --- lessons as data ----------------------------------------------------------------------------------------


def test_the_lessons_are_numbered_in_order():
    assert [lesson.number for lesson in LESSONS.values()] == list(range(1, len(LESSONS) + 1))


@pytest.mark.parametrize("slug", LESSONS)
def test_the_minutes_of_a_lesson_are_those_of_its_steps(slug):
    lesson = LESSONS[slug]
    assert lesson.minutes == sum(step.notes.minutes for step in lesson.steps)
    assert len({step.name for step in lesson.steps}) == len(lesson.steps)


def test_the_whole_course_takes_three_hours_at_most():
    minutes = sum(lesson.minutes for lesson in LESSONS.values())
    assert minutes <= 180


@pytest.mark.parametrize("key", STEPS)
def test_each_claim_that_is_named_exists(key):
    step = STEPS[key]
    texts = [
        step.text,
        step.sentence,
        step.predict,
        step.check.why,
        *step.check.options,
        *step.notes.wrong,
        *step.notes.ask,
    ]
    named = set(re.findall(r"`((?:did|mi|alpha|rmipo|x)\.[\w.-]+)`", " ".join(texts)))
    assert {*named, *step.claims} <= set(ds.CLAIMS)
    assert named <= set(step.claims), "a claim that the text names is listed, with its verdict, at the end of the step"


def test_a_verdict_is_told_in_the_words_of_the_ledger():
    assert verdict_of("did.thm-3.2") == "holds."
    told = verdict_of("did.claim-4.1-reinforce")
    assert told.startswith("fails as printed; holds if ")
    assert ds.CLAIMS["did.claim-4.1-reinforce"].condition[0] in told
    assert verdict_of("rmipo.insight-1") == "fails as printed; `x.beta-tempers` holds in its place."


@pytest.mark.parametrize("key", STEPS)
def test_a_step_is_complete(key):
    step = STEPS[key]
    assert 0 <= step.check.answer < len(step.check.options) >= 2
    assert step.notes.ask
    assert step.notes.wrong
    assert len(step.chart.summary) > 40
    assert step.control.start in step.control.values
    view = step.opening
    assert {mark.name for mark in step.chart.marks} <= set(view.series)
    named = set(re.findall(r"\{(\w+)", re.sub(r"\$[^$]*\$", "", step.sentence)))
    assert named
    assert named <= set(view.numbers)


@pytest.mark.parametrize("key", STEPS)
def test_a_chart_shows_what_it_draws(key):
    step = STEPS[key]
    for value in {step.control.start, *step.control.presets.values()}:
        view = view_of(*key, value)
        for mark in step.chart.marks:
            if mark.kind == "bars":
                heights = np.asarray(view.series[mark.name], float)
                assert len(heights) == len(step.chart.at)
                assert heights.max() <= step.chart.y.high, (key, value, mark.name)
            if mark.kind in ("line", "dots"):
                assert len(view.series[mark.name]) == len(step.chart.at)


def test_a_slider_takes_its_start_and_its_presets():
    control = Control(label="x", values=(1.0, 3.0), start=2.0, presets={"most": 4.0, "least": 1.0})
    assert control.values == (1.0, 2.0, 3.0, 4.0)


# --- numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", STEPS)
def test_the_python_that_a_page_prints_gives_the_numbers_that_it_shows(key):
    step = STEPS[key]
    program = code_of(step)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, "fold", "exec"), {})
    names = {"inf": math.inf, "np": np}
    shown = eval(printed.getvalue(), names)
    expected = step.opening.numbers
    assert set(shown) == set(expected)
    for name, value in expected.items():
        assert shown[name] == (value if isinstance(value, str) else pytest.approx(value, rel=1e-9, abs=1e-12)), name


SLOW = {"convergence"}  # it trains for each value

BY_SCRIPT = [
    pytest.param(slug, marks=pytest.mark.slow) if slug in SLOW else slug for slug in {slug: None for slug, _ in LIVE}
]


@pytest.mark.parametrize("slug", BY_SCRIPT)
def test_the_script_of_a_page_computes_what_the_library_does(slug):
    lesson = LESSONS[slug]
    steps = [step for step in lesson.steps if step.live]
    values = {
        s.name: sorted({s.control.values[0], s.control.start, s.control.values[-1], *s.control.presets.values()})
        for s in steps
    }
    given = {s.name: {"values": values[s.name], "constants": s.constants} for s in steps}
    models = script_of(lesson).partition("\nif (typeof document")[0]
    expression = (
        "Object.fromEntries(Object.entries(given).map(([name, { values, constants }]) =>"
        " [name, values.map((value) => models[name](value, constants))]))"
    )
    found = run_script(expression, given, scripts=models)
    for step in steps:
        for value, view in zip(values[step.name], found[step.name], strict=True):
            expected = view_of(slug, step.name, value)
            assert set(view["numbers"]) == set(expected.numbers)
            for name, number in expected.numbers.items():
                told = f"{step.name} at {value}: {name}"
                if isinstance(number, str):
                    assert view["numbers"][name] == number, told
                else:
                    np.testing.assert_allclose(view["numbers"][name], number, rtol=1e-12, atol=1e-14, err_msg=told)
            for name, numbers in expected.series.items():
                told = f"{step.name} at {value}: {name}"
                np.testing.assert_allclose(
                    view["series"][name], np.asarray(numbers, float), rtol=1e-12, atol=1e-14, err_msg=told
                )


@pytest.mark.parametrize(
    "value", [0.0, 1.0, 0.1234567, 12345.678, 1e-5, 3e-9, 1e7, math.inf, -math.inf, -0.5, -2e-4, 0.125, 2.5]
)
def test_the_script_writes_numbers_as_the_page_does(value):
    from didsim.lessons._text import say

    written = run_script("[0, 1, 2, 3, 4].map((digits) => `${say(given, digits)} nats`)", value)
    assert written == [f"{say(value, digits)} nats" for digits in range(5)]


# --- pages --------------------------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Collects the elements of a page and whether they are closed in order."""

    VOID = frozenset({"meta", "input", "link", "br", "rect", "mspace"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.attributes: list[tuple[str, str, str | None]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.ids += [str(value) for name, value in attrs if name == "id"]
        self.attributes += [(tag, name, value) for name, value in attrs]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("slug", LESSONS)
class TestPage:
    def test_it_is_small(self, slug):
        assert len(page_of(slug).encode()) < 300_000

    def test_it_asks_for_nothing(self, slug):
        reader = read(page_of(slug))
        for tag, name, value in reader.attributes:
            assert name not in {"src", "srcset", "style", "action", "data", "poster"}, (tag, name)
            assert not name.startswith("on"), (tag, name)
            if name == "href":
                assert re.fullmatch(r"#[\w-]+", value), value
        assert not re.search(r"@import|url\((?!#)", page_of(slug))

    def test_its_policy_allows_its_own_style_and_script_only(self, slug):
        page = page_of(slug)
        [policy] = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        for kind in ("style", "script"):
            [content] = re.findall(rf"<{kind}>(.*?)</{kind}>", page, re.DOTALL)
            digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
            assert f"{kind}-src 'sha256-{digest}'" in policy

    def test_identifiers_are_unique_and_what_is_referred_to_exists(self, slug):
        reader = read(page_of(slug))
        assert len(reader.ids) == len(set(reader.ids))
        for _, name, value in reader.attributes:
            if name in {"for", "aria-labelledby", "aria-describedby"}:
                assert set(value.split()) <= set(reader.ids)
            if name == "href":
                assert value[1:] in reader.ids

    def test_no_markup_is_left_over(self, slug):
        text = " ".join(read(page_of(slug)).text)
        shown = re.sub(r"View\(.*?\n\n", "", text, flags=re.DOTALL)
        assert "nan" not in shown.split()
        assert "$" not in shown
        assert not re.search(r"\\(?:pi|mathrm|log|frac)\b", shown)

    def test_the_same_lesson_makes_the_same_bytes(self, slug):
        assert lesson_page(LESSONS[slug]) == page_of(slug)

    def test_its_notes_tell_what_to_ask_and_which_claims_stand_behind_it(self, slug):
        text = " ".join(read(notes_page(LESSONS[slug])).text)
        for step in LESSONS[slug].steps:
            assert all(claim in text for claim in step.claims)
        assert "Ask before the slider moves" in text


def test_the_links_of_the_course_lead_somewhere():
    pages = dict(course(LESSONS))
    for page in pages.values():
        for tag, name, value in read(page).attributes:
            if (tag, name) == ("a", "href"):
                file, _, place = value.partition("#")
                assert not file or file in pages
                if place and "=" not in place:
                    assert f'id="{place}"' in pages.get(file, page)


NUMBER = r"-?\d+(?:\.\d+)?"


def test_what_a_page_shows_first_is_drawn_as_its_script_draws_it():
    from didsim.lessons._chart import marks_of

    for lesson in LESSONS.values():
        script = script_of(lesson)
        head, _, call = script.partition('\nif (typeof document !== "undefined") open(revived(')
        data = json.loads(call.rpartition("));")[0].replace("<\\/", "</").replace("<\\!", "<!"))
        given = [json.loads(data)]
        steps = "revived(JSON.stringify(given[0]))"
        found = run_script(
            f"{steps}.map((step) => drawing(step.chart, viewOf(step, step.values.indexOf(step.start)).series))",
            given,
            scripts=head,
        )
        for step, drawn in zip(lesson.steps, found, strict=True):
            for mark, (outline, _), mine in zip(
                step.chart.marks, marks_of(step.chart, step.opening.series), drawn, strict=True
            ):
                told = (lesson.slug, step.name, mark.name)
                assert re.sub(NUMBER, "", mine["outline"]) == re.sub(NUMBER, "", outline), told
                places = [[float(n) for n in re.findall(NUMBER, path)] for path in (mine["outline"], outline)]
                np.testing.assert_allclose(*places, atol=0.1001, err_msg=str(told))  # a last digit may round either way


# --- the command line ---------------------------------------------------------------------------------------


def test_a_lesson_is_written_as_one_page(run, here):
    outcome = run("teach", "export", "softmax", "-o", "page.html")
    assert (outcome.code, outcome.stdout.strip()) == (0, "page.html")
    assert (here / "page.html").read_text("utf-8") == page_of("softmax")


def test_a_lesson_is_named_by_its_number_too(run, here):
    assert json.loads(run("teach", "export", "1", "--json").stdout)["pages"] == ["lesson1.html"]
    assert (here / "lesson1.html").is_file()


def test_the_course_is_written_with_an_index(run, here):
    assert run("teach", "export", "--all", "-o", "site").code == 0
    assert {path.name for path in (here / "site").glob("*.html")} == {name for name, _ in course(LESSONS)}


@pytest.mark.parametrize(
    "arguments", [(), ("softmax", "--all", "-o", "site"), ("--all",), ("nonsense",), ("softmax", "-o", ".")]
)
def test_what_cannot_be_meant_is_refused(run, here, arguments):
    outcome = run("teach", "export", *arguments)
    assert outcome.code == 2
    assert outcome.stderr.startswith("Error: ")
    assert list(here.iterdir()) == []


def test_a_page_that_cannot_be_written_is_a_fault_of_the_place(run, here):
    (here / "file").write_text("")
    assert run("teach", "export", "softmax", "-o", "file/page.html").code == 7


def test_the_list_names_every_lesson(run):
    assert [row["name"] for row in json.loads(run("teach", "list", "--json").stdout)["lessons"]] == list(LESSONS)
    assert all(lesson.title in run("teach", "list").stdout for lesson in LESSONS.values())


def test_a_missing_extra_is_named_in_one_line(run, monkeypatch):
    monkeypatch.delitem(sys.modules, "didsim.lessons.pages")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    done = run("teach", "export", "1")
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr == "Error: The pages of the course need latex2mathml: pip install 'didsim[teach]'\n"
