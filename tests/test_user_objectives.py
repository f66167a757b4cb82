"""A loss of one's own: by decorator, by entry point, from a file; it then works wherever an objective does."""

import json

import pytest

from didsim import OBJECTIVES, Problem, objective, register_objective, train
from didsim.objectives import _registry
from didsim.plotting import objective_look

MINE = '''
import torch
from didsim import register_objective

@register_objective(needs={"reference"}, title="A squared hinge", formula="max(0, 1 − βD)²")
def squared_hinge(pairs, *, beta: float = 1.0):
    margin = pairs.chosen.log_ratio - pairs.rejected.log_ratio
    return torch.relu(1.0 - beta * margin) ** 2

def undecorated(pairs, *, beta=0.5, flip: bool = False):
    """exp of minus the scaled margin of log π."""
    margin = pairs.chosen.log_pi - pairs.rejected.log_pi
    return torch.exp(-beta * (-margin if flip else margin))

def of_two(pairs, weights):
    return pairs
'''

EXPERIMENT = (
    MINE
    + """
import pandas as pd
from didsim import Problem, objective, train
from didsim.experiment import Spec

SPEC = Spec(id="mine", title="mine", source="me", caption="Mine.", alt="A line.", axes={"tau": (0.5, 2.0)},
            batch={"seed": (1, 2)}, constants={"steps": 6}, quick={"steps": 3}, size=(3.0, 2.0),
            headline="js_target", minutes=0.1)

def run_cell(params):
    rows = [train(Problem.from_temperature(5, params["tau"], seed), objective("squared_hinge", beta=2.0),
                  steps=params["steps"], record_every=1, seed=seed, metrics=("js_target",)).frame.assign(seed=seed)
            for seed in params["seed"]]
    return pd.concat(rows, ignore_index=True).assign(tau=params["tau"])

def summarise(df):
    mean = df.groupby("step", as_index=False)["js_target"].mean()
    return pd.DataFrame({"panel": "p", "series": "squared_hinge", "quantity": "js_target", "x": mean["step"],
                         "mean": mean["js_target"], "lo": mean["js_target"], "hi": mean["js_target"], "n": 2,
                         "band": "none"})

def draw(df, axes):
    axes[0, 0].plot(df["x"], df["mean"])
"""
)


@pytest.fixture(autouse=True)
def registry(monkeypatch):
    """What a test registers is gone after it."""
    monkeypatch.setattr(OBJECTIVES, "_records", dict(OBJECTIVES._records))
    _registry._installed.cache_clear()
    yield
    _registry._installed.cache_clear()


@pytest.fixture
def mine(here):
    (here / "mine.py").write_text(MINE, "utf-8")
    return here


def test_a_loss_from_a_file_is_trained_with_its_hyperparameters(mine, run):
    done = run("train", "mine.py:squared_hinge", "-S", "beta=2", "--num-classes", 5, "--steps", 20, "--json")
    assert done.code == 0, done.stderr
    document = json.loads(done.stdout)
    assert (document["objective"], document["hyperparameters"]) == ("squared_hinge", {"beta": 2.0})
    history = train(Problem.from_temperature(5), objective("squared_hinge", beta=2.0), steps=20, record_every=2)
    assert [row["loss"] for row in document["records"]] == history.metrics["loss"].tolist()


def test_a_function_that_nobody_registered_is_named_by_its_module(mine, run, monkeypatch):
    monkeypatch.syspath_prepend(str(mine))
    done = run("train", "mine:undecorated", "-S", "flip=true", "--num-classes", 4, "--steps", 3)
    assert done.code == 0, done.stderr
    assert "objective('undecorated', beta=0.5, flip=True)" in done.stdout


def test_it_is_explained_and_listed_like_any_other(mine, run):
    explained = run("objective", "mine.py:squared_hinge")
    assert explained.code == 0
    assert "A squared hinge" in explained.stdout
    assert "max(0, 1 − βD)²" in explained.stdout
    listed = json.loads(run("list", "objectives", "--json").stdout)["objectives"]
    assert [row["group"] for row in listed if row["name"] == "squared_hinge"] == ["registered by you"]


@pytest.mark.slow
def test_it_works_in_an_experiment_of_ones_own_also_in_other_processes(here, run):
    (here / "own.py").write_text(EXPERIMENT.replace('id="mine"', 'id="own"'), "utf-8")
    done = run("reproduce", "own.py", "--jobs", 2, "--out", "out")
    assert done.code == 0, done.stderr
    assert (here / "out" / "own.csv").is_file()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mine.py:nothing", "mine.py has no function 'nothing'"),
        ("mine.py:of_two", "a loss must be a function loss(pairs"),
        ("absent.py:loss", "absent.py"),
        ("no.such.module:loss", "cannot be imported"),
    ],
)
def test_what_is_no_loss_is_refused_with_the_reason(mine, run, target, message):
    done = run("train", target, "--steps", 2)
    assert done.code == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_installed_package_offers_objectives_by_its_entry_points(tmp_path, monkeypatch):
    (tmp_path / "their_losses.py").write_text(MINE, "utf-8")
    info = tmp_path / "their_losses-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-losses\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[didsim.objectives]\ntheirs = their_losses:undecorated\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "theirs" in OBJECTIVES
    assert objective("theirs", beta=2.0).hyperparameters == {"beta": 2.0, "flip": False}
    assert train(Problem.from_temperature(4), objective("theirs"), steps=2).status == "completed"


def test_an_entry_point_that_fails_is_told_and_leaves_the_others(tmp_path, monkeypatch):
    info = tmp_path / "broken-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[didsim.objectives]\nbroken = no_such_module_at_all:loss\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.warns(UserWarning, match=r"The objective broken .* cannot be loaded: ModuleNotFoundError"):
        assert "broken" not in OBJECTIVES
    assert "dpo" in OBJECTIVES


def test_a_users_objective_has_a_look_of_its_own():
    assert objective_look("squared_hinge")[2] == "squared_hinge"
    assert objective_look("squared_hinge") == objective_look("squared_hinge")


def test_a_loss_that_is_separable_can_be_a_record():
    record = OBJECTIVES["dpo"]
    from dataclasses import replace

    register_objective(replace(record, name="my_dpo"))
    problem = Problem.from_temperature(5, tau=2.0)
    ours, theirs = (train(problem, objective(name), steps=5) for name in ("my_dpo", "dpo"))
    assert ours.policy.log_probs.tolist() == theirs.policy.log_probs.tolist()


def test_a_loss_may_look_at_tokens_and_prompts():
    @register_objective(needs={"reference", "tokens", "vocabulary", "marginal"})
    def mixed(pairs, *, weight=1.0):
        def score(y):
            return y.log_ratio + weight * y.decisions.total(y.decisions.sums.forward_kl()) - y.marginal

        return -(score(pairs.chosen) - score(pairs.rejected))

    problem = Problem.from_temperature(4, num_prompts=2)
    assert train(problem, objective("mixed"), steps=3).status == "completed"
