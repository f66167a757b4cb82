"""Arguments that commands share: an objective with its hyperparameters, and the world that options describe."""

from collections.abc import Callable, Iterator
from typing import Any

import click

from didsim._checks import REAL, check_choice
from didsim._terminal import Number, Whole, parse_number

SETTINGS = click.option("-S", "--set", "settings", multiple=True, metavar="NAME=VALUE", help="Set a hyperparameter.")

SHAPE = ("num_classes", "vocabulary", "max_length", "num_prompts", "num_features", "tau", "problem_seed")
"""The options that many worlds have."""

_WORLD = (
    click.option(
        "--world", default="did", show_default=True, help="Where pairs come from: `didsim list worlds` names them."
    ),
    click.option("-W", "--world-set", "world_settings", multiple=True, metavar="NAME=VALUE", help="Set its options."),
    click.option("--num-classes", type=Whole(1, 4096), default=None, help="Number of classes K [32]."),
    click.option("--vocabulary", type=Whole(1, 4096), default=None, help="Sequences over so many tokens, not classes."),
    click.option("--max-length", type=Whole(1, 64), default=None, help="The longest sequences, in tokens."),
    click.option("--num-prompts", type=Whole(1, 10**5), default=None, help="Number of prompts X [none]."),
    click.option("--num-features", type=Whole(1, 10**6), default=None, help="Restrict the policy to so many features."),
    click.option("--tau", type=Number(), default=None, help="Temperature of the target, τ [4]."),
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
    """Take those that describe a world out of the options of a command."""
    return {name: options.pop(name) for name in ("world", "world_settings", *SHAPE)}


def describe_world(shape: dict[str, Any], problem: Any) -> dict[str, Any]:
    """Return the name of a world, its space, and its options, as a part of a document."""
    world, given = _find_world(shape)
    known = {name: value for name, value in {**world.options, **given}.items() if value is not None}
    classes = {} if "vocabulary" in known else {"num_classes": problem.num_classes}
    return {"name": world.name, "space": str(problem.space), **known, **classes}


def build_problem(shape: dict[str, Any]) -> Any:
    """Build the problem that the options of a command describe."""
    world, given = _find_world(shape)
    if world.name == "did" and (shape["vocabulary"] is None) != (shape["max_length"] is None):
        raise ValueError("--vocabulary and --max-length must be given together; sequences need both.")
    return world.build(**given)


def _find_world(shape: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Return a world, and the options that were given for it."""
    from didsim.worlds import WORLDS

    world = WORLDS[check_choice("--world", shape["world"], WORLDS)]
    named = {name: shape[name] for name in SHAPE if shape[name] is not None}
    given = {"seed" if name == "problem_seed" else name: value for name, value in named.items()}
    for name, text in _split(shape["world_settings"], "-W", "noise=0.1"):
        if name in given and name != "seed":
            raise ValueError(f"{name} is given twice: set it once, with -W or with an option of its own.")
        check_choice(f"an option of the world {world.name}", name, world.options)
        given[name] = _read_as(name, text, world.options[name])
    for name in given:
        check_choice(f"an option of the world {world.name}", name, world.options)
    return world, given


def _read_as(name: str, text: str, default: Any) -> Any:
    """Read an option of a world: a word, a number, or a whole one, as its default is; None stands for a whole one."""
    if isinstance(default, str):
        return text
    try:
        number = parse_number(name, text)
    except ValueError as error:  # the range is for the world to name, when it is given a number
        raise ValueError(str(error).replace(f" in {REAL}", "")) from error
    if isinstance(default, float):
        return number
    if not number.is_integer():
        raise ValueError(f"{name} must be a whole number; got {text!r}.")
    return int(number)


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


def _split(settings: tuple[str, ...], flag: str = "-S", example: str = "beta=2") -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key:
            raise ValueError(f"{flag} takes NAME=VALUE, such as {flag} {example}; got {setting!r}.")
        if key in seen:
            raise ValueError(f"{flag} {key} is given twice; it takes NAME=VALUE once for each name.")
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
