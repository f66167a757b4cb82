"""What the libraries below say on their own: progress bars, warnings, logs."""

import io
import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import datasets.utils.logging
import transformers.utils.logging

BARS = (datasets.utils.logging, transformers.utils.logging)


@contextmanager
def without_chatter(heard: bool = False) -> Iterator[None]:
    """Let the libraries say nothing while the context lasts, or, if it is to be heard, nothing on standard output."""
    if heard:
        with redirect_stdout(sys.stderr):
            yield
        return
    shown = [bars for bars in BARS if bars.is_progress_bar_enabled()]
    before = logging.root.manager.disable
    for bars in BARS:
        bars.disable_progress_bar()
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
        for bars in shown:
            bars.enable_progress_bar()
