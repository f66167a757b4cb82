"""The promises of reliability, tested by faults: full disks, signals, hostile surroundings, rivals."""

import contextlib
import errno
import io
import itertools
import json
import locale
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import click
import matplotlib
import numpy as np
import pytest
import torch
from conftest import Outcome

from didsim import _terminal
from didsim.cli import cli
from didsim.errors import (
    BadDataError,
    CellsFailedError,
    DidsimError,
    NothingSelectedError,
    ResourceError,
)
from didsim.experiment import output_directory, write_atomic
from didsim.experiment._store import LOCK, MARKER, OWNER, PARTIAL, encode_cell

DIDSIM = str(Path(sys.executable).with_name("didsim"))
FORMATS = ("csv", "svg", "pdf", "png", "json")

MINE = '''\
"""The cheapest experiment there is: three cells of arithmetic, one line."""

import os
import signal

import pandas as pd

from didsim.experiment import Spec, mean_bands, seeds

SPEC = Spec(
    id="mine",
    title="Mine",
    source="nowhere",
    caption="A test.",
    alt="A line.",
    axes={"slope": (1, 2, 3)},
    batch={"seed": seeds(3)},
    headline="height",
)


def run_cell(params):
    pass  # here
    return pd.DataFrame(
        [{"seed": s, "slope": params["slope"], "x": x, "height": s / 7 + x} for s in params["seed"] for x in (0, 1)]
    )


def summarise(df):
    points = mean_bands(df, ["slope", "x"], "height").assign(panel="one", quantity="height")
    return points.assign(series=points["slope"].map(str))[
        ["panel", "series", "quantity", "x", "mean", "lo", "hi", "n", "band"]
    ]


def draw(df, axes):
    axes[0, 0].plot(df["x"], df["mean"])
'''


@pytest.fixture
def here(here):
    """A directory that holds the cheap experiment."""
    (here / "mine.py").write_text(MINE)
    return here


def tree(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder with its content, what only a running process needs apart."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name not in {LOCK, OWNER})
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def leftovers(folder: Path) -> list[Path]:
    return list(folder.rglob(f"{PARTIAL}*"))


# --- files appear whole or not at all ---------------------------------------------------------------------


def fail(*args, **kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@contextlib.contextmanager
def file_size_limit(size: int):
    """Let no file of this process grow beyond a size, as a full disk would."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class TestWriteAtomic:
    def test_a_new_file_holds_what_was_written(self, tmp_path):
        write_atomic(tmp_path / "deep" / "er" / "a.csv", b"1\r\n2\n")
        assert tree(tmp_path) == {"deep/er/a.csv": b"1\r\n2\n"}

    def test_an_old_file_is_replaced_and_its_readers_keep_what_they_read(self, tmp_path):
        path = tmp_path / "a.csv"
        write_atomic(path, b"old")
        with open(path, "rb") as reader:
            write_atomic(path, b"new")
            assert reader.read() == b"old"
        assert tree(tmp_path) == {"a.csv": b"new"}

    def test_others_may_read_it(self, tmp_path):
        write_atomic(tmp_path / "a.csv", b"")
        assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o644

    @pytest.mark.parametrize("operation", ["fsync", "replace", "chmod", "fdopen"])
    def test_where_an_operation_fails_the_old_file_stays_and_nothing_else(self, tmp_path, monkeypatch, operation):
        write_atomic(tmp_path / "a.csv", b"old")
        monkeypatch.setattr(os, operation, fail)
        with pytest.raises(ResourceError, match=r"Cannot write .*a\.csv: No space left on device"):
            write_atomic(tmp_path / "a.csv", b"new")
        monkeypatch.undo()
        assert tree(tmp_path) == {"a.csv": b"old"}

    def test_where_writing_stops_half_way_the_old_file_stays_and_nothing_else(self, tmp_path):
        write_atomic(tmp_path / "a.csv", b"old")
        with file_size_limit(1000), pytest.raises(ResourceError, match=r"Cannot write .*a\.csv: File too large"):
            write_atomic(tmp_path / "a.csv", b"x" * 1001)
        assert tree(tmp_path) == {"a.csv": b"old"}

    def test_an_interruption_leaves_the_old_file_and_nothing_else(self, tmp_path, monkeypatch):
        def interrupt(descriptor):
            raise KeyboardInterrupt

        write_atomic(tmp_path / "a.csv", b"old")
        monkeypatch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            write_atomic(tmp_path / "a.csv", b"new")
        assert tree(tmp_path) == {"a.csv": b"old"}

    def test_the_content_is_on_the_disk_before_it_has_its_name_and_the_name_after(self, tmp_path, monkeypatch):
        steps = []
        for name in ("fsync", "replace"):
            original = getattr(os, name)
            monkeypatch.setattr(os, name, lambda *a, name=name, original=original: (steps.append(name), original(*a)))
        write_atomic(tmp_path / "a.csv", b"new")
        assert steps == ["fsync", "replace", "fsync"]

    def test_the_temporary_file_lies_in_the_same_directory(self, tmp_path, monkeypatch):
        moves = []
        monkeypatch.setattr(os, "replace", lambda source, target: moves.append((Path(source), Path(target))))
        write_atomic(tmp_path / "a.csv", b"new")
        [(source, target)] = moves
        assert source.parent == target.parent == tmp_path
        assert source.name.startswith(PARTIAL)

    def test_a_directory_under_that_name_is_a_resource_error(self, tmp_path):
        (tmp_path / "a.csv").mkdir()
        with pytest.raises(ResourceError, match="Cannot write"):
            write_atomic(tmp_path / "a.csv", b"new")
        assert leftovers(tmp_path) == []

    def test_a_parent_that_is_a_file_is_a_resource_error(self, tmp_path):
        (tmp_path / "file").touch()
        with pytest.raises(ResourceError, match=r"Cannot write into .*file"):
            write_atomic(tmp_path / "file" / "a.csv", b"new")


def test_whichever_disk_operation_fails_the_run_ends_with_7_and_can_go_on(run, here, monkeypatch):
    assert run("reproduce", "mine.py", "--out", "expected").code == 0
    expected = tree(here / "expected")
    original = os.fsync
    for nth in itertools.count(1):
        calls = itertools.count(1)
        monkeypatch.setattr(os, "fsync", lambda file, n=nth, c=calls: fail() if next(c) == n else original(file))
        done = run("reproduce", "mine.py", "--out", "out")
        monkeypatch.setattr(os, "fsync", original)
        if done.code == 0:
            break
        assert done.code == 7
        assert "No space left on device" in done.stderr
        assert "Traceback" not in done.stderr
        assert leftovers(here) == []
        assert tree(here / "out").items() <= expected.items()
        shutil.rmtree(here / "out")
    # marker, owner, three cells, CSV, three pictures, manifest: each is synced, and then its directory
    assert nth == 1 + 2 * 10


def test_a_failing_disk_loses_nothing_of_what_was_there(run, here, monkeypatch):
    assert run("reproduce", "mine.py", "--out", "expected").code == 0
    expected = tree(here / "expected")
    calls = iter(range(1, 1000))
    original = os.replace
    for _ in range(9):  # each attempt gets one or two files further
        monkeypatch.setattr(os, "replace", lambda *args: original(*args) if next(calls) % 3 else fail())
        before = tree(here / "out")
        done = run("reproduce", "mine.py", "--out", "out")
        monkeypatch.setattr(os, "replace", original)
        assert done.code in {0, 7}
        assert before.items() <= tree(here / "out").items()
    assert run("reproduce", "mine.py", "--out", "out").code == 0
    assert tree(here / "out") == expected


def test_a_file_size_limit_ends_the_run_with_7_and_spares_what_was_there(run, here):
    assert run("reproduce", "mine.py", "--out", "expected").code == 0
    with file_size_limit(4000):  # enough for cells and the CSV, not for pictures
        done = run("reproduce", "mine.py", "--out", "out")
    assert done.code == 7
    assert "Cannot write out/mine.svg: File too large" in done.stderr
    assert "Traceback" not in done.stderr
    kept = tree(here / "out")
    assert kept.items() <= tree(here / "expected").items()
    assert sum(name.startswith("cells/") for name in kept) == 3
    assert leftovers(here) == []


# --- one directory, one writer ----------------------------------------------------------------------------


class TestOutputDirectory:
    def test_a_new_directory_is_made_and_marked(self, tmp_path):
        with output_directory(tmp_path / "a" / "b") as path:
            assert json.loads((path / MARKER).read_text()) == {"schema_version": 1}

    def test_an_empty_directory_is_taken(self, tmp_path):
        with output_directory(tmp_path):
            assert (tmp_path / MARKER).exists()

    def test_a_directory_that_didsim_made_is_taken_again(self, tmp_path):
        for _ in range(2):
            with output_directory(tmp_path / "out"):
                pass
        write_atomic(tmp_path / "out" / "a.csv", b"x")
        with output_directory(tmp_path / "out"):
            assert (tmp_path / "out" / "a.csv").read_bytes() == b"x"

    @pytest.mark.parametrize("name", ["thesis.tex", ".bashrc", "cells"])
    def test_a_directory_of_others_is_refused_and_left_alone(self, run, here, name):
        (here / "home").mkdir()
        (here / "home" / name).write_text("precious")
        done = run("reproduce", "mine.py", "--out", "home")
        assert done.code == 7
        assert f"home holds files that are not didsim's ({name}, …)" in done.stderr
        assert tree(here / "home") == {name: b"precious"}

    def test_a_file_in_its_place_is_refused_and_left_alone(self, run, here):
        (here / "out").write_text("precious")
        done = run("reproduce", "mine.py", "--out", "out")
        assert done.code == 7
        assert "Cannot use out as output directory" in done.stderr
        assert (here / "out").read_text() == "precious"

    def test_a_path_below_a_file_is_refused(self, run, here):
        (here / "file").write_text("precious")
        done = run("reproduce", "mine.py", "--out", "file/out")
        assert done.code == 7
        assert "Cannot use file/out as output directory: Not a directory." in done.stderr

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes where others may not")
    def test_a_directory_without_permission_is_refused(self, run, here):
        (here / "locked").mkdir(mode=0o500)
        done = run("reproduce", "mine.py", "--out", "locked/out")
        assert done.code == 7
        assert "Permission denied" in done.stderr

    def test_training_is_kept_under_the_same_rules(self, run, here):
        (here / "home").mkdir()
        (here / "home" / "thesis.tex").touch()
        done = run("train", "dpo", "--steps", "2", "--out", "home")
        assert done.code == 7
        assert "not didsim's" in done.stderr

    def test_a_second_writer_is_refused_and_told_who_is_first(self, run, here):
        with output_directory(here / "out"):
            before = tree(here / "out")
            done = run("reproduce", "mine.py", "--out", "out")
            assert done.code == 7
            assert f"Process {os.getpid()} is writing into out." in done.stderr
            assert tree(here / "out") == before
        assert run("reproduce", "mine.py", "--out", "out").code == 0

    def test_an_error_inside_frees_the_directory(self, tmp_path):
        with pytest.raises(ZeroDivisionError), output_directory(tmp_path / "out"):
            _ = 1 / 0
        with output_directory(tmp_path / "out"):
            pass

    def test_what_a_killed_writer_left_half_written_is_removed(self, tmp_path):
        with output_directory(tmp_path / "out"):
            pass
        for folder in (tmp_path / "out", tmp_path / "out" / "cells" / "fig4"):
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{PARTIAL}abc").write_bytes(b"half")
        with output_directory(tmp_path / "out"):
            assert leftovers(tmp_path) == []

    def test_the_pid_and_lock_of_a_writer_that_is_gone_do_not_matter(self, tmp_path):
        with output_directory(tmp_path / "out"):
            pass
        (tmp_path / "out" / OWNER).write_text("1")
        (tmp_path / "out" / LOCK).write_text("1")
        with output_directory(tmp_path / "out"):
            assert (tmp_path / "out" / OWNER).read_text() == str(os.getpid())

    def test_a_dry_run_does_not_wait_for_the_writer(self, run, here):
        with output_directory(here / "out"):
            assert run("reproduce", "mine.py", "--out", "out", "--dry-run").code == 0


@pytest.mark.slow
def test_a_writer_in_another_process_is_named_by_its_pid(run, here):
    writer = """
import pathlib, sys
from didsim.experiment import output_directory
with output_directory(pathlib.Path("out")):
    print("in", flush=True)
    sys.stdin.read()
"""
    with subprocess.Popen([sys.executable, "-c", writer], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"in\n"
        done = run("reproduce", "mine.py", "--out", "out")
        other.kill()
    assert done.code == 7
    assert f"Process {other.pid} is writing into out. Wait for it, or use another --out." in done.stderr
    assert run("reproduce", "mine.py", "--out", "out").code == 0  # the killed one's lock is no hindrance


@pytest.mark.slow
def test_of_eight_starts_at_once_each_works_or_is_refused(run, here):
    assert run("reproduce", "fig4", "--quick", "--out", "expected").code == 0
    command = [DIDSIM, "reproduce", "fig4", "--quick", "--jobs", "1", "--out", "out"]
    starts = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    said = [start.communicate()[1] for start in starts]
    codes = [start.returncode for start in starts]
    assert set(codes) <= {0, 7}, said
    assert 0 in codes
    for code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "is writing into out" in text
    assert tree(here / "out") == tree(here / "expected")


# --- how a run ends ---------------------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Heed SIGINT, also where these tests are started in the background; so do the processes they start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
class TestSignals:
    @pytest.mark.parametrize(
        ("sent", "code", "word"), [("SIGINT", 130, "Interrupted."), ("SIGTERM", 143, "Terminated.")]
    )
    def test_a_signal_ends_the_run_with_its_code_and_keeps_what_is_done(self, run, here, sent, code, word):
        stop = f"params['slope'] == 2 and not os.path.exists('calm') and signal.raise_signal(signal.{sent})"
        (here / "mine.py").write_text(MINE.replace("pass  # here", stop))
        done = run("reproduce", "mine.py", "--out", "out")
        assert done.code == code
        assert f"{word} What was finished is kept; the same command continues." in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        assert sum(name.startswith("cells/") for name in tree(here / "out")) == 1
        (here / "calm").touch()
        assert run("reproduce", "mine.py", "--out", "out").code == 0

    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_a_signal_while_training_ends_it_with_its_code(self, run, monkeypatch, sent):
        from didsim import engine

        monkeypatch.setattr(engine, "dice", lambda *_, **__: signal.raise_signal(sent))
        monkeypatch.setattr("didsim.dice", engine.dice, raising=False)
        assert run("train", "dpo").code == 128 + sent

    @pytest.mark.slow
    @pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
    def test_the_process_itself_ends_so(self, here, sent):
        work = "print('at work', flush=True); __import__('time').sleep(600)"
        (here / "mine.py").write_text(MINE.replace("pass  # here", work))
        with subprocess.Popen(
            [DIDSIM, "reproduce", "mine.py"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline() == "at work\n"
            process.send_signal(sent)
            _, said = process.communicate(timeout=30)
        assert process.returncode == 128 + sent
        assert "What was finished is kept" in said
        assert "Traceback" not in said


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadDataError("no rows"), 4),
        (NothingSelectedError("no claim"), 5),
        (CellsFailedError("one cell"), 6),
        (ResourceError("full disk"), 7),
        (DidsimError("something"), 3),
        (click.UsageError("no such thing"), 2),
        (click.BadParameter("out of range"), 2),
        (click.Abort(), 130),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError("division by zero"), 3),
        (AssertionError(), 3),
        (RecursionError(), 3),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else str(value),
)
def test_every_ending_has_its_exit_code_and_no_traceback(run, monkeypatch, error, code):
    def end(*args, **kwargs):
        raise error

    monkeypatch.setattr(cli.commands["env"], "callback", end)
    done = run("env")
    assert done.code == code
    assert done.stdout == ""
    assert done.stderr.count("\n") <= 2
    assert "Traceback" not in done.stderr
    assert ("This is a bug in didsim" in done.stderr) == (code == 3 and not isinstance(error, DidsimError))


def test_a_bug_shows_where_it_is_on_request(run, monkeypatch):
    monkeypatch.setattr(cli.commands["env"], "callback", lambda: 1 / 0)
    assert "Traceback" in run("env", "-v").stderr
    assert "ZeroDivisionError" in run("-v", "env").stderr


# `didsim` and `didsim --help` start in a tenth of a second: they stand here for every command.
class TestStandardOutput:
    def ending(self, command: str) -> Outcome:
        done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env={**os.environ, "D": DIDSIM})
        return Outcome(done.returncode, done.stdout, done.stderr)

    def test_a_reader_that_has_seen_enough_is_no_failure(self):
        # `sleep` gives the reader time to go, so that writing meets a closed pipe
        done = self.ending('(sleep 0.3; exec "$D" --help) | true; echo "${PIPESTATUS[0]}"')
        assert done.stderr == ""
        assert done.stdout == "0\n"

    def test_a_reader_of_the_first_line_gets_it(self):
        done = self.ending('"$D" --help | head -1; echo "${PIPESTATUS[0]}"')
        assert done.stdout.startswith("Usage: didsim")
        assert done.stderr == ""

    def test_a_closed_standard_output_is_no_bug(self):
        done = self.ending('"$D" >&-')
        assert "bug in didsim" not in done.stderr
        assert "Traceback" not in done.stderr
        assert done.code in {0, 7}

    def test_a_closed_standard_error_is_no_bug(self):
        done = self.ending('"$D" nosuchcommand 2>&-')
        assert done.code == 2

    def test_a_full_disk_behind_standard_output_is_a_resource_error(self):
        done = self.ending('"$D" > /dev/full')
        assert "bug in didsim" not in done.stderr
        assert "Traceback" not in done.stderr
        assert done.code == 7

    def test_without_a_terminal_there_are_no_control_codes(self, run):
        for arguments in (("--help",), ("list", "objectives"), ("reproduce", "mine.py"), ("nosuch",)):
            done = run(*arguments)
            assert "\x1b" not in done.stdout + done.stderr
            assert "\r" not in done.stdout + done.stderr


class TestNarrowTerminals:
    @pytest.fixture
    def shown(self, run):
        """Run a command on a terminal that is as strict as Python makes it; return what is shown there."""

        def call(encoding: str, *arguments: str) -> str:
            raw = io.BytesIO()
            stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
            with contextlib.redirect_stdout(stream), pytest.raises(SystemExit) as ending:
                _terminal.run(cli, list(arguments))
            assert ending.value.code == 0
            stream.flush()
            return raw.getvalue().decode(encoding)

        return call

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso8859-9"])
    def test_greek_letters_are_spelled_out_where_they_cannot_be_shown(self, shown, encoding):
        assert "\\u03b2" in shown(encoding, "objective", "dpo")

    @pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-8"])
    @pytest.mark.parametrize("arguments", [("objective", "cal_dpo"), ("list", "figures")])
    def test_json_stays_json(self, run, shown, encoding, arguments):
        text = shown(encoding, *arguments, "--json")
        assert json.loads(text) == json.loads(run(*arguments, "--json").stdout)

    def test_a_process_in_the_c_locale_prints_greek(self):
        env = {**os.environ, "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
        done = subprocess.run([DIDSIM, "list", "priors"], capture_output=True, env=env)
        assert done.returncode == 0
        assert done.stderr == b""
        text = done.stdout.decode("utf-8")  # click takes the C locale for UTF-8
        assert "π_ref" in text or "\\u03c0_ref" in text


# --- surroundings -----------------------------------------------------------------------------------------

HOSTILE = """\
axes.facecolor: red
axes.labelsize: 30
figure.constrained_layout.use: False
font.family: Comic Sans MS
lines.linewidth: 9
path.simplify: False
pdf.compression: 0
pdf.fonttype: 3
savefig.bbox: tight
savefig.dpi: 33
savefig.transparent: True
svg.fonttype: none
svg.hashsalt: pepper
text.antialiased: False
text.usetex: True
"""


def figures(out: Path) -> dict[str, bytes]:
    return {ending: (out / f"fig4.{ending}").read_bytes() for ending in FORMATS}


@pytest.fixture(scope="module")
def fig4(tmp_path_factory):
    """The files of `reproduce fig4 --quick`, made in this process."""
    out = tmp_path_factory.mktemp("fig4") / "out"
    arguments = ["reproduce", "fig4", "--quick", "-q", "--jobs", "1", "--out", str(out)]
    handler = signal.getsignal(signal.SIGTERM)
    with contextlib.redirect_stdout(io.StringIO()), pytest.raises(SystemExit) as ending:
        _terminal.run(cli, arguments)
    signal.signal(signal.SIGTERM, handler)
    assert ending.value.code == 0
    return out


SURROUNDINGS = {
    "a hostile matplotlibrc and no home": {"MATPLOTLIBRC": "matplotlibrc", "HOME": "/nosuch"},
    "a backend that does not exist": {"MPLBACKEND": "nosuch"},
}

SKETCH = """
import hashlib
from didsim.plotting import render

def draw(axes):
    axes[0, 0].plot([0, 1, 2], [1, 3, 2], label="a")
    axes[0, 0].fill_between([0, 1], [0, 1], [2, 3], color="k", alpha=0.2)
    axes[0, 0].set(title=r"$\\pi^*$ or π", xlabel="x", ylabel="y", yscale="log")

for file in render(draw, (1, 1), (3.0, 2.0), ("svg", "pdf", "png"), title="T").values():
    print(hashlib.sha256(file).hexdigest())
"""


@pytest.fixture(scope="module")
def sketched():
    """The digests of a sketch drawn in this process."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(SKETCH, {})
    return printed.getvalue()


@pytest.mark.parametrize("env", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_the_surroundings_of_matplotlib_change_no_byte(here, sketched, env):
    (here / "matplotlibrc").write_text(HOSTILE)
    command = [sys.executable, "-c", SKETCH]
    done = subprocess.run(command, env={**os.environ, **env}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == sketched


def test_the_hostile_settings_are_heeded_by_a_figure_without_a_style(here):
    (here / "matplotlibrc").write_text(HOSTILE)
    settings = matplotlib.rc_params_from_file(here / "matplotlibrc", fail_on_error=True)
    lines = HOSTILE.splitlines()
    assert {line.partition(":")[0] for line in lines if line} <= set(settings)
    assert (settings["savefig.dpi"], settings["lines.linewidth"], settings["text.usetex"]) == (33, 9, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        pytest.param(["-W", "error"], id="-W error"),
        pytest.param(["-O"], id="-O"),
        pytest.param(["-OO", "-X", "utf8=0"], id="-OO -X utf8=0"),
    ],
)
def test_options_of_python_change_no_byte(here, fig4, options):
    command = [sys.executable, *options, DIDSIM, "reproduce", "fig4", "--quick", "--jobs", "1", "--out", "out"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert figures(here / "out") == figures(fig4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "env",
    [
        {"LC_ALL": "C"},
        {"LANG": "tr_TR.UTF-8", "LC_ALL": "tr_TR.UTF-8"},
        {"LANG": "de_DE.UTF-8", "LC_ALL": "de_DE.UTF-8"},
        {"TZ": "Pacific/Kiritimati"},
        {"PYTHONHASHSEED": "1"},
        {"http_proxy": "garbage", "https_proxy": "garbage"},
        *SURROUNDINGS.values(),
    ],
    ids=lambda env: " ".join(f"{name}={value}" for name, value in env.items()),
)
def test_the_environment_changes_no_byte(here, fig4, env):
    (here / "matplotlibrc").write_text(HOSTILE)
    command = [DIDSIM, "reproduce", "fig4", "--quick", "--out", "out", "--jobs", "1"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **env})
    assert done.returncode == 0, done.stderr
    assert figures(here / "out") == figures(fig4)


@pytest.mark.slow
def test_threads_and_jobs_change_no_byte_of_what_was_trained(here):
    files = []
    for threads, jobs in (("1", "1"), ("2", "3"), ("5", "2")):
        command = [DIDSIM, "reproduce", "fig1_right", "--quick", "--out", f"out{threads}", "--jobs", jobs]
        env = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, "OPENBLAS_NUM_THREADS": threads}
        done = subprocess.run(command, capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        files.append(tree(here / f"out{threads}"))
    assert files[0] == files[1] == files[2]


# --- no side effects --------------------------------------------------------------------------------------


def surroundings() -> dict[str, object]:
    """Return everything global that a run could disturb."""
    return {
        "rcParams": dict(matplotlib.rcParams),
        "torch threads": torch.get_num_threads(),
        "torch generator": torch.get_rng_state().tolist(),
        "torch dtype": torch.get_default_dtype(),
        "torch gradients": torch.is_grad_enabled(),
        "torch determinism": torch.are_deterministic_algorithms_enabled(),
        "numpy generator": np.random.get_state()[1].tolist(),  # noqa: NPY002
        "numpy errors": np.geterr(),
        "numpy printing": np.get_printoptions(),
        "generator": random.getstate(),
        "warnings": list(warnings.filters),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "directory": os.getcwd(),
        "search path": list(sys.path),
        "open files": len(list(Path("/proc/self/fd").glob("*"))) if Path("/proc/self/fd").exists() else 0,
    }


@pytest.fixture
def three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("three_threads")
class TestSideEffects:
    TRAIN = "from didsim.experiment import train_grid; train_grid(['dpo'], [2.0], 1, 4, 4, 2)"

    def test_a_run_leaves_everything_as_it_was(self, run, here):
        (here / "mine.py").write_text(MINE.replace("pass  # here", self.TRAIN))
        with matplotlib.rc_context({"lines.linewidth": 3.25}):
            run("reproduce", "mine.py", "--out", "first")  # imports happen here
            before = surroundings()
            assert run("reproduce", "mine.py", "--out", "second").code == 0
            assert surroundings() == before
        assert torch.get_num_threads() == 3

    @pytest.mark.parametrize("place", ["run_cell(params):", "summarise(df):", "draw(df, axes):"])
    def test_a_run_that_fails_does_too(self, run, here, place):
        run("reproduce", "mine.py", "--out", "first")
        (here / "mine.py").write_text(MINE.replace(place, f"{place}\n    raise KeyError('mine')"))
        before = surroundings()
        assert run("reproduce", "mine.py", "--out", "second").code != 0
        assert surroundings() == before

    def test_a_cell_runs_on_one_thread(self, run, here):
        check = "import torch; assert torch.get_num_threads() == 1"
        (here / "mine.py").write_text(MINE.replace("pass  # here", check))
        assert run("reproduce", "mine.py").code == 0


# --- no silent numbers ------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_cell_never_holds_what_is_not_a_number(value):
    import pandas as pd

    with pytest.raises(ValueError, match="not JSON compliant"):
        encode_cell(pd.DataFrame({"x": [1.0, value]}))
