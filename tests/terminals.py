"""The real program on a terminal of its own, as a person has it: keys go in, and what the screen received comes out."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from patience import WAIT

SIZE = (40, 100)  # rows, columns
# The terminal becomes the session's, so that Ctrl-C in it is a signal.
PROGRAM = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); from mlxdiff.__main__ import main; main()"


class Terminal:
    """Runs `mlxdiff ARGUMENTS` in `folder`; `before` is Python that runs first."""

    def __init__(
        self,
        folder: Path,
        *arguments: str,
        before: str = "",
        stdout: int | None = None,
        size: tuple[int, int] = SIZE,
        **environment: str,
    ):
        self._main, other = pty.openpty()
        rows, columns = size
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, columns * 10, rows * 20))
        clean = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "TMUX", "COLUMNS", "LINES")}
        own = {"TERM": "xterm-256color", "LANG": "C.UTF-8", "INPUTRC": os.devnull, "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", f"{before}\n{PROGRAM}", *arguments],
            cwd=folder,
            env={**clean, **own, **environment},
            stdin=other,
            stdout=other if stdout is None else stdout,
            stderr=other,
            start_new_session=True,
        )
        self._other = other
        self.received, self._at = b"", 0

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self._other)

    def type(self, keys: str | bytes) -> None:
        os.write(self._main, keys.encode() if isinstance(keys, str) else keys)

    def interrupt(self) -> None:
        """Ctrl-C once the program waits for keys: readline overlooks a signal that comes before."""
        self._until_asleep()
        self.type("\x03")

    def _until_asleep(self) -> None:
        """Until the main thread has slept for some time without being woken, which one that only gets no core has not.

        Only Linux tells; elsewhere a second has to do.
        """
        about = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/status")
        if not about.exists():
            time.sleep(1)
            return
        same, before, deadline = 0, "", time.monotonic() + WAIT
        while same < 10:
            assert time.monotonic() < deadline, "it does not wait"
            time.sleep(0.03)
            now = about.read_text()
            same = same + 1 if now == before and "\nState:\tS" in now else 0
            before = now

    def until(self, text: str, seconds: float = WAIT) -> str:
        """Reads up to the text; what came since the last call, to its end. Fails where the text does not come."""
        start, deadline = self._at, time.monotonic() + seconds
        while (found := self.received.find(text.encode(), start)) < 0:
            said = self.received[start:].decode(errors="replace")
            assert time.monotonic() < deadline, f"no {text!r} in {said!r}"
            if select.select([self._main], [], [], 0.1)[0]:
                self.received += os.read(self._main, 65536)
            else:
                assert self.process.poll() is None, f"it ended without {text!r}: {said!r}"
        self._at = found + len(text.encode())
        return self.received[start : self._at].decode(errors="replace")

    def answer(self, line: str, seconds: float = WAIT) -> str:
        """What the shell says to a line, up to its next prompt."""
        self.type(f"{line}\r")
        return self.until("mlxdiff> ", seconds)

    def end(self) -> int:
        """Waits for the end, and reads the rest; the exit code."""
        deadline = time.monotonic() + WAIT
        while self.process.poll() is None:
            assert time.monotonic() < deadline, "it does not end"
            if select.select([self._main], [], [], 0.05)[0]:
                self.received += os.read(self._main, 65536)
        while select.select([self._main], [], [], 0.05)[0]:
            self.received += os.read(self._main, 65536)
        return self.process.returncode

    def hang_up(self) -> int:
        """Closes the terminal, which must be the last thing done with it, and waits for the program; its exit code."""
        os.close(self._main)
        os.close(self._other)
        self._main, self._other = os.pipe()  # for __exit__
        return self.process.wait(WAIT)

    def shows_typing(self) -> bool:
        """Whether the terminal shows what is typed, as it did before."""
        return bool(termios.tcgetattr(self._other)[3] & termios.ECHO)
