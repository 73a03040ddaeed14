"""Ctrl-C once: the run is to end in order. Once too often: the program ends at once, also in a long computation."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

AGAIN_S = 0.1
SIGNALS = (signal.SIGINT, signal.SIGTERM)
SHOW_CURSOR = "\x1b[?25h"


class Interrupts:
    """While it is entered, the first SIGINT or SIGTERM sets `received`; one more than `tell` has ends the process.

    tell    what is called with the first signal, with the second, and so on, from another thread
    clean   called before the process ends at once

    Python's own handlers wait for MLX to come back from a computation, which may take a minute. So a thread of its own
    reads the signals' numbers from the pipe into which Python writes them at once.
    """

    def __init__(self, *tell: Callable[[], None], clean: Callable[[], None]) -> None:
        self.received: int | None = None
        self._tell, self._clean = iter(tell), clean

    @property
    def exit_code(self) -> int:
        """The shell's: 130 for SIGINT, 143 for SIGTERM."""
        assert self.received is not None
        return 128 + self.received

    def is_set(self) -> bool:
        return self.received is not None

    def __enter__(self) -> Interrupts:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = [signal.signal(number, lambda *_: None) for number in SIGNALS]
        self._wakeup = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        threading.Thread(target=self._watch, daemon=True, name="mlxdiff-signals").start()
        return self

    def __exit__(self, *_: object) -> None:
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        os.close(self._writer)  # the thread reads the end and goes

    def _watch(self) -> None:
        while data := os.read(self._reader, 1):
            number = data[0]
            if number not in SIGNALS:
                continue
            tell = next(self._tell, None)
            if tell is not None:
                self.received = number if self.received is None else self.received
                tell()
            else:
                self._clean()
                if sys.stderr.isatty():
                    os.write(2, f"{SHOW_CURSOR}\n".encode())
                os._exit(128 + number)
        os.close(self._reader)


@contextmanager
def insisting(number: int, handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """The handler of a signal, in the main thread, which gets it again until it has run.

    readline looks for signals when its waiting for a key is broken off. One that comes just before the waiting begins
    breaks nothing off, and would be heard with the next key.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    handled, thread = threading.Event(), threading.get_ident()

    def handle(number: int, frame: FrameType | None) -> None:
        handled.set()
        handler(number, frame)

    def watch() -> None:
        while data := os.read(reader, 1):
            while data[0] == number and not handled.wait(AGAIN_S):
                signal.pthread_kill(thread, number)
        os.close(reader)

    before = signal.signal(number, handle)
    wakeup = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=watch, daemon=True, name="mlxdiff-insisting").start()
    try:
        yield
    finally:
        handled.set()
        signal.set_wakeup_fd(wakeup)
        signal.signal(number, before)
        os.close(writer)  # the thread reads the end and goes
