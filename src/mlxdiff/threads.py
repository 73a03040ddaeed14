"""Who may use a model: one thread at a time, and not a process that was forked from the one that loaded it.

MLX's streams belong to threads. What a thread has left unevaluated can only be evaluated by that thread; evaluated
arrays are everybody's. So networks are evaluated as they are loaded, calls take turns, and a lazy loop belongs to the
thread that began it.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from .errors import BackendError

_ENDING_S = 1.0
_workers: set[int] = set()


class Turn:
    """`with turn:` waits until no other thread is inside. Raises BackendError in a forked process.

    enter  called by each thread that comes in
    """

    def __init__(self, enter: Callable[[], None]) -> None:
        self._lock, self._enter = threading.RLock(), enter
        self._process = os.getpid()

    def __enter__(self) -> Turn:
        if os.getpid() != self._process:
            # The lock may be held by a thread that the fork has not copied, and MLX's own threads are gone too.
            raise BackendError(
                "This model was loaded before the process was forked, and MLX does not survive a fork.",
                "Load it in the new process, or start that with multiprocessing's spawn method.",
            )
        self._lock.acquire()
        self._enter()
        _await_at_exit(threading.get_native_id())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()


class Owner:
    """The thread that made this. `check` raises BackendError in any other."""

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def check(self) -> None:
        if threading.get_ident() != self._thread:
            raise BackendError(
                "A denoising loop is continued in another thread than the one that began it.",
                "Iterate in one thread; `generate` can be called from any.",
            )


def _await_at_exit(thread: int) -> None:
    if threading.current_thread() is threading.main_thread():
        return
    if not _workers:
        atexit.register(_await_workers)
    _workers.add(thread)


def _await_workers() -> None:
    """Waits, at most a second, until the threads that Python has joined are gone for the system too.

    MLX keeps Python objects in each thread and frees them as the thread's very last act, after Python's own join. Where
    the interpreter ends at that moment, the process aborts.
    """
    running = {thread.native_id for thread in threading.enumerate()}
    ending = _workers - running
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        time.sleep(_ENDING_S / 10 if ending else 0)
        return
    end = time.monotonic() + _ENDING_S
    while any((tasks / str(thread)).exists() for thread in ending) and time.monotonic() < end:
        time.sleep(0.001)
