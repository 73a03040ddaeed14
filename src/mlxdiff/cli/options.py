"""Options that are no settings, each worded once for all commands that have it. For settings see declared.py."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from ..batch.options import RunOptions
from ..computer import power
from ..errors import BackendError, RequestError
from . import completion, config, output
from .deadline import moment
from .signature import Command, expanded, option

INPUT, RUN, OUTPUT = "Input", "Run", "Output"  # panels of --help


class Shown(str, Enum):
    """The values of --progress."""

    BAR = "bar"
    JSON = "json"
    NONE = "none"


Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Picture to write: .png, .jpg or .webp.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
OutputPattern = Annotated[
    str | None,
    typer.Option(
        "--output",
        "-o",
        metavar="PATH",
        help="Picture to write (.png, .jpg, .webp), a folder, or a template such as"
        " out/{index:04d}-{prompt:.30}-{seed}.png; - is standard output. Default: a name made of the prompt and the"
        " seed.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Profile = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Take the settings of [profile.NAME] in config.toml. Other options override them.",
        show_default=False,
        autocompletion=config.complete_profile,
        rich_help_panel=INPUT,
    ),
]
Where = Annotated[
    str | None,
    typer.Option(
        metavar="EXPR",
        help="Choose by what pictures were made with: \"steps > 20 and prompt contains 'cat'\" (docs/culling.md).",
        show_default=False,
        rich_help_panel=INPUT,
    ),
]
Force = Annotated[bool, typer.Option("--force", "-f", help="Overwrite existing files.", rich_help_panel=OUTPUT)]
SkipExisting = Annotated[
    bool,
    typer.Option(
        "--skip-existing", help="Count existing files as done, whatever they contain.", rich_help_panel=OUTPUT
    ),
]
Progress = Annotated[
    Shown,
    typer.Option(
        metavar="|".join(each.value for each in Shown),
        help="How progress is shown on stderr: bars, a JSON object for each event and step, or not at all.",
        rich_help_panel=OUTPUT,
    ),
]
Open = Annotated[
    bool,
    typer.Option(
        "--open", help="Open the picture in the system's viewer; of several, their folder.", rich_help_panel=OUTPUT
    ),
]
Bell = Annotated[
    bool | None,
    typer.Option(
        "--bell/--no-bell",
        help="Ring the terminal's bell at the end. Default: after runs of more than a minute.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.", rich_help_panel=OUTPUT)]
NoMetadata = Annotated[
    bool,
    typer.Option(
        "--no-metadata",
        help="Write nothing into the picture: no settings, nor that a model made it.",
        rich_help_panel=OUTPUT,
    ),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="INTEGER",
        help="Images denoised at once. Default: what memory allows.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
DecodeBatchSize = Annotated[
    int, typer.Option(min=1, metavar="INTEGER", help="Images decoded at once.", rich_help_panel=RUN)
]
Tile = Annotated[
    int | None,
    typer.Option(
        min=64,
        metavar="INTEGER",
        help="Decode in strips of this many pixels: the same picture in less memory. Default: where memory is short.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
FailFast = Annotated[
    bool,
    typer.Option(
        "--fail-fast/--keep-going",
        help="Stop at the first picture that fails, or render the others. Default: --keep-going.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
Retries = Annotated[
    int,
    typer.Option(
        min=0,
        metavar="INTEGER",
        help="Further tries for a picture that could not be written, or ran out of memory.",
        rich_help_panel=RUN,
    ),
]
Limit = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="INTEGER",
        help="Render at most this many pictures; the same command again goes on.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
Until = Annotated[
    str | None,
    typer.Option(
        metavar="HH:MM",
        help="Stop by this time of day, between two batches; the same command again goes on.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
MinBattery = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="INTEGER",
        help="On battery: stop below this percentage, between two batches; the same command again goes on.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
MaxTemperature = Annotated[
    int | None,
    typer.Option(
        min=30,
        metavar="INTEGER",
        help="Let the machine cool down between two batches when it is hotter than this, in degrees Celsius.",
        show_default=False,
        rich_help_panel=RUN,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run", help="List every picture, whether it is done, and what the rest takes.", rich_help_panel=RUN
    ),
]
Preview = Annotated[
    bool, typer.Option("--preview", help="Show the picture of each step in the terminal.", rich_help_panel=OUTPUT)
]
PreviewVae = Annotated[
    str | None,
    typer.Option(
        metavar="REF",
        help="Decode previews with this VAE, best a tiny one (TAESD); implies --preview. Default: MLXDIFF_PREVIEW_VAE,"
        " or the model's own VAE if it is tiny.",
        show_default=False,
        autocompletion=completion.parts("vae"),
        rich_help_panel=OUTPUT,
    ),
]
SaveLatents = Annotated[
    bool,
    typer.Option(
        "--save-latents", help="Write NAME.safetensors beside each picture, for `decode`.", rich_help_panel=OUTPUT
    ),
]
SaveTrajectory = Annotated[
    bool,
    typer.Option(
        "--save-trajectory",
        help="Write every step as NAME.trajectory.safetensors, for `decode`.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No bars and no notes; data and errors only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks and every warning.")]

# Of a run that renders: all fields of RunOptions, but that --no-metadata says the contrary of one.
_OF_A_RUN = {
    "save_latents": SaveLatents,
    "save_trajectory": SaveTrajectory,
    "no_metadata": NoMetadata,
    "force": Force,
    "skip_existing": SkipExisting,
    "json": Json,
    "progress": Progress,
    "open": Open,
    "bell": Bell,
    "preview": Preview,
    "preview_vae": PreviewVae,
    "batch_size": BatchSize,
    "decode_batch_size": DecodeBatchSize,
    "tile": Tile,
    "fail_fast": FailFast,
    "retries": Retries,
    "limit": Limit,
    "until": Until,
    "min_battery": MinBattery,
    "max_temperature": MaxTemperature,
    "dry_run": DryRun,
}


def with_run_options(command: Command) -> Command:
    """Decorates a command that takes `run`, a RunOptions, and gives it the options for one."""
    defaults = RunOptions()

    def collect(values: Mapping[str, Any]) -> RunOptions:
        given = dict(values)
        until = given.pop("until")
        until = None if until is None else moment(until)
        progress = Shown(given.pop("progress")).value
        run = RunOptions(metadata=not given.pop("no_metadata"), until=until, progress=progress, **given)
        if run.shows and progress != "bar":
            raise RequestError(f"A preview stands above bars, and --progress {progress} draws none.", "Leave one out.")
        if run.max_temperature is not None and power.temperature() is None:
            raise BackendError("This machine does not tell its temperature.", "Leave --max-temperature out.")
        output.verbosity.events = progress == "json"
        return run

    options = [option(name, annotation, getattr(defaults, name, False)) for name, annotation in _OF_A_RUN.items()]
    return expanded(command, "run", options, collect)


def given(run: RunOptions) -> list[str]:
    """The options of a run that are not as they would be unasked, such as `--save-latents`."""
    names = {"metadata": "--no-metadata"}
    changed = [item.name for item in fields(run) if getattr(run, item.name) != item.default]
    return [names.get(name, f"--{name.replace('_', '-')}") for name in changed]
