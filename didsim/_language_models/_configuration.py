"""Files of settings: TOML that stands between the command line and the defaults."""

import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from didsim._checks import did_you_mean, message
from didsim._terminal import Number, Whole

TABLES = ("set", "training")
"""Tables of a file of settings: hyperparameters, as -S sets them, and fields of TRL's DPOConfig."""

LARGEST = 2**20
"""Bytes of a file of settings."""


def take_configuration(
    ctx: click.Context, param: click.Parameter, path: Path | None, command: click.Command | None = None
) -> dict[str, Any]:
    """Let a file say what the options are where neither flags nor the environment do, and return its tables.

    Args:
        ctx: that of the command.
        param: the argument that names the file.
        path: the file.
        command: the one whose options the file may set, if it is another.
    """
    if path is None:
        return {}
    found = _read(path)
    options = {option.name: option for option in (command or ctx.command).params if _is_settable(option)}
    tables = {name: found.pop(name) for name in TABLES if name in found}
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise click.UsageError(f"{path}: {message(name, f'a table, [{name}]', table)}")
    for name, value in found.items():
        if name not in options:
            suggestion = did_you_mean(name, [*options, *TABLES])
            accepted = f"one of {', '.join(str(key) for key in options)}, or a table [set] or [training]"
            raise click.UsageError(f"{path}: {message('a setting', accepted, name, suggestion)}")
        found[name] = _checked(options[name], value, path, ctx)
    ctx.default_map = found
    return tables


def _is_settable(option: click.Parameter) -> bool:
    return isinstance(option, click.Option) and option.expose_value and option.name not in {"settings", "dry_run"}


def _checked(option: click.Parameter, value: Any, path: Path, ctx: click.Context) -> Any:
    """Return a value that the option takes, of the type that TOML has for it."""
    kind, words = str, "a text in quotes"
    if isinstance(option, click.Option) and option.is_flag:
        kind, words = bool, "true or false"
    elif isinstance(option.type, Whole):
        kind, words = int, "a whole number"
    elif isinstance(option.type, Number):
        kind, words = (int, float), "a number"
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise click.UsageError(f"{path}: {message(str(option.name), words, value)}")
    try:
        option.type_cast_value(ctx, value)
    except click.BadParameter as error:
        raise click.UsageError(f"{path}: {option.name}: {error.message}") from error
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise click.UsageError(f"There is no file {path}.")
        if path.stat().st_size > LARGEST:
            raise click.UsageError(f"{path} is larger than {LARGEST} bytes: it is no file of settings.")
        text = path.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"{path} is not UTF-8 text.") from error
    except OSError as error:
        raise click.UsageError(f"{path} cannot be read: {error.strerror}.") from error
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        hint = "Texts stand in quotes, decimals take a point, true and false are small."
        raise click.UsageError(f"{path} is no TOML: {error}. {hint}") from error


def merged_settings(given: Sequence[str], table: Mapping[str, Any]) -> tuple[str, ...]:
    """Return hyperparameters as -S takes them: those that were given, and those of a file for other names."""
    names = {text.partition("=")[0] for text in given}
    return (*given, *(f"{name}={_word(value)}" for name, value in table.items() if name not in names))


def _word(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def as_toml(document: Mapping[str, Any]) -> str:
    """Write a document as TOML: its tables last, and nothing of what is None."""
    tables = {name: value for name, value in document.items() if isinstance(value, Mapping)}
    lines = [f"{name} = {_value(v)}" for name, v in document.items() if v is not None and name not in tables]
    for name, table in tables.items():
        if table:
            lines += ["", f"[{name}]", *(f"{_key(key)} = {_value(value)}" for key, value in table.items())]
    return "\n".join(lines)


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _value(name)


def _value(value: Any) -> str:
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _word(value) if isinstance(value, bool) else repr(value)
