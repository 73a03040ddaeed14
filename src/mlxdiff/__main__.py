"""`python -m mlxdiff`, and `mlxdiff` as installed: imports the program under a guard, for Ctrl-C to show no traceback."""

import sys


def main() -> None:
    """Runs the program; see cli/app.py. Interrupted while it still imports, it exits 130 like later on."""
    try:
        from .cli.app import main as run

        run()
    except KeyboardInterrupt:
        import os

        if sys.stderr is not None:
            sys.stderr.write("Interrupted.\n")
            sys.stderr.flush()
        os._exit(130)  # what is half imported may not take an orderly end


if __name__ == "__main__":
    main()
