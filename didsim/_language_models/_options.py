"""Options that the commands for language models share."""

import click

HUB = click.option("--hub", is_flag=True, help="Look for models and data on the Hugging Face hub too.")
ON_BAD_ROW = click.option(
    "--on-bad-row",
    type=click.Choice(["error", "skip"]),
    default="error",
    show_default=True,
    help="Stop at a row that is no pair, or leave such rows out and count them.",
)
