"""`mlxdiff decode`: saved latents to pictures, and saved trajectories to animations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, RequestError
from ..request import Request
from . import film, options, output
from .generate import Keep, picture_paths

if TYPE_CHECKING:
    import numpy as np


def decode(
    saved: Annotated[
        list[Path],
        typer.Argument(
            help="Files that `generate --save-latents` or `--save-trajectory` wrote.",
            metavar="LATENTS...",
            show_default=False,
        ),
    ],
    model: options.Model = None,
    output_path: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Picture to write: .png, .jpg or .webp. Of a trajectory an animation, .webp or .gif, or for each step"
            " a picture: NAME.png or a folder.",
            show_default=False,
        ),
    ] = None,
    fps: Annotated[
        float, typer.Option(help="Steps a second in an animation, 0.1 to 50; its last picture stays longer.")
    ] = 10.0,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
    dtype: options.Dtype = None,
    vae: options.Vae = None,
    force: options.Force = False,
    no_metadata: options.NoMetadata = False,
    json: options.Json = False,
) -> None:
    """Decode saved LATENTS into pictures, with the model that they were made with.

    NAME.safetensors becomes NAME.png, or NAME-SEED.png for each image where it holds several. A trajectory becomes
    NAME.webp, in which each step's picture is what that step foresaw.
    """
    if output_path is not None and len(saved) > 1:
        raise RequestError(f"There are {len(saved)} files of latents and one --output.", "Decode them without it.")
    with output.RenderBars() as bars:
        import mlx.core as mx

        from .. import files
        from ..batch import render
        from ..pipeline import StableDiffusion

        jobs = [read_any(path, model, output_path, fps) for path in saved]
        for job in jobs:
            for target in job.targets:
                files.check_writable(target, force=force)
        # Pictures are the VAE's that made them: the one given here, else the one that the request had.
        loaded = {(job.model, job.request.vae if vae is None else vae) for job in jobs}
        models = {key: StableDiffusion(key[0], dtype=dtype, vae=key[1]) for key in loaded}
        bars.start(steps=0, n_images=sum(job.n_pictures for job in jobs), batch_size=1)
        for job in jobs:
            sd = models[job.model, job.request.vae if vae is None else vae]
            documented = job.documented and not no_metadata
            if isinstance(job, film.Film):
                chunks = film.Chunks(decode_batch_size, tile)
                film.write(job, sd, bars, chunks, documented=documented, force=force, json=json)
                continue
            keep = Keep(force=force, metadata=documented, latents=False, json=json)
            decoded = render.decode(
                sd, mx.array(job.latents), job.request, decode_batch_size=decode_batch_size, tile=tile
            )
            for item in bars.follow(decoded):
                keep.picture(job.targets[item.index], item)


@dataclass(frozen=True)
class Job:
    """One file of latents (B, h, w, C): what made it, and where its pictures go."""

    model: str
    latents: np.ndarray
    request: Request
    documented: bool
    targets: list[Path]

    @property
    def n_pictures(self) -> int:
        return len(self.targets)


def read_any(path: Path, model: str | None, wanted: Path | None, fps: float) -> Job | film.Film:
    """The film in a file that holds a trajectory, the job in any other; raises as both of them do."""
    found = film.read_film(path, model, wanted, fps)
    return read_job(path, model, wanted) if found is None else found


def read_job(path: Path, model: str | None, wanted: Path | None) -> Job:
    """Raises InputError for a file that does not fit together, RequestError where nothing names the model."""
    from ..latents import load_latents

    found = load_latents(path)
    model = found.model if model is None else model
    if model is None:
        raise RequestError(f"{path} does not say which model made it.", "Name the model with --model.")
    n_images = found.array.shape[0]
    # Latents of other tools carry no request: their pictures are numbered, and say nothing of how they were made.
    request = Request(n_images=n_images, seed=0, model=model) if found.request is None else found.request
    if request.batch_size != n_images:
        raise InputError(
            f"{path} holds {n_images} images, and says it holds {request.batch_size}.", "Get the file again."
        )
    targets = picture_paths(path.with_suffix(".png") if wanted is None else wanted, request)
    return Job(model, found.array, request, found.request is not None, targets)
