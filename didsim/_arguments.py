"""Arguments that commands share: an objective with its hyperparameters, and the world that options describe."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from didsim._terminal import Number, Whole, parse_number

SETTINGS = click.option("-S", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a hyperparameter.")

SHAPE = ("num_classes", "vocabulary", "max_length", "num_prompts", "num_features", "tau", "problem_seed")
"""The options that describe a world, beside its name."""

_WORLD = (
    click.option(
        "--world", type=click.Choice(["did"]), default="did", show_default=True, help="Where pairs come from."
    ),
    click.option("--num-classes", type=Whole(1, 4096), default=None, help="Number of classes K [32]."),
    click.option("--vocabulary", type=Whole(1, 4096), default=None, help="Sequences over so many tokens, not classes."),
    click.option("--max-length", type=Whole(1, 64), default=None, help="The longest sequences, in tokens."),
    click.option("--num-prompts", type=Whole(1, 10**5), default=None, help="Number of prompts X [none]."),
    click.option("--num-features", type=Whole(1, 10**6), default=None, help="Restrict the policy to so many features."),
    click.option("--tau", type=Number(), default=4.0, show_default=True, help="Temperature of the target, τ."),
    click.option(
        "--problem-seed", type=Whole(0, 2**63 - 1), default=42, show_default=True, help="Seed of the policies."
    ),
)


def world_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Accept the options that describe a world."""
    for option in reversed(_WORLD):
        command = option(command)
    return command


def take_shape(options: dict[str, Any]) -> dict[str, Any]:
    """Take those that describe a world out of the options of a command: 32 classes unless they say otherwise."""
    shape = {name: options.pop(name) for name in SHAPE}
    if shape["num_classes"] is None and shape["vocabulary"] is None:
        shape["num_classes"] = 32
    return shape


def describe_world(shape: dict[str, Any]) -> dict[str, Any]:
    """Return the options that describe a world and were given."""
    return {"seed" if name == "problem_seed" else name: value for name, value in shape.items() if value is not None}


def build_problem(
    num_classes: int | None,
    vocabulary: int | None,
    max_length: int | None,
    num_prompts: int | None,
    num_features: int | None,
    tau: float,
    problem_seed: int,
) -> Any:
    """Build the problem that the options of a command describe."""
    from didsim import Problem, Sequences

    if (vocabulary is None) != (max_length is None):
        raise ValueError("--vocabulary and --max-length must be given together; sequences need both.")
    if vocabulary is not None and num_classes is not None:
        raise ValueError("--num-classes and --vocabulary must be given one at a time: responses are one or the other.")
    space = None if vocabulary is None or max_length is None else Sequences(vocabulary, max_length)
    return Problem.from_temperature(
        num_classes, tau, problem_seed, space=space, num_prompts=num_prompts, num_features=num_features
    )


def find_objective(name: str) -> Any:
    """Return the objective of a name, or the one that MODULE:FUNCTION or FILE.py:FUNCTION makes."""
    from didsim.objectives import OBJECTIVES, register_objective
    from didsim.objectives import objective as bind

    if ":" not in name:
        return bind(name).objective
    from didsim.doctor import load_loss

    function = click.get_current_context().with_resource(load_loss(name))
    if not any(record.pair is function for record in OBJECTIVES.values()):  # its module may have registered it
        register_objective(function)
    return next(record for record in OBJECTIVES.values() if record.pair is function)


def read_settings(record: Any, settings: tuple[str, ...]) -> dict[str, Any]:
    """Read an objective's hyperparameters, given as NAME=VALUE."""
    return {key: read_value(key, text, record.parameters.get(key)) for key, text in _split(settings)}


def _split(settings: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"-S takes NAME=VALUE, such as -S beta=2; got {setting!r}.")
        if key in seen:
            raise ValueError(f"-S {key} is given twice; it takes NAME=VALUE once for each name.")
        seen.add(key)
        yield key, value


def read_value(name: str, text: str, parameter: Any) -> Any:
    """Read a hyperparameter: a number, a name, or true or false; an unknown one is refused when it is bound."""
    if parameter is None:
        return text
    if not parameter.is_option:
        return parse_number(name, text, parameter.domain)
    if True in parameter.domain:
        return {"true": True, "false": False}.get(text.lower(), text)
    return text


def read_free_settings(settings: tuple[str, ...]) -> dict[str, Any]:
    """Read NAME=VALUE where nothing is known of the domain: a number, true or false, or a word."""
    words: dict[str, Any] = {"true": True, "false": False}
    return {
        key: parse_number(key, value) if any(map(str.isdigit, value)) else words.get(value.lower(), value)
        for key, value in _split(settings)
    }
