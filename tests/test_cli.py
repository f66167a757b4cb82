"""The command line: what it accepts, prints, writes and refuses, and the exit code of each ending."""

import json
import math
import os
import re
import shlex
import shutil
import signal
import sys
from dataclasses import asdict
from pathlib import Path

import click
import pandas as pd
import pytest
from conftest import ALL_COMMANDS, Outcome

from didsim import CLAIMS, METRICS, OBJECTIVES, PRIORS, WORLDS, __version__
from didsim._catalogue import GROUPS
from didsim._terminal import SCHEMA_VERSION, Number, Whole, emit, screen_width, table
from didsim.cli import WELCOME, cli, main
from didsim.experiment import MAIN, known_experiments
from didsim.lessons import LESSONS
from didsim.lessons.grading import solution
from didsim.objectives import IMPLEMENTATIONS, objective, register_objective

QUICK = ("--steps", "3", "--num-classes", "4", "--batch-size", "8")
TRAIN = ("train", "dpo", *QUICK)


MINE = """
import pandas as pd
from didsim.experiment import Spec, mean_bands, seeds
from didsim.plotting import draw_band

SPEC = Spec(id="mine", title="Mine", source="nowhere", caption="A test.", alt="A line.",
            axes={"slope": (1, 2)}, batch={"seed": seeds(3)}, headline="height")

def run_cell(params):
    rows = [{"seed": s, "x": x, "height": s / 7 + x * params["slope"]} for s in params["seed"] for x in range(4)]
    return pd.DataFrame(rows).assign(slope=params["slope"])

def summarise(df):
    points = mean_bands(df, ["slope", "x"], "height").assign(panel="one", quantity="height")
    points["series"] = "slope " + points["slope"].map(str)
    return points[["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]]

def draw(df, axes):
    axes[0, 0].set_yscale("log")
    for _, points in df.groupby("series"):
        draw_band(axes[0, 0], points, color="#000000")
"""


def document(text: str) -> dict:
    """Read exactly one JSON document, strictly: no NaN, no infinity, nothing before or after."""
    value = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert value["schema_version"] == SCHEMA_VERSION == 1
    return value


@pytest.fixture
def solved(here):
    """The file of an exercise, filled in, under its own name."""
    (here / "ex01_log_softmax.py").write_text(f"# exercise: ex01\nimport numpy as np\n{solution('ex01')}\n", "utf-8")


def refuses(done: Outcome, code: int, *said: str) -> None:
    """Check that a command was refused: in plain words, on stderr, with nothing on stdout."""
    assert done.code == code, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert "bug in didsim" not in done.stderr
    for text in said:
        assert text in done.stderr


# --- help and examples ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALL_COMMANDS))
class TestHelp:
    def test_every_command_explains_itself_and_gives_examples(self, run, name):
        done = run(*name.split(), "--help")
        assert done.code == 0
        assert done.stdout.startswith(f"Usage: didsim {name} ")
        assert done.stderr == ""
        examples = done.stdout.split("\nExamples:\n")[1].strip().splitlines()
        assert [line.strip() for line in examples] == list(ALL_COMMANDS[name].examples)

    def test_every_example_begins_with_its_command(self, run, name):
        for example in ALL_COMMANDS[name].examples:
            assert f"{example} ".startswith(f"didsim {name} ")

    def test_every_option_is_explained(self, run, name):
        for option in ALL_COMMANDS[name].params:
            if isinstance(option, click.Option):
                assert option.help or isinstance(option.type, click.Choice), option.name

    def test_the_short_form_is_the_same(self, run, name):
        assert run(*name.split(), "-h").stdout == run(*name.split(), "--help").stdout


OURS = {name: command for name, command in ALL_COMMANDS.items() if not name.startswith("llm ") and name != "teach open"}
"""The commands that need no language model, tried in test_llm_commands.py, and end by themselves: see test_labs.py."""

EXAMPLES = [example for command in OURS.values() for example in command.examples]


TAKES_LONG = ("didsim teach export --all", "didsim teach start zoo", "didsim teach start --all")
"""How examples begin that write the course, or all exercises."""


@pytest.mark.parametrize(
    "example",
    [pytest.param(one, marks=pytest.mark.slow) if one.startswith(TAKES_LONG) else one for one in EXAMPLES],
)
def test_every_example_runs(run, solved, example):
    done = run(*shlex.split(example)[1:])
    assert done.code == 0, done.stderr
    assert done.stdout
    if "--json" in example:
        document(done.stdout)


def test_the_group_names_all_commands(run):
    done = run("--help")
    assert done.code == 0
    commands = done.stdout.split("\nCommands:\n")[1]
    assert re.findall(r"^  (\S+)", commands, re.MULTILINE) == sorted(cli.commands)


def test_the_version_is_the_packages(run):
    assert run("--version").stdout == f"didsim, version {__version__}\n"


def welcome_commands() -> list[str]:
    return [line.strip() for line in WELCOME.splitlines() if line.startswith("  didsim ")]


def test_without_arguments_there_are_six_lines_and_three_commands(run):
    done = run()
    assert done.code == 0
    assert len(done.stdout.splitlines()) == 6
    assert len(welcome_commands()) == 3


@pytest.mark.parametrize("line", welcome_commands())
def test_each_of_the_three_commands_runs(run, line):
    words = re.split(r"\s{2,}", line)[0].split()
    assert words[0] == "didsim"
    done = run(*words[1:])
    assert done.code == 0, done.stderr
    assert done.stdout


# --- the common options -----------------------------------------------------------------------------------


COMMANDS = {
    "list": ("list",),
    "list figures": ("list", "figures"),
    "objective": ("objective", "orpo"),
    "train": TRAIN,
    "solve": ("solve", "dpo", "--num-classes", "4"),
    "solve --grid": ("solve", "dpo", "--num-classes", "4", "--grid", "beta=0.5,1"),
    "list claims": ("list", "claims"),
    "verify": ("verify", "mi.eq-*", "--draws", "5"),
    "verify --replay": ("verify", "--replay", "instance.json"),
    "reproduce": ("reproduce", "mine.py"),
    "reproduce --dry-run": ("reproduce", "--dry-run"),
    "check-loss": ("check-loss", "didsim.doctor:example_loss"),
    "env": ("env",),
    "plot": ("plot", "fig4.csv", "--format", "png"),
    "teach list": ("teach", "list"),
    "teach export": ("teach", "export", "1"),
    "teach start": ("teach", "start", "ex01"),
    "teach check": ("teach", "check", "ex01_log_softmax.py"),
    "teach hint": ("teach", "hint", "ex01"),
    "teach solution": ("teach", "solution", "ex01"),
}


@pytest.fixture
def furnished(here, fig4, solved):
    """A directory that holds an experiment of the user's, an instance of a claim, and the CSV of a figure."""
    (here / "mine.py").write_text(MINE)
    instance = CLAIMS["did.thm-3.3"].control.instance
    (here / "instance.json").write_text(json.dumps({"claim": "did.thm-3.3", "instance": instance}))
    shutil.copy(fig4 / "fig4.csv", here)


def test_every_command_is_tried_with_the_common_options():
    assert {name for name in OURS if any(f"{tried} ".startswith(f"{name} ") for tried in COMMANDS)} == set(OURS)


@pytest.mark.usefixtures("furnished")
class TestCommonOptions:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_json_is_one_document_wherever_it_is_asked_for(self, run, name):
        command = COMMANDS[name]
        before, after = run("--json", *command), run(*command, "--json")
        assert (before.code, after.code) == (0, 0)
        assert document(before.stdout) == document(after.stdout)
        assert before.stdout.count("schema_version") == 1

    @pytest.mark.parametrize("name", COMMANDS)
    def test_quiet_says_nothing_on_stderr_wherever_it_is_asked_for(self, run, name):
        command = COMMANDS[name]
        for arguments in (("-q", *command), (*command, "--quiet")):
            done = run(*arguments)
            assert done.code == 0
            assert done.stderr == ""
            assert done.stdout

    @pytest.mark.parametrize("flag", ["-v", "--verbose", "--no-color"])
    @pytest.mark.parametrize("name", ["list figures", "objective", "env", "train"])
    def test_the_others_are_accepted_in_both_places(self, run, name, flag):
        command = COMMANDS[name]
        plain = run(*command)
        assert run(flag, *command) == run(*command, flag) == plain

    def test_an_error_is_told_to_the_quiet_too(self, run):
        refuses(run("-q", "objective", "dop"), 2, "Did you mean dpo")

    def test_an_error_leaves_stdout_without_a_document(self, run):
        refuses(run("--json", "objective", "dop"), 2, "Did you mean dpo")

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_what_is_not_a_number_is_never_printed_as_json(self, run, monkeypatch, value):
        monkeypatch.setattr(cli.commands["env"], "callback", lambda: emit({"records": [{"loss": value}]}, ""))
        done = run("env", "--json")
        assert done.code != 0
        assert done.stdout == ""

    def test_options_of_one_call_are_forgotten_in_the_next(self, run):
        document(run("list", "metrics", "--json").stdout)
        assert run("list", "metrics").stdout.startswith("name\n")


class TestEnvironmentVariables:
    def test_an_option_may_come_from_the_environment(self, run, monkeypatch):
        monkeypatch.setenv("DIDSIM_TRAIN_STEPS", "2")
        assert document(run("train", "dpo", "--json").stdout)["settings"]["steps"] == 2

    def test_a_flag_wins_over_the_environment(self, run, monkeypatch):
        monkeypatch.setenv("DIDSIM_TRAIN_STEPS", "2")
        assert document(run("train", "dpo", "--steps", "1", "--json").stdout)["settings"]["steps"] == 1

    def test_a_common_option_may_come_from_the_environment(self, run, monkeypatch):
        monkeypatch.setenv("DIDSIM_JSON", "1")
        document(run("list", "metrics").stdout)

    def test_a_bad_value_is_refused_like_any_other(self, run, monkeypatch):
        monkeypatch.setenv("DIDSIM_TRAIN_STEPS", "abc")
        refuses(run("train", "dpo"), 2, "--steps", "whole number")

    @pytest.mark.parametrize("name", ["DIDSIM_VERSION", "DIDSIM_HELP", "DIDSIM_LIST_HELP"])
    @pytest.mark.parametrize("value", ["1", "0.1.0"])
    def test_the_names_of_other_things_do_not_get_in_the_way(self, run, monkeypatch, name, value):
        expected = run("list", "metrics")
        monkeypatch.setenv(name, value)
        assert run("list", "metrics") == expected


# --- bad arguments ----------------------------------------------------------------------------------------

NOT_NUMBERS = ("nan", "NaN", "inf", "-inf", "infinity", "1e400", "-1e400", "abc", "", " ", "1,5", "0x10", "1e", "１,５")
NOT_POSITIVE = ("0", "-1", "-0.0", "1e-400", "-1e-3")
NOT_WHOLE = (*NOT_NUMBERS, "3.0", "1e3", "1e12", "1e-400", "1.5", "9" * 5000)


def numeric_options() -> list[tuple[str, click.Option]]:
    """Return every option of every command that takes a number, with its command."""
    options = [(name, option) for name, command in ALL_COMMANDS.items() for option in command.params]
    return [
        (name, option)
        for name, option in options
        if isinstance(option, click.Option) and isinstance(option.type, Number | Whole)
    ]


def bad_values(kind: click.ParamType) -> list[str]:
    if isinstance(kind, Whole):
        return [*NOT_WHOLE, str(kind.low - 1), str(kind.high + 1), str(-(2**65)), str(2**65)]
    return [*NOT_NUMBERS, *NOT_POSITIVE]


NUMERIC = [
    pytest.param(name, option.opts[-1], option.type, id=f"{name} {option.opts[-1]}")
    for name, option in numeric_options()
]


@pytest.mark.parametrize(("command", "option", "kind"), NUMERIC)
def test_a_bad_number_is_refused_with_what_is_accepted(run, command, option, kind):
    arguments = {"train": ["train", "dpo"], "solve": ["solve", "dpo"], "reproduce": ["reproduce", "fig4"]}.get(
        command, command.split()
    )
    accepted = f"from {kind.low} to {kind.high}" if isinstance(kind, Whole) else f"a finite number in {kind.interval}"
    for value in bad_values(kind):
        done = run(*arguments, f"{option}={value}")
        if len(value) < 4000:
            refuses(done, 2, option, accepted)
        else:
            refuses(done, 2, option)


def test_there_are_numeric_options_to_try():
    names = {(name, option.opts[-1]) for name, option in numeric_options()}
    assert names >= {
        ("train", "--tau"),
        ("train", "--steps"),
        ("train", "--seed"),
        ("train", "--problem-seed"),
        ("train", "--batch-size"),
        ("train", "--num-classes"),
        ("train", "--learning-rate"),
        ("train", "--record-every"),
        ("solve", "--pairs"),
        ("solve", "--starts"),
        ("reproduce", "--seeds"),
        ("reproduce", "--jobs"),
        ("verify", "--draws"),
        ("verify", "--seed"),
    }


def test_a_decimal_comma_is_explained(run):
    refuses(run("train", "dpo", "--tau", "1,5"), 2, "'1,5'", "Use a decimal point.")


def test_underflow_is_said(run):
    refuses(run("train", "dpo", "--tau", "1e-400"), 2, "It underflows to 0 in float64.")


@pytest.mark.parametrize("value", ["0", str(2**63 - 1)])
@pytest.mark.parametrize("option", ["--seed", "--problem-seed"])
def test_seeds_reach_from_zero_to_the_largest_signed_integer(run, option, value):
    assert run(*TRAIN, option, value).code == 0


@pytest.mark.parametrize("value", ["1e300", "1e-300", "1e-3", "1e3"])
def test_an_extreme_temperature_ends_in_numbers_or_in_a_refusal(run, value):
    done = run(*TRAIN, "--tau", value, "--json")
    if done.code == 0:
        document(done.stdout)
    else:
        refuses(done, 2, "tau")


@pytest.mark.parametrize("value", ["1e300", "1e38", "1e10", "1e-300"])
@pytest.mark.parametrize("optimiser", ["rmsprop", "adam", "sgd"])
def test_an_extreme_learning_rate_ends_in_numbers_or_in_a_refusal(run, optimiser, value):
    done = run(*TRAIN, "--learning-rate", value, "--optimiser", optimiser, "--json")
    if done.code == 0:
        status = document(done.stdout)["status"]
        assert status == "completed" or re.fullmatch(r"diverged at step \d+", status)
    else:
        refuses(done, 2, "learning_rate")


HYPERPARAMETERS = [
    (name, key) for name, record in OBJECTIVES.items() for key, p in record.parameters.items() if p.domain
]
NUMERIC_HYPERPARAMETERS = [
    (name, key) for name, key in HYPERPARAMETERS if not isinstance(OBJECTIVES[name].parameters[key].domain, tuple)
]


class TestHyperparameters:
    @pytest.mark.parametrize(("name", "key"), NUMERIC_HYPERPARAMETERS)
    def test_a_bad_number_is_refused_with_what_is_accepted(self, run, name, key):
        domain = OBJECTIVES[name].parameters[key].domain
        for value in (*NOT_NUMBERS, "1e-400"):
            refuses(run("train", name, f"-S{key}={value}"), 2, f"a finite number in {domain}")

    @pytest.mark.parametrize(("name", "key"), NUMERIC_HYPERPARAMETERS)
    def test_the_refusal_of_a_number_names_the_hyperparameter(self, run, name, key):
        refuses(run("train", name, "-S", f"{key}=abc"), 2, key, "'abc'")

    @pytest.mark.parametrize("value", ["uniformm", "", "1", "reference "])
    def test_a_bad_choice_is_refused_with_the_choices(self, run, value):
        refuses(run("train", "mi_dpo", "-S", f"prior={value}"), 2, "prior must be one of reference, previous, uniform")

    def test_a_choice_is_taken(self, run):
        done = run("train", "mi_dpo", "-S", "prior=uniform", "-S", "alpha=0.5", *QUICK, "--json")
        taken = {"alpha": 0.5, "prior": "uniform", "stop_gradient": False}
        assert document(done.stdout)["hyperparameters"] == taken

    @pytest.mark.parametrize("setting", ["beta", "", "2"])
    def test_a_setting_without_an_equals_sign_is_refused(self, run, setting):
        refuses(run("train", "dpo", "-S", setting), 2, "-S takes NAME=VALUE, such as -S beta=2", repr(setting))

    def test_a_setting_given_twice_is_refused(self, run):
        refuses(run("train", "dpo", "-S", "beta=1", "-S", "beta=2"), 2, "-S beta is given twice")

    def test_an_unknown_hyperparameter_suggests_the_nearest(self, run):
        refuses(run("train", "simpo", "-S", "gama=1"), 2, "'gama'", "beta, gamma", "Did you mean gamma")

    def test_a_hyperparameter_of_another_objective_is_refused(self, run):
        refuses(run("train", "orpo", "-S", "beta=1"), 2, "hyperparameter of orpo must be one of: lam")

    @pytest.mark.parametrize("name", OBJECTIVES)
    def test_those_not_given_take_their_defaults(self, run, name):
        done = document(run("train", name, *QUICK, "--json").stdout)
        record = OBJECTIVES[name]
        assert done["hyperparameters"] == {key: record.parameters[key].default for key in record.active({})}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "Did you mean 'train'?"),
        (["train", "dop"], "Did you mean dpo"),
        (["objective", "simpoo"], "Did you mean simpo"),
        (["reproduce", "fig_4"], "Did you mean fig4"),
        (["reproduce", "fig4", "fig77"], "Did you mean fig7"),
        (["train", "dpo", "--optimiser", "rmspropp"], "Did you mean rmsprop?"),
        (["train", "dpo", "--schedule", "cosin"], "Did you mean cosine?"),
        (["train", "dpo", "--stepz", "3"], "--steps"),
        (["list", "figure"], "'figures', 'claims', 'objectives', 'priors', 'metrics', 'worlds', 'lessons'"),
        (["train", "dpo", "--world", "real"], "--world must be one of did, bradley_terry"),
        (["solve", "dpo", "--world", "tie"], "Did you mean ties?"),
        (["solve", "dpo", "--world", "ties", "--tau", "2"], "an option of the world ties must be one of num_classes"),
        (["solve", "dpo", "--world", "ties", "-W", "nu=2"], "an option of the world ties must be one of num_classes"),
        (["solve", "dpo", "--world", "ties", "-W", "kept"], "-W takes NAME=VALUE, such as -W noise=0.1"),
        (["solve", "dpo", "--world", "ties", "-W", "propensity=x"], "propensity must be a finite number; got 'x'"),
        (["solve", "dpo", "--world", "finite_data", "-W", "num_pairs=1.5"], "num_pairs must be a whole number"),
        (["train", "dpo", "--num-classes", "4", "-W", "num_classes=5"], "num_classes is given twice"),
        (["train", "dpo", "-W", "beta=2", "-W", "beta=3"], "-W beta is given twice"),
        (["solve", "dpo", "--world", "ties", "--grid", "tau=1,2"], "an option of the world ties"),
        (["train", "dpo", "--mode", "dataset"], "'sampled', 'population'"),
        (["train", "dpo", "--dtype", "float16"], "'float32', 'float64'"),
        (["plot", "fig4.csv", "--style", "poster"], "'paper', 'slides'"),
        (["plot", "fig4.csv", "--format", "jpg"], "--format takes svg, pdf, png, separated by commas; got 'jpg'."),
        (["plot", "fig4.csv", "--format", ""], "--format takes svg, pdf, png"),
        (["plot", "fig4.csv", "--format", "svg,"], "--format takes svg, pdf, png"),
        (["reproduce", "fig4", "--all"], "Name figures, or use --all; not both."),
        (["train"], "Missing argument 'OBJECTIVE'"),
        (["solve"], "Missing argument 'OBJECTIVE'"),
        (["solve", "dop"], "Did you mean dpo"),
        (["plot"], "Missing argument 'DATA'"),
        (["objective"], "Missing argument 'NAME'"),
        (["train", "dpo", "cdpo"], "unexpected extra argument (cdpo)"),
        (["reproduce", ""], "experiment must be one of"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_is_explained(run, here, fig4, arguments, said):
    shutil.copy(fig4 / "fig4.csv", here)
    done = run(*arguments)
    refuses(done, 2, said)
    assert re.search(r"^Try 'didsim.* --help'\.$", done.stderr, re.MULTILINE)


# --- list, objective, env ---------------------------------------------------------------------------------

LINES = [("claims", CLAIMS), ("priors", PRIORS), ("metrics", METRICS), ("worlds", WORLDS), ("lessons", LESSONS)]


class TestList:
    def test_it_names_everything_that_exists(self, run):
        lists = document(run("list", "--json").stdout)
        names = {kind: [row["name"] for row in lists[kind]] for kind in lists if kind != "schema_version"}
        assert names == {
            "figures": list(known_experiments()),
            "claims": list(CLAIMS),
            "objectives": list(OBJECTIVES),
            "priors": list(PRIORS),
            "metrics": list(METRICS),
            "worlds": list(WORLDS),
            "lessons": list(LESSONS),
        }

    @pytest.mark.parametrize("kind", ["figures", "claims", "objectives", "priors", "metrics", "worlds", "lessons"])
    def test_one_kind_is_the_same_part_of_all(self, run, kind):
        assert document(run("list", kind, "--json").stdout)[kind] == document(run("list", "--json").stdout)[kind]
        assert run("list", kind).stdout.strip() in run("list").stdout

    def test_where_the_files_of_figures_are_is_said(self, run):
        *_, last = run("list", "figures").stdout.splitlines()
        folder = Path(last.removeprefix("their files: "))
        assert {path.stem for path in folder.glob("[a-z]*.py")} == set(known_experiments())

    def test_figures_have_a_source_and_a_time(self, run):
        for row in document(run("list", "figures", "--json").stdout)["figures"]:
            assert row["counterpart of"]
            assert row["minutes"] > 0

    @pytest.mark.parametrize(("kind", "names"), LINES)
    def test_a_line_of_text_stands_for_each_row(self, run, kind, names):
        lines = run("list", kind).stdout.splitlines()
        assert [line.split()[0] for line in lines] == ["name", *names]

    def test_objectives_stand_in_groups_and_each_of_them_once(self, run):
        groups = {
            row["name"]: row["group"] for row in document(run("list", "objectives", "--json").stdout)["objectives"]
        }
        named = []
        *blocks, outer_loops = run("list", "objectives").stdout.strip().split("\n\n")
        assert outer_loops.startswith("outer loop")
        for block in blocks:
            heading, heads, *lines = block.splitlines()
            assert heads.split() == ["name", "title", "loss", "per", "pair", "hyperparameters"]
            named += [(line.split()[0], heading.partition(":")[0]) for line in lines]
        assert sorted(named) == sorted(groups.items())
        assert list(dict.fromkeys(group for _, group in named)) == [g for g in GROUPS if g in groups.values()]

    @pytest.mark.parametrize(
        ("name", "group"),
        {
            "slic": "log π only",
            "dpo": "reference",
            "simpo": "length",
            "r_dpo": "reference and length",
            "ld_dpo": "tokens",
            "tdpo1": "next-token distributions",
            "alpha_dpo": "batch statistics",
            "kto": "mean KL",
            "rmipo": "prompts",
            "dpo_pg": "gradient rule",
        }.items(),
    )
    def test_the_group_of_an_objective_is_what_it_needs(self, run, name, group):
        rows = document(run("list", "objectives", "--json").stdout)["objectives"]
        assert [row["group"] for row in rows if row["name"] == name] == [group]

    def test_the_needs_of_an_objective_are_those_under_its_defaults(self, run):
        for row in document(run("list", "objectives", "--json").stdout)["objectives"]:
            assert row["needs"] == sorted(objective(row["name"]).needs)

    def test_claims_have_a_source_a_verdict_and_a_statement(self, run):
        for row in document(run("list", "claims", "--json").stdout)["claims"]:
            claim = CLAIMS[row["name"]]
            assert (row["source"], row["recorded verdict"]) == (claim.source, claim.verdict)
            assert row["statement"] == claim.statement

    def test_priors_say_what_they_recover_and_need(self, run):
        for row in document(run("list", "priors", "--json").stdout)["priors"]:
            prior = PRIORS[row["name"]]
            assert (row["ζ(y)"], row["recovers"]) == (prior.formula, prior.recovers)
            assert set(row["needs"].split()) == prior.needs


class TestObjectiveOfTheUsers:
    @pytest.fixture(autouse=True)
    def registered(self, monkeypatch):
        monkeypatch.setattr(OBJECTIVES, "_records", dict(OBJECTIVES._records))

        @register_objective(needs={"reference"})
        def half_margin(pairs, *, beta=1.0, flipped=False):
            """β D / 2."""

    def test_it_has_a_group_of_its_own(self, run):
        [row] = (r for r in document(run("list", "--json").stdout)["objectives"] if r["name"] == "half_margin")
        assert (row["group"], row["needs"]) == ("registered by you", ["reference"])
        assert run("list", "objectives").stdout.rpartition("registered by you")[2].count("half_margin") == 1

    def test_nothing_is_said_of_other_libraries(self, run):
        text = run("objective", "half_margin").stdout
        assert "β D / 2." in text
        assert "registered by you, or by an installed package: no other library was looked at." in text
        assert document(run("objective", "half_margin", "--json").stdout)["implementations"] == []

    def test_a_truth_value_is_accepted_as_true_or_false(self, run):
        assert re.search(r"^flipped +False +True or False", run("objective", "half_margin").stdout, re.MULTILINE)


@pytest.mark.parametrize("name", OBJECTIVES)
class TestObjective:
    def test_its_text_names_formula_source_conventions_and_hyperparameters(self, run, name):
        record, text = OBJECTIVES[name], run("objective", name).stdout
        for part in (record.title, record.formula, record.source, *record.conventions, *record.parameters):
            assert part in text
        for parameter in record.parameters.values():
            assert parameter.meaning in text
            assert str(parameter.default) in text

    def test_its_document_holds_the_record(self, run, name):
        record, told = OBJECTIVES[name], document(run("objective", name, "--json").stdout)
        assert [told[key] for key in ("name", "title", "formula", "source")] == [
            record.name,
            record.title,
            record.formula,
            record.source,
        ]
        assert set(told["needs"]) == objective(name).needs
        told_needs = {(row["option"], row["value"]): frozenset(row["needs"]) for row in told["option_needs"]}
        assert told_needs == dict(record.option_needs)
        assert tuple(told["conventions"]) == record.conventions
        told_parameters = {p["name"]: (p["default"], tuple(p["grid"])) for p in told["parameters"]}
        assert told_parameters == {key: (p.default, p.grid) for key, p in record.parameters.items()}

    def test_it_says_under_which_options_a_hyperparameter_is_read(self, run, name):
        record, text = OBJECTIVES[name], run("objective", name).stdout
        told = {p["name"]: p["when"] for p in document(run("objective", name, "--json").stdout)["parameters"]}
        for key, parameter in record.parameters.items():
            if parameter.when is None:
                assert told[key] is None
            else:
                option, values = parameter.when
                assert told[key] == {"option": option, "values": list(values)}
                assert re.search(rf"^{key} .*{option}={values[0]}", text, re.MULTILINE)

    def test_it_says_which_options_need_more(self, run, name):
        text = run("objective", name).stdout
        for (option, value), needs in OBJECTIVES[name].option_needs.items():
            if needs:
                words = " ".join(sorted(needs))
                assert re.search(rf"^  with an option  {option}=.*\b{value}\b.*: {words}$", text, re.MULTILINE)

    def test_truth_values_are_not_numbers(self, run, name):
        for parameter in document(run("objective", name, "--json").stdout)["parameters"]:
            assert (parameter["domain"] == "True or False") == isinstance(parameter["default"], bool)

    def test_it_says_what_libraries_compute_under_its_name(self, run, name):
        rows, text = IMPLEMENTATIONS[name], run("objective", name).stdout
        assert document(run("objective", name, "--json").stdout)["implementations"] == [asdict(row) for row in rows]
        assert ("No public implementation was found." in text) == (rows == ())
        for row in rows:
            words = (row.library, row.name, "same" if row.same else "differs", row.computes)
            assert re.search("^" + " +".join(map(re.escape, words)) + "$", text, re.MULTILINE)


def test_the_environment_names_versions(run):
    told = document(run("env", "--json").stdout)
    assert told["didsim"] == __version__
    assert told["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["figures"] == len(known_experiments())
    text = run("env").stdout
    assert all(str(told[key]) in text for key in ("didsim", "torch", "numpy", "platform"))


# --- train ------------------------------------------------------------------------------------------------


class TestTrain:
    def test_what_is_printed_is_what_is_kept(self, run, here):
        done = run(*TRAIN, "--record-every", "1", "--json", "--out", "out")
        told = document(done.stdout)
        kept = pd.read_csv(here / "out" / "train_dpo.csv", float_precision=None)
        assert kept.to_dict(orient="records") == told["records"]
        record = json.loads((here / "out" / "train_dpo.json").read_text("utf-8"), parse_constant=pytest.fail)
        assert record.items() <= told.items()
        assert set(told) - set(record) <= {"schema_version", "records"}
        assert "out/train_dpo.csv" in done.stderr

    def test_the_kept_record_names_its_version(self, run, here):
        run(*TRAIN, "--out", "out")
        assert json.loads((here / "out" / "train_dpo.json").read_text("utf-8"))["schema_version"] == SCHEMA_VERSION

    def test_the_document_says_all_that_is_needed_to_do_it_again(self, run):
        options = ["--tau", "0.5", "--problem-seed", "7", "--seed", "8", "--optimiser", "adam", "--schedule", "linear"]
        first = document(run("train", "simpo", "-S", "gamma=0.3", *QUICK, *options, "--json").stdout)
        world, settings = first["world"], first["settings"]
        again = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        again += [f"--num-classes={world['num_classes']}", f"--tau={world['tau']}", f"--problem-seed={world['seed']}"]
        again += [f"-S{name}={value}" for name, value in first["hyperparameters"].items()]
        assert document(run("train", first["objective"], *again, "--json").stdout) == first

    def test_another_world_is_described_so_that_it_can_be_built_again(self, run):
        given = ["--world", "bradley_terry", "--problem-seed", "7", "-W", "noise=0.2", "-W", "scale=2"]
        told = document(run("train", "dpo", *QUICK, *given, "--json").stdout)
        world = told["world"]
        assert world == {
            **{"name": "bradley_terry", "space": "4 classes", "num_classes": 4, "seed": 7},
            **{"noise": 0.2, "scale": 2.0, "beta": 1.0},
        }
        options = [f"-W{name}={value}" for name, value in world.items() if name not in ("name", "space")]
        again = document(
            run(
                "train", "dpo", "--steps", "3", "--batch-size", "8", "--world", "bradley_terry", *options, "--json"
            ).stdout
        )
        assert again == told

    def test_it_agrees_with_the_python_interface(self, run):
        import didsim as ds

        told = document(run(*TRAIN, "--record-every", "1", "--seed", "5", "--tau", "2", "--json").stdout)
        problem = ds.Problem.from_temperature(4, 2.0, 42)
        history = ds.train(problem, ds.objective("dpo"), steps=3, batch_size=8, seed=5, record_every=1)
        assert told["records"] == history.frame.to_dict(orient="records")
        assert told["status"] == history.status == "completed"

    def test_ten_records_are_kept_unless_others_are_asked_for(self, run):
        done = document(run("train", "dpo", "--steps", "40", "--num-classes", "4", "--json").stdout)
        assert [row["step"] for row in done["records"]] == list(range(0, 41, 4))

    def test_its_table_has_a_line_for_each_record(self, run):
        lines = run(*TRAIN, "--record-every", "1").stdout.splitlines()
        assert lines[0] == "objective('dpo', beta=1.0)"
        assert lines[1].split()[:3] == ["step", "loss", "js_target"]
        assert [line.split()[0] for line in lines[2:-1]] == ["0", "1", "2", "3"]
        assert lines[-1] == "completed; quantities in nats"

    def test_without_out_nothing_is_written(self, run, here):
        assert run(*TRAIN).code == 0
        assert list(here.iterdir()) == []

    @pytest.mark.parametrize("name", OBJECTIVES)
    @pytest.mark.parametrize("mode", ["sampled", "population"])
    def test_every_objective_trains_in_every_mode(self, run, name, mode):
        told = document(run("train", name, *QUICK, "--mode", mode, "--json").stdout)
        assert told["status"] == "completed"
        assert all(math.isfinite(value) for row in told["records"] for value in row.values())

    def test_one_class_has_the_loss_log_2(self, run):
        told = document(run("train", "dpo", "--num-classes", "1", "--steps", "2", "--json").stdout)
        assert [row["loss"] for row in told["records"]] == pytest.approx([math.log(2)] * 3, rel=1e-6)

    @pytest.mark.parametrize("beta", ["1e300", "1e-300"])
    def test_a_hyperparameter_that_float32_cannot_hold_is_refused_with_a_way_out(self, run, beta):
        refuses(run(*TRAIN, "-S", f"beta={beta}"), 2, "beta", "float64")

    @pytest.mark.parametrize("beta", ["1e300", "1e100", "1e-300"])
    def test_an_extreme_hyperparameter_ends_in_numbers(self, run, beta):
        told = document(run(*TRAIN, "-S", f"beta={beta}", "--dtype", "float64", "--json").stdout)
        assert told["status"] == "completed" or told["status"].startswith("diverged at step")


# --- reproduce --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fig4(tmp_path_factory):
    """The output directory of `reproduce fig4 --quick`."""
    folder = tmp_path_factory.mktemp("made")
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["didsim", "reproduce", "fig4", "--quick", "-q", "--jobs", "1"])
        with pytest.raises(SystemExit) as ending:
            main()
    signal.signal(signal.SIGTERM, handler)
    assert ending.value.code == 0
    return folder / "didsim-out"


class TestReproduce:
    def test_the_main_figures_are_made_when_none_is_named(self, run):
        plan = document(run("reproduce", "--dry-run", "--json").stdout)
        assert [row["figure"] for row in plan["figures"]] == list(MAIN)

    def test_all_figures_can_be_asked_for(self, run):
        plan = document(run("reproduce", "--all", "--dry-run", "--json").stdout)
        assert sorted(row["figure"] for row in plan["figures"]) == sorted(known_experiments())

    def test_a_figure_named_twice_is_made_once(self, run):
        plan = document(run("reproduce", "fig4", "fig7", "fig4", "--dry-run", "--json").stdout)
        assert [row["figure"] for row in plan["figures"]] == ["fig4", "fig7"]

    def test_a_dry_run_writes_nothing_and_says_so(self, run, here):
        done = run("reproduce", "fig4", "fig7", "--dry-run", "--out", "somewhere")
        assert done.code == 0
        assert "Nothing was written; results would go to somewhere." in done.stdout
        assert list(here.iterdir()) == []

    def test_a_dry_run_counts_what_is_done_and_touches_nothing(self, run, here, fig4):
        shutil.copytree(fig4, here / "out")
        before = {path: path.stat().st_mtime_ns for path in here.rglob("*")}
        plan = document(run("reproduce", "fig4", "--quick", "--dry-run", "--json", "--out", "out").stdout)
        assert [(row["cells"], row["done"]) for row in plan["figures"]] == [(2, 2)]
        plan = document(run("reproduce", "fig4", "--seeds", "4", "--dry-run", "--json", "--out", "out").stdout)
        assert [(row["cells"], row["done"]) for row in plan["figures"]] == [(2, 0)]
        assert {path: path.stat().st_mtime_ns for path in here.rglob("*")} == before

    def test_the_number_of_seeds_reaches_the_figure(self, run, here):
        (here / "mine.py").write_text(MINE)
        done = document(run("reproduce", "mine.py", "--seeds", "4", "--json").stdout)
        assert {row["n"] for row in done["table"]} == {4}
        assert set(pd.read_csv(here / "didsim-out" / "mine.csv")["n"]) == {4}

    def test_its_table_is_the_end_of_each_curve(self, run, here):
        (here / "mine.py").write_text(MINE)
        lines = run("reproduce", "mine.py").stdout.splitlines()
        assert lines[0].split() == ["figure", "quantity", "panel", "series", "mean", "lo", "hi", "n"]
        assert [line.split()[:6] for line in lines[1:3]] == [
            ["mine", "height", "one", "slope", "1", "9.143"],
            ["mine", "height", "one", "slope", "2", "12.14"],
        ]
        assert "Means over n seeds with their 95% intervals." in lines
        assert "  didsim-out/mine.png" in lines

    def test_its_table_says_what_is_in_nats(self, run, here):
        (here / "mine.py").write_text(MINE.replace("height", "js_target"))
        (here / "other.py").write_text(MINE.replace('"mine"', '"other"'))
        lines = run("reproduce", "mine.py", "other.py").stdout.splitlines()
        assert "Means over n seeds with their 95% intervals; js_target in nats." in lines

    def test_a_changed_copy_may_not_take_the_place_of_a_figure(self, run, here):
        original = known_experiments()["fig4"]
        (here / "mine.py").write_bytes(original.read_bytes())
        assert run("reproduce", "mine.py", "--dry-run").code == 0
        (here / "mine.py").write_bytes(original.read_bytes() + b"\n# changed\n")
        said = f"mine.py has the id of {original}, fig4. Give its SPEC an id of its own."
        refuses(run("reproduce", "mine.py", "--dry-run"), 2, said)
        (here / "mine.py").write_text(original.read_text("utf-8").replace('id="fig4"', 'id="fig4_mine"'), "utf-8")
        assert run("reproduce", "mine.py", "--dry-run").code == 0

    def test_its_document_names_the_files_and_holds_the_table(self, run, here):
        (here / "mine.py").write_text(MINE)
        done = document(run("reproduce", "mine.py", "--json").stdout)
        assert {Path(path).name for path in done["figures"]} == {
            f"mine.{e}" for e in ("csv", "svg", "pdf", "png", "json")
        }
        frame = pd.read_csv(here / "didsim-out" / "mine.csv").query("x == 3").reset_index(drop=True)
        assert [row["mean"] for row in done["table"]] == frame["mean"].tolist()


# --- plot -------------------------------------------------------------------------------------------------


@pytest.fixture
def data(here, fig4):
    """A copy of fig4.csv alone, and the pictures that belong to it."""
    shutil.copy(fig4 / "fig4.csv", here / "fig4.csv")
    return here / "fig4.csv"


def same_pictures(csv: Path, fig4: Path, formats: tuple[str, ...] = ("png",)) -> bool:
    return all(csv.with_suffix(f".{end}").read_bytes() == (fig4 / f"fig4.{end}").read_bytes() for end in formats)


NOT_THE_CSV = {
    "zero bytes": lambda content: b"",
    "line ends": lambda content: b"\n\n\n",
    "a header alone": lambda content: content.splitlines(keepends=True)[0],
    "NUL bytes": lambda content: b"\x00" * 1000,
    "a picture": lambda content: b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 8,
    "UTF-16": lambda content: content.decode().encode("utf-16"),
    "latin-1": lambda content: content.replace("τ".encode(), "é".encode("latin-1")),
    "JSON": lambda content: b'{"experiment": "fig4"}',
    "an open quote": lambda content: content.replace(b"probability", b'"probability', 1),
    "a ragged row": lambda content: content + b"1,2,3,4,5,6,7,8,9,10,11,12\n",
    "semicolons": lambda content: content.replace(b",", b";"),
    "no column mean": lambda content: content.replace(b",mean,", b",average,", 1),
    "no column x": lambda content: content.replace(b",x,", b",y,", 1),
    "no column panel": lambda content: content.replace(b"panel,", b"pane,", 1),
    "no column lo": lambda content: content.replace(b",lo,", b",low,", 1),
    "half the rows": lambda content: b"".join(content.splitlines(keepends=True)[: content.count(b"\n") // 2]),
    "a third panel": lambda content: content + content.splitlines(keepends=True)[-2].replace(b"4,", b"9,", 1),
    "an unknown series": lambda content: content.replace(b"reference", b"preference"),
}


class TestPlot:
    def test_it_redraws_the_same_bytes_from_the_csv_alone(self, run, data, fig4):
        done = run("plot", "fig4.csv")
        assert done.code == 0
        assert done.stdout.split() == ["fig4.svg", "fig4.pdf", "fig4.png"]
        assert same_pictures(data, fig4, ("svg", "pdf", "png"))

    def test_it_leaves_the_csv_alone(self, run, data, fig4):
        run("plot", "fig4.csv", "--format", "png")
        assert data.read_bytes() == (fig4 / "fig4.csv").read_bytes()
        assert sorted(path.name for path in data.parent.iterdir()) == ["fig4.csv", "fig4.png"]

    def test_another_style_is_another_picture(self, run, data, fig4):
        assert run("plot", "fig4.csv", "--format", "png", "--style", "slides").code == 0
        assert not same_pictures(data, fig4)

    def test_the_manifest_names_the_experiment_of_a_renamed_file(self, run, data, fig4):
        csv = data.rename(data.with_name("renamed.csv"))
        shutil.copy(fig4 / "fig4.json", csv.with_suffix(".json"))
        assert run("plot", "renamed.csv", "--format", "png").code == 0
        assert same_pictures(csv, fig4)

    def test_an_option_names_it_too(self, run, data, fig4):
        csv = data.rename(data.with_name("renamed.csv"))
        assert run("plot", "renamed.csv", "--experiment", "fig4", "--format", "png").code == 0
        assert same_pictures(csv, fig4)

    def test_a_renamed_file_alone_is_refused_with_a_hint(self, run, data):
        data.rename(data.with_name("fig44.csv"))
        refuses(run("plot", "fig44.csv"), 2, "experiment must be one of", "Did you mean fig4")

    @pytest.mark.parametrize(
        "edit",
        [
            lambda content: content.replace(b"\n", b"\r\n"),
            lambda content: b"\xef\xbb\xbf" + content,
            lambda content: content.rstrip(b"\n"),
        ],
        ids=["CRLF", "BOM", "no last line end"],
    )
    def test_what_editors_do_to_a_file_does_not_matter(self, run, data, fig4, edit):
        data.write_bytes(edit(data.read_bytes()))
        assert run("plot", "fig4.csv", "--format", "png").code == 0
        assert same_pictures(data, fig4)

    @pytest.mark.parametrize("damage", NOT_THE_CSV.values(), ids=NOT_THE_CSV)
    def test_what_is_not_the_csv_of_a_figure_is_bad_data(self, run, data, damage):
        data.write_bytes(damage(data.read_bytes()))
        refuses(run("plot", "fig4.csv", "--format", "png"), 4, "fig4.csv")
        assert not data.with_suffix(".png").exists()

    def test_a_csv_without_rows_is_said_to_hold_none(self, run, data):
        data.write_bytes(NOT_THE_CSV["a header alone"](data.read_bytes()))
        refuses(run("plot", "fig4.csv"), 4, "fig4.csv holds no rows.")

    def test_a_faulty_csv_leaves_the_picture_that_was_there(self, run, data, fig4):
        shutil.copy(fig4 / "fig4.png", data.with_suffix(".png"))
        data.write_bytes(data.read_bytes().replace(b"reference", b"preference"))
        refuses(run("plot", "fig4.csv"), 4)
        assert same_pictures(data, fig4)
        assert sorted(path.name for path in data.parent.iterdir()) == ["fig4.csv", "fig4.png"]

    @pytest.mark.parametrize("column", ["mean", "lo", "hi", "x"])
    @pytest.mark.parametrize("value", ["", "nan", "-inf", "abc", "1,5", "1e999"])
    def test_a_cell_that_is_not_a_finite_number_is_bad_data(self, run, data, column, value):
        frame = pd.read_csv(data, dtype=str)
        frame.loc[5, column] = value
        frame.to_csv(data, index=False)
        refuses(run("plot", "fig4.csv", "--format", "png"), 4, "fig4.csv")

    @pytest.mark.parametrize("value", ["0", "-0.1"])
    def test_a_mean_that_a_logarithmic_axis_would_hide_is_bad_data(self, run, data, value):
        frame = pd.read_csv(data, dtype=str)
        frame.loc[5, "mean"] = value
        frame.to_csv(data, index=False)
        refuses(run("plot", "fig4.csv", "--format", "png"), 4, "logarithmic axis")

    def test_the_csv_of_another_figure_is_bad_data(self, run, data):
        for other in set(known_experiments()) - {"fig4"}:
            refuses(run("plot", "fig4.csv", "--experiment", other, "--format", "png"), 4, "fig4.csv", other)

    @pytest.mark.parametrize("path", ["nosuch.csv", "nosuch/fig4.csv", "."])
    def test_a_file_that_cannot_be_read_is_bad_data(self, run, path):
        refuses(run("plot", path), 4, f"Cannot read {path}")

    def test_a_directory_is_bad_data(self, run, here):
        (here / "fig4.csv").mkdir()
        refuses(run("plot", "fig4.csv"), 4, "Cannot read fig4.csv")

    def test_a_file_too_large_for_memory_is_bad_data(self, run, here):
        with open(here / "fig4.csv", "wb") as file:
            file.truncate(2**40)
        refuses(run("plot", "fig4.csv"), 4, "larger than")

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a FIFO is a thing of POSIX")
    def test_a_fifo_is_bad_data(self, run, here):
        os.mkfifo(here / "fig4.csv")

        def give_up(*_):
            raise TimeoutError("it waits for ever")

        before = signal.signal(signal.SIGALRM, give_up)
        signal.setitimer(signal.ITIMER_REAL, 1.0)
        try:
            done = run("plot", "fig4.csv")
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
        assert "waits for ever" not in done.stderr
        refuses(done, 4, "fig4.csv")


EVIL = "from pathlib import Path\nPath('executed').touch()\n"


class TestNoCodeFromData:
    """P6 and P7: neither a manifest nor a file's name makes didsim run code, or look elsewhere."""

    @pytest.fixture
    def evil(self, data):
        (data.parent / "evil.py").write_text(EVIL)
        return data

    @pytest.mark.parametrize(
        "name",
        [
            "evil.py",
            "./evil.py",
            "evil.py.py",
            "evil.py.py.py",
            "../../x",
            "/etc/passwd",
            "evil",
            "",
            ".py",
            "fig4/../x",
        ],
    )
    def test_a_manifest_cannot_name_a_file(self, run, evil, name):
        evil.with_suffix(".json").write_text(json.dumps({"experiment": name}))
        done = run("plot", "fig4.csv", "--format", "png")
        assert not Path("executed").exists()
        assert done.code in {2, 4}
        refuses(done, done.code)

    def test_a_manifest_cannot_name_a_file_elsewhere(self, run, evil, tmp_path_factory):
        script = tmp_path_factory.mktemp("elsewhere") / "evil.py"
        script.write_text(EVIL)
        evil.with_suffix(".json").write_text(json.dumps({"experiment": f"{script}.py"}))
        run("plot", "fig4.csv", "--format", "png")
        assert not Path("executed").exists()

    def test_the_name_of_a_csv_cannot_name_a_file(self, run, evil):
        evil.rename("evil.py.csv")
        run("plot", "evil.py.csv", "--format", "png")
        assert not Path("executed").exists()

    @pytest.mark.parametrize("text", ["", "[]", '{"experiment": ["fig4"]}'])
    def test_a_manifest_that_says_nothing_leaves_the_name_to_the_file(self, run, data, fig4, text):
        data.with_suffix(".json").write_text(text, "utf-8")
        done = run("plot", "fig4.csv", "--format", "png")
        if done.code == 0:
            assert same_pictures(data, fig4)
        else:
            refuses(done, 2, "experiment must be one of")

    @pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"[" * 200_000], ids=["not text", "deeply nested"])
    def test_a_hostile_manifest_is_no_bug(self, run, data, content):
        data.with_suffix(".json").write_bytes(content)
        done = run("plot", "fig4.csv", "--format", "png")
        assert "bug in didsim" not in done.stderr
        assert done.code in {0, 2, 4}

    def test_a_name_in_the_csv_writes_no_other_file(self, run, data):
        data.write_bytes(data.read_bytes().replace(b"did,", b"../did,"))
        refuses(run("plot", "fig4.csv", "--format", "png"), 4)
        assert [path.name for path in data.parent.iterdir()] == ["fig4.csv"]


# --- small parts ------------------------------------------------------------------------------------------


class TestTable:
    def test_numbers_stand_to_the_right_and_words_to_the_left(self):
        assert table(["name", "n"], [["a", 1], ["bcdef", 100]]) == "name     n\na        1\nbcdef  100"

    def test_floats_have_four_significant_digits(self):
        assert table(["x"], [[0.123456], [1234567.0], [1e-9]]).split() == ["x", "0.1235", "1.235e+06", "1e-09"]

    def test_a_table_without_rows_is_its_header(self):
        assert table(["a", "bc"], []) == "a  bc"

    def test_on_a_screen_the_widest_cells_are_wrapped_and_no_word_is_lost(self):
        rows = [["name", "a cell of several words", 1], ["other", "b", 22]]
        drawn = table(["first", "second", "n"], rows, width=24)
        assert drawn.splitlines() == [
            "first  second          n",
            "name   a cell of       1",
            "       several words",
            "other  b              22",
        ]

    @pytest.mark.parametrize("width", [40, 60, 100, 140])
    def test_a_wrapped_table_fits_the_screen(self, width):
        rows = [["word " * i, "another " * (9 - i), "third " * 7] for i in range(10)]
        assert all(len(line) <= width for line in table(["a", "b", "c"], rows, width).splitlines())

    def test_a_table_that_fits_is_not_wrapped(self):
        rows = [["a cell of several words", 1.5]]
        assert table(["a", "b"], rows, width=80) == table(["a", "b"], rows)

    def test_what_goes_to_a_file_is_not_wrapped(self, run, monkeypatch):
        monkeypatch.setenv("COLUMNS", "40")
        piped = run("objective", "orpo").stdout
        assert max(map(len, piped.splitlines())) > 100
        monkeypatch.setattr("didsim._catalogue.screen_width", lambda: 60)
        tables = run("objective", "orpo").stdout.split("\n\n")[1:3]
        assert max(len(line) for text in tables for line in text.splitlines()) <= 60

    def test_a_screen_is_a_terminal(self, monkeypatch):
        assert screen_width() is None
        monkeypatch.setenv("COLUMNS", "72")
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        assert screen_width() == 72
