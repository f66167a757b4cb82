"""What the tests of the command line share: calling it in this process, in a directory of their own."""

import signal
import sys
from typing import NamedTuple

import pytest

from didsim.cli import main


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
