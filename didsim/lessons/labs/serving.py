"""Serving a lab in the browser: marimo, on this machine only, with everything switched off that looks elsewhere."""

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile

from didsim.errors import MissingExtraError, ResourceError

HOST = "127.0.0.1"

OFFLINE = {
    "MARIMO_SKIP_UPDATE_CHECK": "1",  # the editor asks marimo.io for the newest version, once a day
    "MARIMO_RESTRICT_SHARING": "true",  # no buttons that would upload the notebook
    "MARIMO_TRACING": "false",
}
"""What marimo is told by its environment, so that it asks nobody."""

THREADS = {"OMP_NUM_THREADS": "1"}
"""The tensors of the labs are small: with more threads PyTorch is slower."""

PATIENCE = 60.0
"""Seconds within which the server must answer."""


def require_marimo() -> None:
    """Refuse to go on without marimo.

    Raises:
        MissingExtraError: if it is not installed.
    """
    if find_spec("marimo") is None:
        raise MissingExtraError("The labs need marimo: pip install 'didsim[teach]'")


@contextmanager
def served(notebook: Path, *, edit: bool = False, port: int | None = None) -> Iterator[tuple[str, subprocess.Popen]]:
    """Serve a notebook; yield its address and the process of the server, which ends with this block.

    Args:
        notebook: the file.
        edit: whether it opens in marimo's editor, behind a token that the address contains, or as a read-only app.
        port: a free one unless given.

    Raises:
        ResourceError: if the port is not free, or the server does not answer.
    """
    require_marimo()
    port = _free_port(port)
    token = secrets.token_urlsafe(16) if edit else ""
    with TemporaryFile("w+") as said:
        server = subprocess.Popen(
            [sys.executable, "-m", "marimo", "--quiet", "--yes", *_command(edit, port), str(notebook)],
            env={**THREADS, **os.environ, **OFFLINE},
            stdin=subprocess.PIPE,
            stdout=said,
            stderr=said,  # shown if the server does not start: else it is of no use
            text=True,
            start_new_session=True,  # Ctrl-C reaches this process, which ends the server
        )
        try:
            assert server.stdin is not None  # a pipe, as asked for above
            with server.stdin as answers:
                answers.write(token)
            if not _answers(server, port):
                said.seek(0)
                raise ResourceError(
                    f"marimo ended, or did not answer within {PATIENCE:g} seconds. {said.read()}".strip()
                )
            yield f"http://{HOST}:{port}" + (f"?access_token={token}" if edit else ""), server
        finally:
            server.terminate()
            server.wait()


def _command(edit: bool, port: int) -> list[str]:
    mode = ["edit", "--skip-update-check", "--token-password-file", "-"] if edit else ["run", "--no-token"]
    return [*mode, "--headless", "--no-sandbox", "--host", HOST, "--port", str(port)]


def _free_port(port: int | None) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            hint = "Take another, or leave --port out."
            raise ResourceError(f"Port {port} cannot be used: {error.strerror or error}. {hint}") from error
        return probe.getsockname()[1]


def _answers(server: subprocess.Popen, port: int) -> bool:
    """Wait until the server answers; return whether it does."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex((HOST, port)) == 0:
                return True
        time.sleep(0.05)
    return False


__all__ = ["HOST", "OFFLINE", "require_marimo", "served"]
