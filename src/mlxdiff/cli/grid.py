"""`mlxdiff grid`: pictures that exist, or a labelled sweep of one prompt, on one contact sheet."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import RequestError
from ..request import Request
from . import options, render
from .generate import reference


def grid(
    pictures: Annotated[
        list[Path] | None, typer.Argument(help="Pictures, in reading order.", metavar="IMAGES", show_default=False)
    ] = None,
    output_path: options.Output = None,
    n_rows: Annotated[int | None, typer.Option(min=1, help="Rows, for IMAGES. Default: about square.")] = None,
    gap: Annotated[
        int | None, typer.Option(min=0, help="Pixels between pictures. Default: 0, and 4 in a sweep.")
    ] = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="What to draw in every cell of a sweep.")] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="What differs between the columns, and once more between the rows: NAME=VALUES, where NAME is"
            " prompt, seed, steps, guidance-scale, sampler, schedule, strength, height, width, guidance-start,"
            " guidance-end, cache-interval or token-merging, and VALUES are 10,20,30 or 2..8+2. Of prompt=apple,pear"
            " each replaces the first in the prompt.",
            show_default=False,
        ),
    ] = None,
    save_cells: Annotated[
        Path | None, typer.Option(help="Folder to write each cell into, as a picture of its own.", show_default=False)
    ] = None,
    model: options.Model = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", "-n", help="What to steer away from.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the checkpoint's.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "--cfg", help="How literally to take the prompt; 1 is off.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The seed of every cell. Default: drawn once.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the checkpoint's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. Default: the checkpoint's.")] = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    guidance_start: options.GuidanceStart = None,
    guidance_end: options.GuidanceEnd = None,
    cache_interval: options.CacheInterval = None,
    token_merging: options.TokenMerging = None,
    image: Annotated[Path | None, typer.Option(help="Picture to start from (image to image).")] = None,
    strength: Annotated[float | None, typer.Option(help="How far to go from --image. Default: 0.8.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images denoised at once.")] = None,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    vae: options.Vae = None,
    prediction_type: options.PredictionType = None,
    rng: options.Rng = "torch",
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--fail-fast", help="What to do when a picture fails.")
    ] = True,
    save_latents: Annotated[bool, typer.Option("--save-latents", help="Write NAME.safetensors beside each.")] = False,
    force: options.Force = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Take any picture of the right name for done.")
    ] = False,
    no_metadata: options.NoMetadata = False,
    json: options.Json = False,
) -> None:
    """Put IMAGES on one contact sheet, or render a labelled sweep of --prompt with --vary."""
    if output_path is None:
        raise RequestError("There is no place for the sheet.", "Name it with --output.")
    pictures = [] if pictures is None else pictures
    axes = [] if vary is None else vary
    if prompt is None:
        if not pictures:
            raise RequestError("There is nothing for the sheet.", "Name pictures, or give --prompt and --vary.")
        if axes or save_cells is not None:
            raise RequestError("Only a sweep is varied, and has cells to save.", "Give a --prompt instead of pictures.")
        _sheet_of(pictures, output_path, n_rows, 0 if gap is None else gap, force=force, json=json)
        return
    if pictures:
        raise RequestError("There are pictures and a --prompt.", "Give the pictures of a sheet, or a sweep.")
    if not axes:
        raise RequestError("The sweep varies nothing.", "Add --vary, for example --vary steps=10,20.")
    if n_rows is not None:
        raise RequestError("A sweep has one row for each value of its second --vary.", "Leave out --n-rows.")
    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        height=height,
        width=width,
        sampler=sampler,
        schedule=schedule,
        guidance_start=guidance_start,
        guidance_end=guidance_end,
        cache_interval=cache_interval,
        token_merging=token_merging,
        image=None if image is None else str(image),
        strength=strength,
        rng=rng,
        dtype=dtype,
        quantize=quantize,
        vae=vae,
        prediction_type=prediction_type,
    )
    wishes = render.RunOptions(
        batch_size=batch_size,
        decode_batch_size=decode_batch_size,
        tile=tile,
        metadata=not no_metadata,
        force=force,
        skip_existing=skip_existing,
        save_latents=save_latents,
        fail_fast=not keep_going,
        json=json,
    )
    request = replace(request, model=reference(request, model))
    render.sweep(request, axes, output_path, wishes, save_cells=save_cells, gap=4 if gap is None else gap)


def _sheet_of(pictures: list[Path], path: Path, n_rows: int | None, gap: int, *, force: bool, json: bool) -> None:
    if n_rows is None:
        n_rows = max(1, round(len(pictures) ** 0.5))
    if n_rows > len(pictures):
        raise RequestError(f"{len(pictures)} pictures do not fill {n_rows} rows.", "Ask for fewer rows.")
    from .. import files, images

    images.picture_format(path)
    files.check_writable(path, force=force)
    sheet = images.contact_sheet(
        [images.to_uint8(images.load_picture(picture)[None])[0] for picture in pictures], n_rows, gap=gap
    )
    render.check_size(path, sheet.shape[:2])
    images.write_picture(path, sheet, None, force=force)
    render.say_sheet(path, sheet, len(pictures), json=json)
