"""What all commands share: options, typed arguments, tables, JSON, and the exit code of every ending."""

import io
import json
import os
import shutil
import signal
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import click

from didsim._checks import POSITIVE, Interval, check_integer, parse_number
from didsim.errors import DidsimError

SCHEMA_VERSION = 1
INTERRUPTED, TERMINATED, BUG, RESOURCE = 130, 143, 3, 7


class Number(click.ParamType):
    """A finite number in an interval; unlike click's FloatRange it refuses nan, inf and underflow."""

    name = "number"

    def __init__(self, interval: Interval = POSITIVE) -> None:
        self.interval = interval

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Read the number, or fail with what is accepted."""
        try:
            return parse_number("it", str(value), self.interval)
        except ValueError as error:
            self.fail(str(error), param, ctx)


class Whole(click.ParamType):
    """A whole number in a range."""

    name = "integer"

    def __init__(self, low: int, high: int) -> None:
        self.low, self.high = low, high

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Read the number, or fail with what is accepted."""
        try:
            return check_integer("it", int(str(value)), self.low, self.high)
        except ValueError as error:
            accepted = f"It must be a whole number from {self.low} to {self.high}; got {value!r}."
            self.fail(accepted if "invalid literal" in str(error) else str(error), param, ctx)


OUT = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("didsim-out"),
    show_default=True,
    help="Directory for results; a new one, or one that didsim made.",
)


def common_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Accept --json, -q, -v and --no-color here; they mean the same before and after the command's name."""

    def remember(ctx: click.Context, param: click.Parameter, value: bool) -> None:
        if value:
            ctx.find_root().meta[f"didsim.{param.name}"] = True

    for flags, text in (
        (("--no-color",), "Never use colour."),
        (("--verbose", "-v"), "Say more on stderr."),
        (("--quiet", "-q"), "Say nothing on stderr but errors."),
        (("--json",), "Print one JSON document on stdout."),
    ):
        option = click.option(*flags, is_flag=True, expose_value=False, callback=remember, help=text)
        command = option(command)
    return command


class ExampleCommand(click.Command):
    """A command whose help ends with examples."""

    def __init__(self, *args: Any, examples: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, one a line."""
        with formatter.section("Examples"):
            for example in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{example}\n")  # not wrapped: to be copied


def command_with_examples(*examples: str, **settings: Any) -> Callable[[Callable[..., Any]], ExampleCommand]:
    """Make a command with examples in its help, and the common options."""

    def decorate(function: Callable[..., Any]) -> ExampleCommand:
        return click.command(cls=ExampleCommand, examples=examples, **settings)(common_options(function))

    return decorate


def flag(name: str) -> bool:
    """Return whether one of the common options was given: "json", "quiet", "verbose" or "no_color"."""
    ctx = click.get_current_context(silent=True)
    return bool(ctx and ctx.find_root().meta.get(f"didsim.{name}"))


def say(text: str) -> None:
    """Tell the user something that is not the result."""
    if not flag("quiet"):
        click.echo(text, err=True)


def emit(document: dict[str, Any], text: str) -> None:
    """Print the result: one JSON document if that was asked for, else text."""
    if flag("json"):
        text = json.dumps({"schema_version": SCHEMA_VERSION, **document}, indent=2, allow_nan=False, ensure_ascii=False)
    click.echo(text)


def table(headers: Sequence[str], rows: Sequence[Sequence[object]], width: int | None = None) -> str:
    """Lay out rows in aligned columns; numbers to the right, with four significant digits.

    Args:
        headers: a name for each column.
        rows: the cells.
        width: columns of the screen, within which the widest cells are wrapped; None keeps each row on one line.
    """
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(headers, *cells, strict=True)]
    right = [bool(rows) and all(isinstance(row[i], int | float) for row in rows) for i in range(len(headers))]
    if width is not None:
        widths = _narrowed(widths, headers, width)

    def lines(texts: Sequence[str]) -> Iterator[str]:
        wrapped = [textwrap.wrap(t, w) if len(t) > w else [t] for t, w in zip(texts, widths, strict=True)]
        for parts in zip_longest(*wrapped, fillvalue=""):
            placed = zip(parts, widths, right, strict=True)
            yield "  ".join(t.rjust(w) if r else t.ljust(w) for t, w, r in placed).rstrip()

    return "\n".join(line for row in [list(headers), *cells] for line in lines(row))


NARROWEST = 12
"""A column is not made narrower than this, or than its header: the table is then wider than the screen."""


def _narrowed(widths: Sequence[int], headers: Sequence[str], width: int) -> list[int]:
    """Take from the widest columns until a row fits the screen."""
    narrowed = list(widths)
    floors = [max(NARROWEST, len(header)) for header in headers]
    while sum(narrowed) + 2 * (len(narrowed) - 1) > width:
        room = [have - least for have, least in zip(narrowed, floors, strict=True)]
        if max(room) <= 0:
            break
        widest = max((i for i in range(len(narrowed)) if room[i] > 0), key=lambda i: narrowed[i])
        narrowed[widest] -= 1
    return narrowed


def screen_width() -> int | None:
    """Return how many columns standard output has, or None when it is not a terminal: files are not wrapped."""
    return shutil.get_terminal_size().columns if sys.stdout is not None and sys.stdout.isatty() else None


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Treat a ValueError or TypeError of this block as a mistake in the command's arguments."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise click.UsageError(str(error)) from error


def run(command: click.Command, arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit with a code that says how it went (`INTERFACE`: exit codes)."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # an ASCII terminal has no β
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code = _invoke(command, list(sys.argv[1:] if arguments is None else arguments))
    except BrokenPipeError:  # the reader has seen enough
        _discard_stdout()
        code = 0
    except (click.Abort, KeyboardInterrupt):
        code = _fail("Interrupted. What was finished is kept; the same command continues.", INTERRUPTED)
    except _Terminated:
        code = _fail("Terminated. What was finished is kept; the same command continues.", TERMINATED)
    except click.ClickException as error:
        hint = f"\nTry '{error.ctx.command_path} --help'." if isinstance(error, click.UsageError) and error.ctx else ""
        code = _fail(f"Error: {error.format_message()}{hint}", 2)
    except DidsimError as error:
        code = _fail(f"Error: {error}", error.exit_code)
    except OSError as error:
        _discard_stdout()
        code = _fail(f"Error: {error.strerror or error}: {error.filename or 'standard output'}.", RESOURCE)
    except Exception as error:
        if "-v" in sys.argv or "--verbose" in sys.argv:
            traceback.print_exc()
        text = f"This is a bug in didsim: {type(error).__name__}: {error}. Add -v to see where, and please report it."
        code = _fail(text, BUG)
    sys.exit(code)


def _invoke(command: click.Command, arguments: list[str]) -> int:
    """Run a command; click's own `main` is not used, since it ends a broken pipe with 1."""
    try:
        with command.make_context("didsim", arguments, auto_envvar_prefix="DIDSIM") as ctx:
            command.invoke(ctx)
    except click.exceptions.Exit as ending:
        return ending.exit_code
    finally:
        if sys.stdout is not None:  # it is None when the caller has closed it
            sys.stdout.flush()
    return 0


def _discard_stdout() -> None:
    """Send what is still buffered for standard output nowhere, so that the interpreter's own flush does not fail."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


class _Terminated(BaseException):
    """The process was asked to end; like KeyboardInterrupt, nothing on the way may take it for its own failure."""


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated


def _fail(text: str, code: int) -> int:
    click.echo(text, err=True)
    return code
