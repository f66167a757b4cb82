"""What the tests of the command line share: calling it in this process, in a directory of their own."""

import signal
import sys
from collections.abc import Iterator
from typing import NamedTuple

import click
import pytest

from didsim.cli import cli, main


def _named(group: click.Group, before: str = "") -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from _named(command, f"{before}{name} ")
        else:
            yield before + name, command


ALL_COMMANDS = dict(_named(cli))
"""Every command by the words that call it, such as "solve" and "llm train"."""


class Outcome(NamedTuple):
    """What a command ended with."""

    code: int
    stdout: str
    stderr: str


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty directory to work in, with one job at a time unless a test says otherwise."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIDSIM_REPRODUCE_JOBS", "1")
    return tmp_path


@pytest.fixture
def run(here, capsys, monkeypatch):
    """Call the command line in this process."""
    handler = signal.getsignal(signal.SIGTERM)

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["didsim", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ending:
            main()
        assert isinstance(ending.value.code, int)
        return Outcome(ending.value.code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)
