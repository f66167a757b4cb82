"""What a lesson is: data. A page, the notes of the lecturer and the tests are made from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal


def evenly(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return numbers at equal distances, rounded to three significant digits so that they can be written."""
    return tuple(float(f"{low + (high - low) * i / (count - 1):.3g}") for i in range(count))


def geometrically(low: float, high: float, count: int) -> tuple[float, ...]:
    """Return numbers at equal ratios, rounded to three significant digits."""
    return tuple(float(f"{low * (high / low) ** (i / (count - 1)):.3g}") for i in range(count))


@dataclass(frozen=True, kw_only=True)
class Control:
    """The slider of a step.

    Attributes:
        label: what it is, such as "temperature τ".
        values: the values that it takes; the start and the presets are added to them.
        start: the one that a page opens with.
        presets: names of the interesting values, each a button.
        digits: decimals shown.
        words: names for the values where they stand for something else than a number, one for each.
    """

    label: str
    values: tuple[float, ...]
    start: float
    presets: Mapping[str, float] = field(default_factory=dict)
    digits: int = 2
    words: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        values = tuple(sorted({*self.values, self.start, *self.presets.values()}))
        object.__setattr__(self, "values", values)  # the way to set a field of a frozen dataclass
        if self.words and len(self.words) != len(self.values):
            raise ValueError(f"The slider {self.label!r} has {len(self.values)} values and {len(self.words)} words.")


@dataclass(frozen=True, kw_only=True)
class Axis:
    """An axis of a chart. It stays where it is while the slider moves, so that the eye can compare.

    Attributes:
        label: what is drawn along it, with its unit.
        low: the smallest value.
        high: the largest.
        ticks: the values that are marked.
        log: whether equal ratios have equal lengths.
    """

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    log: bool = False


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A thing that is drawn.

    Attributes:
        name: the series of the step's `View` that it draws.
        kind: "bars", "line" and "dots" have a height for each place of `Chart.at`; a "point" is one (x, y), a
            "level" one height, a "rule" one place.
        colour: a name of Okabe and Ito's palette, such as "blue", or "ink" for the colour of the text.
        label: its name in the chart; "" for none.
        dash: as SVG has it; "" for a solid line.
        label_at: the index in `Chart.at` at which the label stands. Unless it is given, labels of lines and levels
            stand at their right end, one below the other.
        side: on which side of that place.
        faint: whether it stands behind the others.
    """

    name: str
    kind: Literal["bars", "line", "dots", "point", "level", "rule"]
    colour: str
    label: str = ""
    dash: str = ""
    label_at: int = -1
    side: Literal["above", "right"] = "above"
    faint: bool = False

    @property
    def at_end(self) -> bool:
        """Whether the label stands beside the chart, at the right end of a line."""
        return bool(self.label) and self.label_at == -1 and self.kind in ("line", "level")


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A chart.

    Attributes:
        title: what it shows, in a line.
        summary: what is to be seen in it, for those who do not see it.
        x: the horizontal axis.
        y: the vertical axis.
        at: the places of bars, lines and dots along x.
        marks: what is drawn, from back to front.
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    at: tuple[float, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True, kw_only=True)
class View:
    """What a step shows at one value of its slider.

    Attributes:
        series: the numbers of each mark, a list or an array.
        numbers: the numbers, or words, of the sentence.
    """

    series: Mapping[str, Any]
    numbers: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Question:
    """A question with a choice of answers.

    Attributes:
        text: the question.
        options: the answers to choose from.
        answer: the index of the right one.
        why: why it is right.
    """

    text: str
    options: tuple[str, ...]
    answer: int
    why: str


@dataclass(frozen=True, kw_only=True)
class Notes:
    """What the lecturer reads, and the student does not.

    Attributes:
        minutes: how long the step takes in class.
        ask: questions before the slider is moved.
        wrong: common wrong answers, and what to say to them.
    """

    minutes: int
    ask: tuple[str, ...]
    wrong: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One idea: predict, move the slider, read one sentence, check.

    Texts may hold ``$LaTeX$``, ``*emphasis*`` and ```code```; a blank line begins a paragraph.

    Attributes:
        name: of the step, a word; it names the step's slider in the address of the page, and its model in the script.
        title: the idea.
        text: what has to be known before.
        formula: the equation, as LaTeX.
        source: the paper and number of the equation.
        predict: what to predict before the slider is moved.
        control: the slider.
        chart: the chart.
        model: from a value of the slider to what is shown; its source is printed on the page, so it is a function that
            stands on its own.
        live: whether the script of the lesson computes the same; if not, the views are computed when the page is made.
        constants: numbers that the script is given, such as random draws of the library.
        sentence: what is seen, one sentence, in which ``{name}`` or ``{name:digits}`` stands for a number of the view.
        check: the question at the end.
        claims: the names of the claims of the ledger on which the text rests.
        notes: for the lecturer.
    """

    name: str
    title: str
    text: str
    formula: str
    source: str
    predict: str
    control: Control
    chart: Chart
    model: Callable[[float], View]
    live: bool = True
    constants: Mapping[str, Any] = field(default_factory=dict)
    sentence: str
    check: Question
    claims: tuple[str, ...] = ()
    notes: Notes

    @cached_property
    def opening(self) -> View:
        """What is shown first."""
        return self.model(self.control.start)

    @cached_property
    def views(self) -> tuple[View, ...]:
        """What is shown at each value of the slider."""
        return tuple(self.model(value) for value in self.control.values)


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """A lesson of the course.

    Attributes:
        number: its place in the course.
        slug: its name in a word or two.
        title: its title.
        aim: what a student can do afterwards, in a sentence.
        minutes: how long it takes in class.
        build: computes the steps, with all numbers in their text. The models of the live steps in JavaScript lie beside
            the module, `lesson1.js` for the first.
    """

    number: int
    slug: str
    title: str
    aim: str
    minutes: int
    build: Callable[[], tuple[Step, ...]]

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """The steps, computed when they are first asked for."""
        return self.build()
