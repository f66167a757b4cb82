"""Drawing: colours that mean one thing, labels that can be read, files that come out the same."""

import re
import subprocess
import sys
from itertools import combinations
from pathlib import Path
from xml.etree import ElementTree

import hypothesis
import hypothesis.strategies as st
import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

from didsim import OBJECTIVES
from didsim.experiment import MAIN, known_experiments, load_experiment, plan_cells, read_csv, run_cells, seeds
from didsim.plotting import (
    FORMATS,
    OBJECTIVE_LOOK,
    OKABE_ITO,
    STYLES,
    draw_band,
    draw_objectives,
    label_ends,
    render,
    solution_picture,
    spread,
)
from didsim.plotting._style import figure_style

MODEST = hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
ROUNDING = 1e-9
"""Positions are sums of a few dozen numbers up to 1e4: their rounding errors stay below 1e-11."""

SHIPPED = Path(__file__).parent.parent / "figures"
POSITIONS = st.lists(st.floats(-1e4, 1e4), max_size=12).map(sorted)
GAPS = st.floats(0.0, 100.0)


# --- spreading labels -------------------------------------------------------------------------------------


class TestSpread:
    @MODEST
    @hypothesis.given(POSITIONS, GAPS)
    def test_neighbours_are_at_least_a_gap_apart_and_in_order(self, positions, gap):
        assert np.all(np.diff(spread(positions, gap)) >= gap - ROUNDING)

    @MODEST
    @hypothesis.given(POSITIONS, GAPS)
    def test_their_mean_stays_where_it_was(self, positions, gap):
        if positions:
            assert np.mean(spread(positions, gap)) == pytest.approx(np.mean(positions), abs=ROUNDING)

    @MODEST
    @hypothesis.given(st.lists(st.floats(0.0, 50.0), min_size=1, max_size=12), GAPS, st.floats(-1e3, 1e3))
    def test_those_already_apart_are_not_moved(self, extra, gap, first):
        positions = first + np.cumsum([0.0, *(gap + more for more in extra)])
        assert spread(positions.tolist(), gap) == pytest.approx(positions.tolist(), abs=ROUNDING)

    @MODEST
    @hypothesis.given(POSITIONS, GAPS)
    def test_spreading_twice_changes_nothing_more(self, positions, gap):
        once = spread(positions, gap)
        assert spread(once, gap) == pytest.approx(once, abs=ROUNDING)

    @MODEST
    @hypothesis.given(POSITIONS, GAPS, st.lists(st.floats(0.0, 100.0), min_size=12, max_size=12), st.floats(-50, 50))
    def test_no_other_places_that_far_apart_are_nearer(self, positions, gap, extra, shift):
        others = [y + shift for y in np.cumsum([0.0, *(gap + more for more in extra)])][: len(positions)]
        others = [y + (positions[0] - others[0] if positions else 0.0) for y in others]
        best = np.sum(np.subtract(spread(positions, gap), positions) ** 2)
        assert best <= np.sum(np.subtract(others, positions) ** 2) + 1e-6

    def test_equal_ones_are_placed_around_their_place(self):
        assert spread([5.0, 5.0, 5.0], 2.0) == pytest.approx([3.0, 5.0, 7.0])

    def test_nothing_stays_nothing(self):
        assert spread([], 3.0) == []


# --- one look for everything ------------------------------------------------------------------------------


EIGHT = tuple(OBJECTIVE_LOOK)[:8]
"""As many as a panel of a figure in print has room to name."""


class TestLooks:
    def test_the_palette_is_okabe_and_itos(self):
        assert OKABE_ITO == (
            "#000000",
            "#E69F00",
            "#56B4E9",
            "#009E73",
            "#F0E442",
            "#0072B2",
            "#D55E00",
            "#CC79A7",
        )

    def test_every_objective_has_a_look(self):
        assert set(OBJECTIVES) <= set(OBJECTIVE_LOOK)

    def test_no_two_objectives_share_colour_and_line_style(self):
        looks = [(colour, str(line)) for colour, line, _ in OBJECTIVE_LOOK.values()]
        assert len(set(looks)) == len(looks)

    def test_no_two_objectives_share_a_label(self):
        labels = [label for *_, label in OBJECTIVE_LOOK.values()]
        assert len(set(labels)) == len(labels)

    def test_objectives_take_their_colours_from_the_palette(self):
        assert {colour for colour, *_ in OBJECTIVE_LOOK.values()} <= set(OKABE_ITO)

    def test_line_styles_are_understood(self):
        with figure_style("paper"):
            axes = Figure().subplots()
            for _, line, _ in OBJECTIVE_LOOK.values():
                axes.plot([0, 1], [0, 1], linestyle=line)

    def test_the_looks_cannot_be_changed(self):
        with pytest.raises(TypeError):
            OBJECTIVE_LOOK["dpo"] = OBJECTIVE_LOOK["cdpo"]

    @pytest.mark.parametrize("style", STYLES)
    def test_a_style_holds_inside_its_block_only(self, style):
        before = dict(matplotlib.rcParams)
        with matplotlib.rc_context({"lines.linewidth": 9.0, "svg.fonttype": "none"}):
            with figure_style(style):
                assert matplotlib.rcParams["pdf.fonttype"] == 42
                assert matplotlib.rcParams["svg.hashsalt"]
                assert matplotlib.rcParams["font.sans-serif"] == ["DejaVu Sans"]
                assert matplotlib.rcParams["lines.linewidth"] < 3.0
            assert matplotlib.rcParams["lines.linewidth"] == 9.0
        assert dict(matplotlib.rcParams) == before


# --- curves and bands -------------------------------------------------------------------------------------


def points(mean, x=None, width=0.1) -> pd.DataFrame:
    mean = np.asarray(mean, dtype=float)
    x = np.arange(len(mean)) if x is None else x
    return pd.DataFrame({"x": x, "mean": mean, "lo": mean - width * abs(mean), "hi": mean + width * abs(mean)})


@pytest.fixture
def axes():
    figure = Figure(layout="constrained")
    FigureCanvasAgg(figure)
    return figure.subplots()


class TestDrawBand:
    def test_the_line_is_the_mean_and_the_band_reaches_from_lo_to_hi(self, axes):
        data = points([1.0, 4.0, 2.0], width=0.5)
        draw_band(axes, data, color="#0072B2", linestyle="-")
        [line] = axes.lines
        np.testing.assert_array_equal(line.get_xydata(), data[["x", "mean"]])
        [band] = axes.collections
        vertices = {tuple(vertex) for vertex in band.get_paths()[0].vertices}
        assert vertices >= {(x, y) for x, lo, hi in data[["x", "lo", "hi"]].to_numpy() for y in (lo, hi)}

    def test_line_and_band_have_one_colour(self, axes):
        draw_band(axes, points([1.0, 2.0]), color="#D55E00")
        assert axes.lines[0].get_color() == "#D55E00"
        np.testing.assert_allclose(
            axes.collections[0].get_facecolor()[0, :3], matplotlib.colors.to_rgb("#D55E00"), atol=1e-12
        )

    @pytest.mark.parametrize("bad", [0.0, -1e-300, -1.0])
    def test_a_logarithmic_axis_refuses_what_it_would_hide(self, axes, bad):
        axes.set_yscale("log")
        with pytest.raises(ValueError, match="not positive"):
            draw_band(axes, points([1.0, bad, 2.0]), color="k")
        assert len(axes.lines) == 0

    def test_a_linear_axis_shows_it(self, axes):
        draw_band(axes, points([1.0, 0.0, -2.0]), color="k")
        assert axes.lines[0].get_ydata().tolist() == [1.0, 0.0, -2.0]

    def test_the_data_stay_as_they_were(self, axes):
        data = points([1.0, 2.0])
        draw_band(axes, data, color="k")
        pd.testing.assert_frame_equal(data, points([1.0, 2.0]))


def labels(figure: Figure) -> list[Annotation]:
    """Return the labels at the ends of curves, of all panels."""
    return [text for axes in figure.axes for text in axes.texts if isinstance(text, Annotation)]


def laid_out(figure: Figure) -> Figure:
    """Lay a figure out as for a file, so that extents are final."""
    FigureCanvasAgg(figure).draw()
    return figure


def extents(texts: list[Annotation], figure: Figure) -> dict[str, Bbox]:
    """Return the box of each text itself, in points, by what it says and where."""
    scale = 72.0 / figure.dpi
    renderer = figure.canvas.get_renderer()
    boxes = [text.get_window_extent(renderer) for text in texts]
    return {
        f"{text.get_text()} {i}": Bbox(box.get_points() * scale)
        for i, (text, box) in enumerate(zip(texts, boxes, strict=True))
    }


OVERLAP_POINTS = 0.25
"""Labels one line apart may touch; what overlaps by a quarter of a point is not seen in print."""


def overlapping(boxes: dict[str, Bbox]) -> list[tuple[str, str]]:
    """Return the pairs of boxes that overlap visibly."""
    pairs = []
    for (one, a), (two, b) in combinations(boxes.items(), 2):
        width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
        if min(width, height) > OVERLAP_POINTS:
            pairs.append((one, two))
    return pairs


def outside(boxes: dict[str, Bbox], figure: Figure) -> list[str]:
    """Return the boxes that the edge of the figure cuts."""
    width, height = figure.get_size_inches() * 72.0
    edge = OVERLAP_POINTS
    return [
        name
        for name, box in boxes.items()
        if box.x0 < -edge or box.y0 < -edge or box.x1 > width + edge or box.y1 > height + edge
    ]


def test_an_overlap_would_be_noticed():
    box = Bbox([[0.0, 0.0], [20.0, 7.0]])
    assert overlapping({"a": box, "b": box.translated(5.0, 6.0)}) == [("a", "b")]
    assert overlapping({"a": box, "b": box.translated(0.0, 7.0)}) == []
    assert outside({"a": box.translated(-1.0, 0.0), "b": box}, Figure(figsize=(1, 1))) == ["a"]


def draw_ends(axes, heights: dict[str, float], colour: str = "#000000") -> None:
    """Draw labelled lines that end at given heights, and label their ends."""
    for label, height in heights.items():
        axes.plot([0.0, 1.0], [height, height], color=colour, label=label)
    label_ends(axes)


def objectives(ends: dict[str, float], start: float = 1.0) -> pd.DataFrame:
    """Return a curve for each objective, from one start to an end of its own."""
    return pd.concat([points([start, end]).assign(series=name) for name, end in ends.items()])


class TestLabels:
    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("scale", ["linear", "log"])
    @pytest.mark.parametrize("middle", [2.0, 50.0, 99.0])
    def test_labels_of_curves_that_end_together_can_be_read(self, style, scale, middle):
        with figure_style(style):
            figure = Figure(figsize=(3.4, 2.5), layout="constrained")
            axes = figure.subplots()
            axes.set_yscale(scale)
            axes.set_ylim(1.0, 100.0)
            draw_ends(axes, {f"curve {i}": middle + i / 100.0 for i in range(5)})
            boxes = extents(labels(laid_out(figure)), figure)
        assert len(boxes) == 5
        assert overlapping(boxes) == []

    def test_labels_stand_in_the_order_of_the_ends(self, axes):
        axes.set_ylim(0.0, 1.0)
        draw_ends(axes, {"middle": 0.5, "top": 0.9, "low": 0.49})
        figure = laid_out(axes.figure)
        heights = {text.get_text(): text.get_window_extent().y0 for text in labels(figure)}
        assert heights["low"] < heights["middle"] < heights["top"]

    @pytest.mark.parametrize(("scale", "limits"), [("linear", (0.0, 1.0)), ("log", (1e-3, 10.0))])
    def test_a_label_alone_stands_beside_the_end_of_its_curve(self, axes, scale, limits):
        axes.set_yscale(scale)
        axes.set(xlim=(0.0, 1.0), ylim=limits)
        draw_ends(axes, {"here": 0.25}, "#009E73")
        figure = laid_out(axes.figure)
        [label] = labels(figure)
        box, (x, y) = label.get_window_extent(), axes.transData.transform((1.0, 0.25))
        assert label.get_color() == "#009E73"
        assert (box.y0 + box.y1) / 2 == pytest.approx(y, abs=2.0)
        assert 0.0 < box.x0 - x < 10.0

    def test_lines_without_a_label_get_none(self, axes):
        axes.plot([0, 1], [0, 1])
        axes.plot([0, 1], [1, 0], label="named")
        label_ends(axes)
        assert [text.get_text() for text in labels(axes.figure)] == ["named"]

    def test_each_objective_is_drawn_in_its_look_and_labelled(self, axes):
        draw_objectives(axes, objectives({name: 10.0**-i for i, name in enumerate(OBJECTIVE_LOOK)}))
        label_ends(axes)
        assert axes.get_yscale() == "log"
        expected = {label: colour for colour, _, label in OBJECTIVE_LOOK.values()}
        assert {text.get_text(): text.get_color() for text in labels(axes.figure)} == expected
        assert [line.get_color() for line in axes.lines] == list(expected.values())
        with figure_style("paper"):
            for line, (_, style, _) in zip(axes.lines, OBJECTIVE_LOOK.values(), strict=True):
                [same] = Figure().subplots().plot([0, 1], linestyle=style)
                assert line.get_linestyle() == same.get_linestyle()

    @pytest.mark.parametrize("style", STYLES)
    @pytest.mark.parametrize("rows", [1, 2])
    def test_eight_objectives_can_be_labelled_in_one_panel(self, style, rows):
        with figure_style(style):
            figure = Figure(figsize=(7.2, 3.9), layout="constrained")
            for axes in figure.subplots(rows, 2, squeeze=False).flat:
                draw_objectives(axes, objectives({n: 1e-3 * (1.0 + i / 50) for i, n in enumerate(EIGHT)}))
                axes.set(xlabel="training step", title="a title")
                label_ends(axes)
            boxes = extents(labels(laid_out(figure)), figure)
        assert len(boxes) == 2 * rows * len(EIGHT)
        assert overlapping(boxes) == []


# --- the figures that come with didsim --------------------------------------------------------------------


@pytest.fixture(scope="module")
def numbers(tmp_path_factory):
    """The numbers of a figure: those committed, or else a small version's."""
    frames = {}

    def of(name: str) -> pd.DataFrame:
        if name not in frames:
            committed = SHIPPED / f"{name}.csv"
            frames[name] = read_csv(committed) if committed.exists() else small(name, tmp_path_factory.mktemp(name))
        return frames[name]

    return of


def small(name: str, folder: Path) -> pd.DataFrame:
    experiment = load_experiment(name)
    quick = experiment.spec.version(quick=True)
    least = {"seed": seeds(2), "steps": 200, "record_every": 20}
    plan = quick.replaced(**{k: v for k, v in least.items() if k in {*quick.axes, *quick.batch, *quick.constants}})
    cells = plan_cells(experiment, plan, folder)
    run_cells(cells, 1, lambda cell, what: None)
    return experiment.module.summarise(pd.concat([cell.load() for cell in cells], ignore_index=True))


def drawn(name: str, frame: pd.DataFrame) -> Figure:
    """Draw a figure of didsim's as `render` does, and keep it open."""
    experiment = load_experiment(name)
    figure = Figure(figsize=experiment.spec.size, layout="constrained")
    experiment.module.draw(frame, figure.subplots(*experiment.spec.panels, squeeze=False))
    return laid_out(figure)


LINES = ("fig1_left", "fig1_right", "fig4", "fig7")
"""Figures of which each panel names each of its curves at its end."""

ROWS = ("bridge", "stationary", "training_ends")
"""Figures in which each objective is a row, with its name beside it."""


def texts(figure: Figure) -> list[Text]:
    """Return all that is written in the panels of a figure and above, below and beside them, but for ticks."""
    found = [text for axes in figure.axes for text in axes.texts]
    for axes in figure.axes:
        found += [axes.title, axes.xaxis.label, axes.yaxis.label]
    return [text for text in found if text.get_text().strip() and text.get_visible()]


def figures(*without):
    """Return the names of all figures but some; those that are not main ones are looked at by `make test-all`."""
    names = [name for name in known_experiments() if name not in without]
    return [name if name in MAIN else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", LINES)
def test_each_curve_is_named_at_its_end(name, numbers):
    ends = labels(drawn(name, numbers(name)))
    assert len(ends) == numbers(name).groupby("panel")["series"].nunique().sum()


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", figures())
def test_in_a_figure_that_comes_with_didsim_every_label_can_be_read(name, style, numbers):
    with figure_style(style):
        figure = drawn(name, numbers(name))
        found = texts(figure)
        if name in ROWS:
            rows = figure.axes[0].get_yticklabels()
            assert len(rows) == numbers(name)["series"].nunique()
            found += rows
        boxes = extents(found, figure)
        assert overlapping(boxes) == []
        assert outside(boxes, figure) == []


@pytest.mark.parametrize("name", figures("simplex"))  # which draws policies as places
def test_axes_are_named_with_their_unit(name, numbers):
    with figure_style("paper"):
        figure = drawn(name, numbers(name))
    said = " ".join(text.get_text() for text in texts(figure))
    assert re.search(r"\[nats\]|probability|reward", said)
    assert name == "table1_2" or any(axes.xaxis.label.get_text() for axes in figure.axes)  # its ticks say β = …


# --- pictures of solutions --------------------------------------------------------------------------------


def policies(panels=("",), size=8, zeros=0, hyperparameters="beta 1") -> pd.DataFrame:
    """Return the CSV of a solution whose five curves end within a factor of two."""
    parts = []
    for panel in panels:
        for number, name in enumerate(("reference", "target", "rejected", "did", "stationary")):
            probs = np.linspace(2.0, 1.0 + number / 20, size) ** 3
            probs[: zeros if name == "stationary" else 0] = 0.0
            points = {"quantity": "probability", "x": np.arange(1, size + 1), "value": probs / probs.sum()}
            parts.append(pd.DataFrame({"panel": panel, "series": name, **points}))
        parts.append(
            pd.DataFrame({"panel": [panel], "series": "stationary", "quantity": "js_target", "x": 0, "value": 0.1})
        )
    facts = {"objective": "simpo", "hyperparameters": hyperparameters, "status": "converged", "continuum": 0}
    return pd.concat(parts, ignore_index=True).assign(**facts)


def grid(lines=8, value=0.1, ticks=(0.1, 1.0, 10.0), missing=()) -> pd.DataFrame:
    """Return the CSV of a grid whose lines end together."""
    rows = [
        {"x": x if isinstance(x, float) else float(i), "tick": x, "series": f"gamma {line}, tau 2", "js_target": value}
        for line in range(lines)
        for i, x in enumerate(ticks)
    ]
    frame = pd.DataFrame(rows).assign(objective="simpo", axis="beta", status="converged", continuum=0)
    frame["js_target"] = frame["js_target"].astype(object)
    frame.loc[list(missing), ["js_target", "status"]] = ["", "no-stationary-point"]
    return frame


PICTURES = {
    "one": policies(),
    "many responses": policies(size=300),
    "zeros": policies(zeros=3),
    "all but one gone": policies(zeros=7),
    "many hyperparameters": policies(hyperparameters=", ".join(f"parameter_{i} 0.{i}" for i in range(5))),
    "two prompts": policies(("prompt 0", "prompt 1")),
    "four prompts": policies(tuple(f"prompt {i}" for i in range(4))),
    "grid": grid(),
    "grid with many lines": grid(lines=12),
    "grid of names": grid(lines=3, ticks=("reference", "uniform", "centropy", "marginal", "previous", "simpo")),
    "grid of one": grid(lines=1, ticks=(1.0,)),
    "grid at rounding": grid(value=1e-31),
    "grid with gaps": grid(missing=(1, 5)),
    "grid of nothing": grid(lines=1, missing=(0, 1, 2)),
}


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("name", PICTURES)
def test_in_a_picture_of_a_solution_every_word_can_be_read(name, style):
    with figure_style(style):
        picture = solution_picture(PICTURES[name])
        figure = Figure(figsize=picture.size, layout="constrained")
        picture.draw(figure.subplots(*picture.panels, squeeze=False))
        laid_out(figure)
        heads = [axes.title for axes in figure.axes] + [axes.xaxis.label for axes in figure.axes] + figure.texts
        heads += [axes.yaxis.label for axes in figure.axes]
        marks = [text for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) for text in shown_ticks(axis)]
        boxes = extents([text for text in (*labels(figure), *heads, *marks) if text.get_text()], figure)
        assert overlapping(boxes) == []
        assert outside(boxes, figure) == []
    assert 3.4 <= picture.size[0] <= 7.0


def shown_ticks(axis) -> list:
    """Return the level words at the ticks within the limits of an axis: the others are not drawn."""
    low, high = sorted(axis.get_view_interval())
    ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
    return [text for place, text in ticks if low <= place <= high and text.get_rotation() == 0]


class TestPicturesOfSolutions:
    def drawn(self, frame):
        picture = solution_picture(frame)
        figure = Figure(figsize=picture.size, layout="constrained")
        picture.draw(figure.subplots(*picture.panels, squeeze=False))
        return figure.axes[0]

    def test_zeros_stand_on_a_line_that_says_so(self):
        axes = self.drawn(policies(zeros=3))
        [line] = [line for line in axes.lines if line.get_label() == r"$\pi$"]
        heights = line.get_ydata()
        assert len(set(heights[:3])) == 1
        assert 0.0 < heights[0] < heights[3:].min()
        assert "0" in [text.get_text() for text in axes.texts]

    def test_rounding_is_not_drawn_as_a_number(self):
        axes = self.drawn(grid(lines=1, value=1e-31))
        assert "< 1e−12" in [text.get_text() for text in axes.texts]

    def test_no_series_is_yellow(self):
        colours = {line.get_color() for line in self.drawn(grid()).lines if line.get_label()[0] != "_"}
        assert colours <= set(OKABE_ITO) - {"#F0E442"}

    def test_at_most_eight_lines_are_drawn_and_the_title_says_so(self):
        axes = self.drawn(grid(lines=12))
        assert len(labels(axes.figure)) == 8
        assert "8 of 12 lines" in axes.figure.get_suptitle()

    def test_where_no_policy_was_found_there_is_a_cross(self):
        axes = self.drawn(grid(lines=1, missing=(1,)))
        crosses = [line for line in axes.lines if line.get_marker() == "x"]
        assert [x for line in crosses for x in line.get_xdata()] == [1.0]
        assert "cross: none found" in axes.figure.get_suptitle()

    def test_between_names_there_is_no_line(self):
        axes = self.drawn(grid(lines=1, ticks=("reference", "uniform")))
        assert {line.get_linestyle() for line in axes.lines} == {"None"}

    def test_the_description_names_the_best_of_a_grid(self):
        frame = grid(lines=2)
        frame.loc[4, "js_target"] = 0.01
        assert "smallest at beta 1.0, gamma 1, tau 2: 0.01 nats" in solution_picture(frame).alt


# --- files ------------------------------------------------------------------------------------------------


def simple(axes) -> None:
    axes[0, 0].plot([0, 1], [0, 1])
    axes[0, 0].set_title("π* < π_ref")


def simple_file(file_format: str, **words: str) -> bytes:
    return render(simple, (1, 1), (2.0, 2.0), [file_format], **words)[file_format]


class TestFiles:
    @pytest.mark.parametrize("file_format", FORMATS)
    def test_the_same_drawing_is_the_same_bytes(self, file_format):
        assert simple_file(file_format, title="T") == simple_file(file_format, title="T")

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_no_file_holds_a_date(self, file_format, monkeypatch):
        first = simple_file(file_format)
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
        assert simple_file(file_format) == first
        for word in (b"CreationDate", b"ModDate", b"<dc:date>", b"tIME", b"Creation Time", b"1970-", b"20[0-9][0-9]-"):
            assert not re.search(word, first), word

    def test_an_svg_announces_itself_to_a_screen_reader(self):
        words = {"title": 'JS(π*‖π) & "more" <here>', "alt": "Falls & rises, 1 < 2."}
        root = ElementTree.fromstring(simple_file("svg", **words))
        name = "{http://www.w3.org/2000/svg}"
        assert root.tag == f"{name}svg"
        assert root.get("role") == "img"
        assert [child.tag for child in root[:2]] == [f"{name}title", f"{name}desc"]
        assert [child.text for child in root[:2]] == [words["title"], words["alt"]]

    @pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.svg")), ids=lambda path: path.stem)
    def test_a_committed_svg_describes_itself_as_its_spec_does(self, path):
        spec = load_experiment(path.stem).spec
        root = ElementTree.fromstring(path.read_bytes())
        assert (root[0].text, root[1].text) == (spec.title, spec.alt)

    def test_letters_in_a_pdf_are_truetype(self):
        assert b"/Type3" not in simple_file("pdf")
        assert b"/FontFile2" in simple_file("pdf")

    def test_letters_in_an_svg_need_no_font(self):
        assert b"<text" not in simple_file("svg")

    @pytest.mark.parametrize("file_format", FORMATS)
    def test_a_file_has_its_title(self, file_format):
        assert b"a title of its own" in simple_file(file_format, title="a title of its own")

    def test_the_size_is_in_inches(self):
        root = ElementTree.fromstring(simple_file("svg"))
        assert (root.get("width"), root.get("height")) == ("144pt", "144pt")

    def test_an_error_in_drawing_leaves_the_settings_as_they_were(self):
        before = dict(matplotlib.rcParams)
        with pytest.raises(ZeroDivisionError):
            render(lambda axes: 1 / 0, (1, 1), (2.0, 2.0), ["svg"])
        assert dict(matplotlib.rcParams) == before

    def test_margins_that_are_given_are_kept(self):
        kept = []
        margins = {"left": 0.2, "bottom": 0.3, "right": 0.9, "top": 0.8}
        render(lambda axes: kept.append(axes[0, 0]), (1, 1), (2.0, 2.0), ["svg"], margins=margins)
        assert kept[0].get_position().extents == pytest.approx([0.2, 0.3, 0.9, 0.8])

    def test_a_format_is_the_same_alone_and_among_others(self):
        together = render(simple, (1, 1), (2.0, 2.0), FORMATS)
        assert together == {file_format: simple_file(file_format) for file_format in FORMATS}
        assert render(simple, (1, 1), (2.0, 2.0), FORMATS[::-1]) == together


def test_drawing_loads_neither_pyplot_nor_torch():
    code = """
import sys
from didsim.plotting import render
render(lambda axes: axes[0, 0].plot([0, 1]), (1, 1), (2, 2), ("svg", "pdf", "png"))
assert "matplotlib.figure" in sys.modules
print(*sorted({"matplotlib.pyplot", "torch", "didsim.engine", "didsim.objectives"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "\n"
