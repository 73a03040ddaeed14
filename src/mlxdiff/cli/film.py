"""A saved trajectory as an animation, or as a picture a step: read, decoded and written a few steps at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError, RequestError
from ..request import Request
from . import output
from .bars import Bars
from .targets import Destination

if TYPE_CHECKING:
    import numpy as np

    from ..pipeline import StableDiffusion


Texts = Callable[[Request], dict[str, str]]


@dataclass(frozen=True)
class Film:
    """One trajectory (T, B, h, w, C): what made it, and the files of its images: one each, or one for each step."""

    path: Path
    model: str
    request: Request
    documented: bool
    n_steps: int
    fps: float
    outputs: list[list[Path]]

    @property
    def targets(self) -> list[Path]:
        return [path for paths in self.outputs for path in paths]

    @property
    def n_pictures(self) -> int:
        return self.n_steps * len(self.outputs)


@dataclass(frozen=True)
class Chunks:
    """How many steps are decoded at once."""

    decode_batch_size: int
    tile: int | None


def read_film(path: Path, model: str | None, wanted: Destination | None, fps: float) -> Film | None:
    """The film in a file; None where it holds no trajectory.

    Raises InputError for a trajectory that does not fit together, RequestError where nothing names the model.
    """
    from .. import animate
    from ..trajectory import open_trajectory

    with open_trajectory(path) as found:
        if found is None:
            return None
        n_steps, n_images = found.shape[:2]
        model = found.model if model is None else model
        request = Request(n_images=n_images, seed=0, model=model) if found.request is None else found.request
        documented = found.request is not None
    if model is None:
        raise RequestError(f"{path} does not say which model made it.", "Name the model with --model.")
    if request.batch_size != n_images:
        raise InputError(
            f"{path} holds {n_images} images, and says it holds {request.batch_size}.", "Get the file again."
        )
    animate.check_fps(fps)
    outputs = [outputs_of(path, wanted, suffix, n_steps) for suffix in suffixes(request)]
    return Film(path, model, request, documented, n_steps, fps, outputs)


def suffixes(request: Request) -> list[str]:
    """What tells the images of a trajectory apart: nothing for a single one, else their seeds."""
    return [""] if request.batch_size == 1 else [f"-{name}" for name in request.image_names]


def outputs_of(path: Path, wanted: Destination | None, suffix: str, n_steps: int) -> list[Path]:
    """NAME.webp unless something else is wanted: a .webp or .gif, NAME.png for NAME-000.png and so on, or a folder."""
    from .. import animate
    from ..trajectory import SUFFIX

    name = path.name.removesuffix(SUFFIX).removesuffix(".safetensors")
    if wanted is None:
        return [path.with_name(f"{name}{suffix}.webp")]
    if wanted.is_folder:
        return animate.frame_paths(wanted.path / f"{name}{suffix}", n_steps)
    if animate.animation_format(wanted.path) is not None:
        return [wanted.path.with_stem(f"{wanted.path.stem}{suffix}")]
    if wanted.path.suffix.lower() == ".png":
        return animate.frame_paths(wanted.path.with_stem(f"{wanted.path.stem}{suffix}").with_suffix(""), n_steps)
    raise RequestError(
        f"A trajectory cannot become {wanted.path.name}.", "End its name in .webp, .gif or .png, or name a folder."
    )


def write(
    film: Film,
    sd: StableDiffusion,
    bars: Bars,
    chunks: Chunks,
    *,
    texts: Texts | None,
    force: bool,
    json: bool,
) -> None:
    """Decodes the film and writes its files.

    `texts` gives what a picture says of itself. Of one for each step only the last is what the request made, the others
    say that a model made them.
    """
    from .. import animate
    from ..images import write_picture
    from ..metadata.provenance import text_alone

    for image, paths in enumerate(film.outputs):
        request = film.request if film.request.batch_size == 1 else film.request.single(image)
        text = None if texts is None else texts(request)
        before = None if texts is None else text_alone(request)
        frames = pictures(film, image, sd, bars, chunks)
        if len(paths) == 1 and animate.animation_format(paths[0]) is not None:
            animate.write_animation(paths[0], frames, film.n_steps, fps=film.fps, text=text, force=force)
        else:
            for step, (path, frame) in enumerate(zip(paths, frames, strict=True)):
                write_picture(path, frame, text if step == film.n_steps - 1 else before, force=force)
        for path in paths:
            if json:
                output.say_json({"path": str(path), "seed": request.seed, "prompt": request.prompt})
            else:
                output.say(str(path))


def pictures(film: Film, image: int, sd: StableDiffusion, bars: Bars, chunks: Chunks) -> Iterator[np.ndarray]:
    """The predicted picture of each step of an image, (H, W, 3) uint8."""
    import mlx.core as mx
    import numpy as np

    from ..batch import render
    from ..trajectory import open_trajectory

    with open_trajectory(film.path) as found:
        if found is None or found.shape[0] != film.n_steps:
            raise InputError(f"{film.path} has changed since it was first read.", "Decode it again.")
        for first in range(0, film.n_steps, chunks.decode_batch_size):
            steps = range(first, min(first + chunks.decode_batch_size, film.n_steps))
            latents = mx.array(np.stack([found.foreseen(step)[image] for step in steps]))
            # Each step stands for an image here; what it is of does not matter to the decoder.
            drawn = film.request.replaced(prompt="", seed=0, n_images=len(steps), batch_index=None)
            decoded = render.decode(sd, latents, drawn, decode_batch_size=len(steps), tile=chunks.tile)
            for item in bars.follow(decoded):
                yield item.picture
