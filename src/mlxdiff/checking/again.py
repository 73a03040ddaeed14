"""Pictures rendered again from what they say of themselves, into memory, and compared with what is on disk.

The runner that renders everything else does it, with a store that keeps nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

from ..batch.events import Event, Failed
from ..batch.jobs import Job, by_model, grouped
from ..batch.models import Models
from ..batch.render import Rendered
from ..batch.runner import run
from ..batch.store import Standing, Steps, Store
from ..errors import MlxdiffError, NonFiniteError, RequestError
from ..images import encode_picture, open_picture
from ..metadata import changed_files
from .fault import Fault
from .picture import Looked

# Decibels (PSNR) below which it is another picture, and the difference of a colour above which a part of it is.
# Devices, batch sizes and threads round differently, half precision more so: docs/checking.md has what was measured.
BOUND = 40.0
LARGEST = 64
LEVELS = 255


@dataclass(frozen=True)
class Compared:
    """A picture beside itself, rendered again: `decibels` is infinite where all pixels are equal.

    largest  the largest difference of a colour, of 255
    """

    path: Path
    decibels: float
    largest: int

    @property
    def fault(self) -> Fault | None:
        if self.decibels >= BOUND and self.largest <= LARGEST:
            return None
        what = "another picture" if self.decibels < BOUND else "another picture in a part"
        measured = f"{self.decibels:.1f} dB, the largest difference {self.largest} of {LEVELS}"
        said = f"Rendered again it is {what}: {measured}."
        return Fault("rerendered", self.path, said)


@dataclass(frozen=True)
class NotRendered:
    """A picture that cannot be rendered here, and why: what it needs is not there. That is no fault of the picture."""

    path: Path
    why: str


class _Nowhere(Store):
    """Has nothing, and keeps nothing."""

    def is_done(self, job: Job) -> bool:
        del job
        return False

    def standing(self, job: Job) -> Standing:
        del job
        return Standing()

    def write(self, job: Job, picture: np.ndarray, latents: np.ndarray, steps: Steps | None = None) -> None:
        pass


def rerender(chosen: Sequence[Looked]) -> Iterator[Event | Compared | NotRendered | Fault]:
    """Renders the pictures one by one, those of a model after each other; yields what happens and what came of each.

    A picture is compared when it is done. What its request needs and is not here is no fault; a request that its own
    model refuses is one.
    """
    models = Models()
    jobs: dict[int, Job] = {}
    for index, looked in enumerate(chosen):
        assert looked.request is not None
        try:
            changed = changed_files(looked.request)
            if changed:
                yield NotRendered(looked.path, f"{changed[0]} has changed since.")
                continue
            resolved = models.resolve(looked.request)
        except MlxdiffError as error:
            yield _refused(looked.path, error)
            continue
        model = looked.request.wanted_model
        jobs[index] = Job(index, resolved, looked.path, str(looked.path), str(index), model=model)
    store = _Nowhere(Path(), shared=False)
    for event in run(models, by_model(grouped(jobs.values(), 1)), store):
        yield event
        if isinstance(event, Rendered):
            path = jobs[event.index].path
            try:
                yield compare(path, event.picture)
            except MlxdiffError as error:
                yield NotRendered(path, error.problem)
        elif isinstance(event, Failed):
            yield _refused(event.job.path, event.error)


def compare(path: Path, picture: np.ndarray) -> Compared:
    """The picture file beside (H, W, 3) uint8, which is first encoded as the file is. Raises InputError."""
    with open_picture(path) as opened:
        there = np.asarray(opened.convert("RGB"))
        lossy = opened.format != "PNG"
        name = f"picture.{'webp' if opened.format == 'WEBP' else 'jpg'}"
    if lossy:
        with Image.open(BytesIO(encode_picture(name, picture))) as again:
            picture = np.asarray(again.convert("RGB"))
    if there.shape != picture.shape:
        return Compared(path, 0.0, LEVELS)
    apart = np.abs(there.astype(np.int32) - picture)
    mean = float(np.mean(np.square(apart, dtype=np.float64)))
    return Compared(path, math.inf if mean == 0 else 10 * math.log10(LEVELS**2 / mean), int(apart.max()))


def _refused(path: Path, error: MlxdiffError) -> NotRendered | Fault:
    if isinstance(error, RequestError | NonFiniteError):
        return Fault("rerendered", path, f"What it says cannot be rendered: {error.problem}")
    return NotRendered(path, error.problem)
