"""Options that the commands for language models share."""

from collections.abc import Callable
from typing import Any

import click

from didsim._terminal import Whole

HUB = click.option("--hub", is_flag=True, help="Look for models and data on the Hugging Face hub too.")
ON_BAD_ROW = click.option(
    "--on-bad-row",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Stop at a row that is no pair, or leave such rows out and count them.",
)

_DRAWING = (
    click.option("--max-new-tokens", type=Whole(1, 10**6), default=256, show_default=True, help="Longest response."),
    click.option("--batch-size", type=Whole(1, 10**5), default=8, show_default=True, help="Responses at once."),
    click.option("--dtype", type=click.Choice(["float32", "bfloat16"]), default="float32", show_default=True),
    click.option("--seed", type=Whole(0, 2**32 - 1), default=42, show_default=True, help="Seed of all draws."),
)


def drawing_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Accept the options of commands that draw responses."""
    for option in reversed(_DRAWING):
        command = option(command)
    return command
