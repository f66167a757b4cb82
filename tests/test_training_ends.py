"""What the figure of the ends of training says, from small runs of its own and from tables made by hand."""

import pandas as pd
import pytest

from didsim import OBJECTIVES, Problem, js
from didsim.experiment import load_experiment, seeds
from didsim.objectives import IMPLEMENTATIONS
from didsim.plotting import FORMATS, render

ENDS = load_experiment("training_ends")
KINDS = {"converged", "boundary", "continuum", "unsolved"}


def values(rows, quantity):
    return rows[rows["quantity"] == quantity].set_index("seed")["value"]


def trained(name, **changes):
    """Return the rows of one cell of `training_ends`."""
    given = {
        "objective": name,
        "seed": seeds(2),
        "num_classes": 4,
        "tau": 2.0,
        "steps": 300,
        "learning_rate": 1e-2,
    }
    return ENDS.module.run_cell({**given, **changes})


def test_every_objective_that_comes_with_didsim_is_in_the_full_plan():
    assert ENDS.spec.axes["objective"] == tuple(IMPLEMENTATIONS)
    assert set(IMPLEMENTATIONS) <= set(OBJECTIVES)
    assert set(ENDS.spec.quick["objective"]) < set(ENDS.spec.axes["objective"])


@pytest.mark.parametrize("name", ["dpo", "orpo"])
def test_training_comes_nearer_to_the_solver_and_ends_in_noise(name):
    rows = trained(name, steps=1500)
    means = rows[rows["quantity"] == "js_solver"].groupby("step")["value"].mean()
    noise = values(rows, "js_noise").mean()
    assert list(means.index) == [0, 150, 1500]
    assert means.iloc[0] > 10.0 * means.iloc[-1]
    assert means.iloc[-1] < 20.0 * noise < 1e-3


def test_training_starts_at_the_distance_from_the_reference():
    rows = trained("dpo")
    start = rows[(rows["quantity"] == "js_solver") & (rows["step"] == 0)].set_index("seed")["value"]
    for seed in seeds(2):
        problem = Problem.from_temperature(4, 2.0, seed)
        assert start[seed] == pytest.approx(float(js(problem.target, problem.reference)), rel=1e-5)


@pytest.mark.slow
def test_objectives_that_look_at_the_batch_are_trained_in_expectation_too():
    ends = values(trained("alpha_dpo", steps=1500), "js_population")
    assert list(ends.index) == list(seeds(2))
    assert (ends < 1e-5).all()
    assert "js_population" not in set(trained("dpo")["quantity"])


def test_an_objective_without_an_isolated_solution_is_not_trained():
    assert set(trained("dpo_pg", num_classes=8)["quantity"]) == KINDS


def ends_table(values_):
    """Return a summary as `training_ends` draws it."""
    rows = [
        {"series": "dpo", "quantity": "js_solver", "x": step, "mean": value}
        for step, value in zip((0, 10, 100), values_, strict=True)
    ]
    rows.append({"series": "dpo", "quantity": "js_noise", "x": 100, "mean": values_[-1]})
    for name, kind in (("dpo", "converged"), ("dpo_pg", "continuum")):
        rows += [{"series": name, "quantity": one, "x": 100, "mean": float(one == kind)} for one in sorted(KINDS)]
    frame = pd.DataFrame(rows)
    return frame.assign(panel="", lo=frame["mean"], hi=frame["mean"], n=2, band="", hyperparameters="")


def drawn(frame):
    """Return the labels of the ticks and the words of the ends that are drawn, and where the dots are."""
    seen = {}

    def look(axes):
        ENDS.module.draw(frame, axes)
        axis = axes.flat[0]
        seen["ticks"] = [label.get_text() for label in axis.get_xticklabels()]
        seen["words"] = [text.get_text() for text in axis.texts]
        seen["places"] = [float(x) for line in axis.get_lines() for x in line.get_xdata()]
        seen["limits"] = axis.get_xlim()

    render(look, (1, 1), (5, 4), ("svg",))
    return seen


@pytest.mark.parametrize("last", [0.0, 1e-20, 1e-6])
def test_no_dot_vanishes_from_the_logarithmic_axis(last):
    seen = drawn(ends_table((0.1, 0.01, last)))
    low, high = seen["limits"]
    assert len(seen["places"]) == 4
    assert all(low <= place <= high for place in seen["places"])
    assert ("<1e−12" in seen["ticks"]) == (last < 1e-12)


def test_why_there_is_nothing_to_compare_with_is_said():
    assert drawn(ends_table((0.1, 0.01, 1e-4)))["words"] == ["none: 100% not isolated"]


def test_files_are_drawn_in_all_formats():
    files = render(lambda axes: ENDS.module.draw(ends_table((0.1, 0.01, 0.0)), axes), (1, 1), (5, 4), FORMATS)
    assert set(files) == set(FORMATS)
