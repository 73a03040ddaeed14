"""`mlxdiff grid`: pictures that exist, or a labelled sweep of one prompt, on one contact sheet; or on a page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError
from ..request import Request
from . import config, finding, options, output, usage
from .declared import Given, settings_of, with_settings
from .generate import with_model

EXAMPLES = """
mlxdiff grid a.png b.png c.png -o sheet.png
mlxdiff grid out/ --where "prompt contains 'cat'" -o cats.png
mlxdiff grid -p "a cat" --vary steps=10,20,30 -o steps.png
mlxdiff grid -p "a cat" --vary guidance-scale=2..8+2 --vary sampler=euler,ddim -o sweep.png
mlxdiff grid out/ --html gallery.html
"""
ON_A_PAGE = ("--force", "--json", "--progress", "--open")


@options.with_run_options
@with_settings(without=("n_images",))
def grid(
    settings: Given,
    run: options.RunOptions,
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Pictures, in reading order; of a folder, or a pattern in quotes, by name.",
            metavar="IMAGES...",
            show_default=False,
        ),
    ] = None,
    where: options.Where = None,
    prompt: Annotated[
        str | None,
        typer.Option(
            "--prompt",
            "-p",
            metavar="TEXT",
            help="What to draw in every cell of a sweep.",
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUES",
            help="A setting with a value for each column; a second --vary is for the rows. NAME is an option without"
            " its dashes (`mlxdiff info --settings` lists them). VALUES are 10,20,30, or 2..8+2 for 2,4,6,8."
            " prompt=apple,pear replaces apple in the prompt by each value.",
            show_default=False,
            rich_help_panel=options.INPUT,
        ),
    ] = None,
    profile: options.Profile = None,
    output_path: options.Output = None,
    n_rows: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="INTEGER", help="Rows, for IMAGES. Default: about square.", rich_help_panel=options.OUTPUT
        ),
    ] = None,
    gap: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="INTEGER",
            help="Pixels between pictures. Default: 0, and 4 in a sweep.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write a page for the browser that shows all IMAGES, searches and sorts them by their settings.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    title: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="With --html: the page's title. Default: the folder's name.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    thumbnail_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="INTEGER",
            help="With --html: pixels of the longer side of a thumbnail, 32 to 1024. Default: 192.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    save_cells: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Also write each cell as a picture into this folder.",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
) -> None:
    """Put IMAGES on one contact sheet, or render a labelled sweep of --prompt with --vary; or show IMAGES on a page.

    The page is one HTML file that works offline. It finds pictures by their settings, and copies the commands that
    render them again.
    """
    pictures = [] if pictures is None else pictures
    axes = [] if vary is None else vary
    if html is not None:
        beside = {"--prompt": prompt, "--vary": vary, "--profile": profile, "--output": output_path}
        beside |= {"--n-rows": n_rows, "--gap": gap, "--save-cells": save_cells}
        _check_beside_page([*(name for name, value in beside.items() if value is not None), *_unfit(settings, run)])
        from . import gallery

        gallery.write(pictures, where, html, title, thumbnail_size, run)
        return
    if title is not None or thumbnail_size is not None:
        name = "--title" if title is not None else "--thumbnail-size"
        raise RequestError(f"{name} is for the page that --html writes.", "Leave it out, or add --html.")
    if output_path is None:
        raise RequestError("There is no place for the sheet.", "Name it with --output.")
    if prompt is None:
        if not pictures:
            raise RequestError("There is nothing for the sheet.", "Name pictures, or give --prompt and --vary.")
        if axes or save_cells is not None:
            raise RequestError("Only a sweep is varied, and has cells to save.", "Give a --prompt instead of pictures.")
        if settings or profile is not None:
            name = next(iter(settings), "profile")
            raise RequestError(f"Pictures that exist have no {name} to choose.", "Leave it out, or give --prompt.")
        ignored = [name for name in options.given(run) if name not in ("--force", "--json", "--no-metadata")]
        if ignored:
            raise RequestError(f"{ignored[0]} does nothing for pictures that exist.", "Leave it out, or give --prompt.")
        with finding.chosen(pictures, where) as found:
            _sheet_of(found, output_path, n_rows, 0 if gap is None else gap, run)
        return
    if where is not None:
        raise RequestError("--where chooses among pictures that exist.", "Leave it out, or --prompt.")
    if pictures:
        raise RequestError("There are pictures and a --prompt.", "Give the pictures of a sheet, or a sweep.")
    if not axes:
        raise RequestError("The sweep varies nothing.", "Add --vary, for example --vary steps=10,20.")
    if n_rows is not None:
        raise RequestError("A sweep has one row for each value of its second --vary.", "Leave out --n-rows.")
    usage.remark(prompt, settings)
    layers = config.layers(profile)
    values = {name: value for name, value in layers.below(settings).items() if name != "n_images"}
    usage.check_settings(values)
    request = with_model(Request(prompt=prompt, **values), settings, layers)
    from . import render

    render.sweep(request, axes, output_path, run, save_cells=save_cells, gap=4 if gap is None else gap)


def _unfit(settings: Given, run: options.RunOptions) -> list[str]:
    """The options that a page of pictures has no use for."""
    names = [item.option for item in settings_of() if item.name in settings]
    return names + [name for name in options.given(run) if name not in ON_A_PAGE]


def _check_beside_page(names: list[str]) -> None:
    if names:
        raise RequestError(f"{names[0]} has no place beside --html, which shows pictures that exist.", "Leave it out.")


def _sheet_of(pictures: list[Path], path: Path, n_rows: int | None, gap: int, run: options.RunOptions) -> None:
    pictures = _without_the_sheet(pictures, path)
    if n_rows is None:
        n_rows = max(1, round(len(pictures) ** 0.5))
    if n_rows > len(pictures):
        raise RequestError(f"{len(pictures)} pictures do not fill {n_rows} rows.", "Ask for fewer rows.")
    usage.check_files(pictures)
    from .. import files, images
    from ..metadata import provenance
    from ..metadata.sheets import sheet_text
    from . import render

    images.picture_format(path)
    files.check_writable(path, force=run.force)
    sizes = [images.source_size(str(picture)) for picture in pictures]
    read = (images.to_uint8(images.load_picture(picture)[None])[0] for picture in pictures)
    sheet = images.sheet_of(sizes, read, n_rows, gap=gap)
    render.check_size(path, sheet.shape[:2])
    texts = sheet_text(picture.name for picture in pictures) | provenance.text(provenance.of_sheet(pictures))
    texts = texts if run.metadata else None
    images.write_picture(path, sheet, texts, force=run.force)
    render.say_sheet(path, sheet, len(pictures), json=run.json)


def _without_the_sheet(pictures: list[Path], sheet: Path) -> list[Path]:
    """The pictures but the sheet of an earlier run, which `grid *.png -o sheet.png` names as well."""
    try:
        kept = [
            picture for picture in pictures if not (sheet.exists() and picture.exists() and sheet.samefile(picture))
        ]
    except OSError:
        return pictures  # what is wrong with them is said by who reads them
    if not kept:
        raise RequestError(f"{sheet} is the only picture, and the sheet.", "Name other pictures.")
    if len(kept) < len(pictures):
        output.note(f"{sheet} is the sheet itself, and not put on it.")
    return kept
