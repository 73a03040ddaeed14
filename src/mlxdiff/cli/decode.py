"""`mlxdiff decode`: saved latents to pictures, and saved trajectories to animations."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError, ModelNotFoundError, RequestError
from ..request import Request
from . import film, options, output, usage
from .bars import Bars
from .declared import Given, with_settings
from .targets import Destination, destination, targets_of

if TYPE_CHECKING:
    import numpy as np

    from ..batch.render import Rendered
    from ..pipeline import StableDiffusion

EXAMPLES = """
mlxdiff decode apple.safetensors -o again.png
mlxdiff decode *.safetensors -o decoded/
mlxdiff decode dog.trajectory.safetensors -o dog.gif --fps 5
"""
OF_THE_MODEL = ("model", "revision", "vae", "dtype")
WANTED = (*OF_THE_MODEL, "upscaler")


@with_settings(only=WANTED)
def decode(
    settings: Given,
    saved: Annotated[
        list[Path],
        typer.Argument(
            help="Files that `generate --save-latents` or `--save-trajectory` wrote.",
            metavar="LATENTS...",
            show_default=False,
        ),
    ],
    output_path: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="Picture to write (.png, .jpg, .webp), or a folder. For a trajectory: an animation (.webp, .gif),"
            " or one picture for each step (NAME.png, or a folder).",
            show_default=False,
            rich_help_panel=options.OUTPUT,
        ),
    ] = None,
    fps: Annotated[
        float,
        typer.Option(
            metavar="FLOAT",
            help="Steps a second in an animation, 0.1 to 50. The last picture stays longer.",
            rich_help_panel=options.OUTPUT,
        ),
    ] = 10.0,
    no_metadata: options.NoMetadata = False,
    force: options.Force = False,
    json: options.Json = False,
    decode_batch_size: options.DecodeBatchSize = 1,
    tile: options.Tile = None,
) -> None:
    """Decode saved LATENTS into pictures, with the model that made them.

    NAME.safetensors becomes NAME.png, or NAME-decoded.png where there is a NAME.png; NAME-SEED.png for each image
    where it holds several. A trajectory becomes the animation NAME.webp, with the predicted picture of each step.
    """
    usage.check_files(saved)
    usage.check_settings(settings)
    wanted = destination(output_path, len(saved))
    with Bars() as bars:
        import mlx.core as mx

        from .. import files
        from ..batch import render
        from ..metadata import picture_text as documented
        from ..metadata.provenance import text_alone as undocumented
        from ..pipeline import StableDiffusion

        model = _place(settings)
        vae, dtype = settings.get("vae"), settings.get("dtype")
        jobs = [enlarged(read_any(path, model, wanted, fps), settings.get("upscaler")) for path in saved]
        check_targets(jobs)
        for job in jobs:
            for target in job.targets:
                files.check_writable(target, force=force)
        # Pictures are the VAE's that made them: the one given here, else the one that the request had.
        loaded = {_key(job, vae) for job in jobs}
        models = {key: StableDiffusion(key[0], dtype=dtype, vae=key[1]) for key in loaded}
        jobs = [kept_around(job, models[_key(job, vae)]) for job in jobs]
        bars.start(sum(job.n_pictures for job in jobs))
        for job in jobs:
            sd = models[_key(job, vae)]
            texts = None if no_metadata else documented if job.documented else undocumented
            if isinstance(job, film.Film):
                chunks = film.Chunks(decode_batch_size, tile)
                film.write(job, sd, bars, chunks, texts=texts, force=force, json=json)
                continue
            decoded = render.decode(
                sd, mx.array(job.latents), job.request, decode_batch_size=decode_batch_size, tile=tile
            )
            for item in bars.follow(decoded):
                write(job.targets[item.index], item, texts=texts, force=force, json=json)


@dataclass(frozen=True)
class Job:
    """One file of latents (B, h, w, C): what made it, and where its pictures go."""

    path: Path
    model: str
    latents: np.ndarray
    request: Request
    documented: bool
    targets: list[Path]

    @property
    def n_pictures(self) -> int:
        return len(self.targets)


def read_any(path: Path, model: str | None, wanted: Destination | None, fps: float) -> Job | film.Film:
    """The film in a file that holds a trajectory, the job in any other; raises as both of them do."""
    found = film.read_film(path, model, wanted, fps)
    return read_job(path, model, wanted) if found is None else found


def enlarged(job: Job | film.Film, upscaler: str | None) -> Job | film.Film:
    """The job with the upscaler that is asked for, else with its own if that is here.

    Both are checked before anything is decoded. The steps of a trajectory are not enlarged.
    """
    from .. import hub, upscaling
    from ..hashing import content_hash

    own = job.request.upscaler
    if isinstance(job, film.Film) and upscaler is not None:
        raise RequestError(f"{job.path} holds a trajectory.", "Leave --upscaler out: its steps stay as they are.")
    if own is None and upscaler is None:
        return job
    hashes = {name: digest for name, digest in job.request.hashes or () if name != own}
    wanted = None if isinstance(job, film.Film) else own if upscaler is None else upscaler
    if wanted is not None:
        try:
            found = hub.find_part(wanted, "upscaler")
        except ModelNotFoundError as error:
            if upscaler is not None:
                raise
            output.note(f"{job.path}: {error.problem} The picture is not enlarged.", style="yellow")
            wanted = None
        else:
            upscaling.factor_of(found)
            hashes[wanted] = content_hash(found)
    return replace(job, request=job.request.replaced(upscaler=wanted, hashes=tuple(hashes.items()) or None))


def kept_around(job: Job | film.Film, sd: StableDiffusion) -> Job | film.Film:
    """The job as it can be finished here: where a part of a picture was repainted, only with that picture as it was.

    Without it the job is what the model drew, which is not what the request describes: it says no settings.
    """
    request = job.request
    if not request.keeps_a_part:
        return job
    try:
        sd.check_kept(request)
        return job
    except (InputError, RequestError) as error:
        problem = error.problem
    output.note(
        f"{job.path}: {problem} The picture is all that the model drew, without the part that was to stay; it says no"
        " settings.",
        style="yellow",
    )
    return replace(job, request=request.replaced(image=None, mask=None, expand=None), documented=False)


def read_job(path: Path, model: str | None, wanted: Destination | None) -> Job:
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
    return Job(path, model, found.array, request, found.request is not None, targets_of(path, wanted, request))


def check_targets(jobs: list[Job | film.Film]) -> None:
    """Raises RequestError where two files of latents would become one picture."""
    taken: dict[Path, Path] = {}
    for job in jobs:
        for target in job.targets:
            if target in taken:
                raise RequestError(
                    f"{taken[target]} and {job.path} would both become {target}.", "Decode them into different folders."
                )
            taken[target] = job.path


def write(path: Path, item: Rendered, *, texts: film.Texts | None, force: bool, json: bool) -> None:
    from ..images import write_picture

    write_picture(path, item.picture, None if texts is None else texts(item.request), force=force)
    if json:
        output.say_json({"path": str(path), "seed": item.request.seed, "prompt": item.request.prompt})
    else:
        output.say(str(path))


def _key(job: Job | film.Film, vae: str | None) -> tuple[str, str | None]:
    """The model and VAE that decode a job, where `vae` is the one that is given."""
    return job.model, job.request.vae if vae is None else vae


def _place(settings: Given) -> str | None:
    """The model that is asked for, with its revision."""
    if "revision" in settings and "model" not in settings:
        raise RequestError("There is a --revision but no --model.", "Name the model too.")
    return Request(**settings).wanted_model.place
