"""Calls of a function in processes of their own, which end with their parent."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any


def in_processes(
    function: Callable[..., Any], calls: Sequence[tuple[Any, ...]], jobs: int
) -> Iterator[tuple[int, Any]]:
    """Call a function with each tuple of arguments, several at once.

    Args:
        function: one that a fresh process can import.
        calls: its arguments, which can be pickled.
        jobs: how many processes.

    Yields:
        The number of each call, and what it returned or raised, in the order in which they end.
    """
    context, others = multiprocessing.get_context("spawn"), set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(min(jobs, len(calls)), mp_context=context, initializer=_leave_with_parent)
    try:
        with _held_back(signal.SIGINT):  # the workers start here, and inherit it: Ctrl-C is the parent's to handle
            futures = {pool.submit(function, *arguments): number for number, arguments in enumerate(calls)}
        for future in as_completed(futures):
            yield futures[future], future.exception() or future.result()
        pool.shutdown()  # all is done: workers end by themselves, and leave nothing behind
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in set(multiprocessing.active_children()) - others:
            process.terminate()


@contextmanager
def _held_back(number: signal.Signals) -> Iterator[None]:
    """Hold a signal back until the end of the block, where the system has such a thing."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _leave_with_parent() -> None:
    """End a worker when its parent is gone, however and whenever it went."""
    parent = multiprocessing.parent_process()
    assert parent is not None  # this runs in workers only

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
