"""`python -m mlxdiff`, and `mlxdiff` as installed: imports the program under a guard, so Ctrl-C shows no traceback."""

import os
import sys

INTERRUPTED = 130


def main() -> None:
    """Runs the program; see cli/app.py. Interrupted while it still imports, it exits 130 as it does later on."""
    sys.unraisablehook = _interrupt_again
    _fill_standard_descriptors()
    try:
        from .cli.app import main as run

        run()
    except KeyboardInterrupt:
        _end("Interrupted.\n")
    except SystemExit as end:
        if end.code != INTERRUPTED:
            raise
        _end("")


def _fill_standard_descriptors() -> None:
    """Opens /dev/null as each of 0, 1 and 2 that is closed (`<&-`); sys.stdin and the others stay None.

    The next file to be opened would get that number: MLX takes 0 for a failure, and what libraries in C print to 1 and
    2 would go into a picture.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        pass
    os.close(number)


def _interrupt_again(unraisable) -> None:
    """Ctrl-C in a finalizer, or in a callback of the import system, is one that Python drops: it is sent once more."""
    if not issubclass(unraisable.exc_type, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)
        return
    import signal
    from threading import Timer

    Timer(0.01, os.kill, (os.getpid(), signal.SIGINT)).start()


def _end(text: str) -> None:
    """At once: what is half imported, or still computing in MLX's threads, may not take an orderly end."""
    _write(sys.stdout, "")
    _write(sys.stderr, text)
    os._exit(INTERRUPTED)


def _write(stream, text: str) -> None:
    try:
        stream.write(text)
        stream.flush()
    except (AttributeError, OSError, ValueError):  # there is none, or its reader has ended
        pass


if __name__ == "__main__":
    main()
