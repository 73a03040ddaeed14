"""The `mlxdiff` program: its commands, its global options, and how errors become exit codes."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from .. import __version__
from ..errors import MlxdiffError
from . import output
from .decode import decode
from .generate import generate
from .grid import grid
from .info import info
from .pull import pull

app = typer.Typer(
    name="mlxdiff",
    help="Stable Diffusion on Apple's MLX: prompts in, pictures out, one lazy step at a time.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (pull, generate, grid, decode, info):
    app.command()(command)


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"mlxdiff {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and every warning.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no notes; data and errors only.")] = False,
) -> None:
    del version  # its callback has ended the program
    output.verbosity.verbose = verbose
    output.verbosity.quiet = quiet
    output.show_warnings()


def main() -> None:
    """Runs the program; exits 0 all done, 1 an error, 2 wrong usage, 3 some jobs failed, 130 interrupted."""
    try:
        app()
    except MlxdiffError as error:
        output.report(error)
        sys.exit(error.exit_code)
    except Exception as error:
        unforeseen = MlxdiffError(
            f"mlxdiff met an error that it did not foresee ({type(error).__name__}: {error}).",
            "Run the command again as `mlxdiff -v ...` for the details, and please report them.",
        )
        unforeseen.__cause__ = error
        output.report(unforeseen)
        sys.exit(unforeseen.exit_code)
    except KeyboardInterrupt:
        output.note("Interrupted.", style="yellow")
        sys.exit(130)


if __name__ == "__main__":
    main()
