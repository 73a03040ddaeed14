"""Where finished pictures go, and what is there already: files written whole, each with its line in the journal.

A picture is done when the journal has its job and its file is still the one that the journal describes. A file without
a line is what a process leaves that was killed between the two: it is taken for done when it says of itself that it was
made by the very same request, or when the picture that is rendered again is the same file, byte for byte. Any other
file is somebody's, and stays.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import InputError, MlxdiffError, OutputError
from ..files import atomic_write, check_writable, output_error
from ..images import encode_picture
from ..latents import encode_latents, load_latents
from ..metadata import picture_text, read_picture
from ..request import Request
from ..trajectory import SUFFIX as TRAJECTORY
from ..trajectory import encode_trajectory
from .jobs import Job
from .journal import Done, Journal

LATENTS = ".safetensors"
Steps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Store:
    """How pictures of a run are kept.

    journal     None for a command that is not resumed
    metadata    whether pictures say how they were made
    latents     whether NAME.safetensors is written beside each
    trajectory  whether NAME.trajectory.safetensors is
    force       whether files that are in the way may be overwritten
    """

    folder: Path
    journal: Journal | None = None
    metadata: bool = True
    latents: bool = False
    trajectory: bool = False
    force: bool = False
    verified: set[str] = field(default_factory=set, compare=False)  # jobs whose files were read and found sound

    def beside(self, job: Job) -> dict[str, Path]:
        """The files beside the job's picture: `latents` and `trajectory`, where they are kept."""
        kept = {"latents": (self.latents, LATENTS), "trajectory": (self.trajectory, TRAJECTORY)}
        return {kind: job.path.with_suffix(suffix) for kind, (wanted, suffix) in kept.items() if wanted}

    def paths(self, job: Job) -> list[Path]:
        """Every file that the job makes."""
        return [job.path, *self.beside(job).values()]

    def is_done(self, job: Job) -> bool:
        """Whether the journal, as far as it was read, and the disk agree that the job is finished."""
        if job.id in self.verified:
            return True
        line = None if self.journal is None else self.journal.done.get(job.id)
        if line is None or _hash_of(job.path) != line.sha256:
            return False
        for kind, path in self.beside(job).items():
            digest = getattr(line, kind)
            if digest is None or _hash_of(path) != digest:
                return False
        self.verified.add(job.id)
        return True

    def check(self, job: Job) -> None:
        """Raises the OutputError that `write` would raise, as far as it can be foreseen."""
        if not self._picture_may_be_ours(job):
            check_writable(job.path, force=self.force)
        for path in self.beside(job).values():
            if self.journal is None or _request_in(path) != job.request:
                check_writable(path, force=self.force)

    def adopt(self, job: Job) -> bool:
        """Whether the job's file is there, without a line in the journal, and says that this request made it.

        Then the line is added. What is kept beside pictures is not read: a job that has such is rendered again.
        """
        journal = self.journal
        if journal is None or self.beside(job) or job.id in journal.done or not self._says_so(job):
            return False
        digest = _hash_of(job.path)
        if digest is None:
            return False
        journal.append(self._line(job, digest, {}))
        return True

    def write(self, job: Job, picture: np.ndarray, latents: np.ndarray, steps: Steps | None = None) -> None:
        """Writes (H, W, 3) uint8, and what is kept beside it; then the line in the journal. Raises OutputError.

        `latents` are (h, w, C); `steps`, needed for a trajectory, is what each left and foresaw, (T, 1, h, w, C).
        """
        self.check_folder()
        digests = {}
        for kind, path in self.beside(job).items():
            if kind == "latents":
                data = encode_latents(latents[None], job.request)
            else:
                assert steps is not None
                data = encode_trajectory(*steps, job.request)
            digests[kind] = self._put(path, data)
        text = picture_text(job.request) if self.metadata else None
        digest = self._put(job.path, encode_picture(job.path, picture, text))
        if self.journal is not None:
            self.journal.append(self._line(job, digest, digests))

    def check_folder(self) -> None:
        """Raises OutputError when the folder that a run began in is gone: it is not made again unasked.

        It was deleted, or its disk unmounted, and then pictures would fill the disk below.
        """
        if self.journal is not None and not self.journal.exists:
            raise OutputError(
                f"{self.folder} is gone, or its journal: it was deleted, or its disk removed, during the run.",
                "Put it back, and run the same command again.",
            )

    def _line(self, job: Job, digest: str, beside: Mapping[str, str]) -> Done:
        return Done(job.id, job.path.relative_to(self.folder).as_posix(), digest, **beside)

    def _put(self, path: Path, data: bytes) -> str:
        """Writes the file, unless it is there with the same bytes; returns their hash."""
        digest = hashlib.sha256(data).hexdigest()
        try:
            atomic_write(path, lambda stream: stream.write(data), force=self.force)
        except OutputError:
            if _hash_of(path) != digest:
                raise
        return digest

    def _picture_may_be_ours(self, job: Job) -> bool:
        """Whether a file in the way may turn out to be this job's: only a run with a journal leaves such."""
        if self.journal is None or not job.path.is_file():
            return False
        line = self.journal.done.get(job.id)
        if line is not None:
            return _hash_of(job.path) == line.sha256
        return self._says_so(job) if self.metadata else True

    def _says_so(self, job: Job) -> bool:
        if not self.metadata or not job.path.is_file():
            return False
        try:
            return read_picture(job.path).request == job.request
        except InputError:
            return False


def attempt(work: Callable[[], None], retries: int, pause: Callable[[float], object]) -> MlxdiffError | None:
    """Runs `work`, again after a pause where it fails to write, `retries` times; returns what went wrong at last."""
    error: MlxdiffError | None = None
    for n in range(retries + 1):
        if n > 0:
            pause(min(0.5 * 2**n, 30))
        try:
            work()
        except OutputError as problem:
            error = problem
        except MlxdiffError as problem:  # it would fail again in the same way
            return problem
        else:
            return None
    return error


def _hash_of(path: Path) -> str | None:
    """The SHA-256 of a file, or None where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    except OSError as error:
        raise output_error(path, error) from error


def _request_in(path: Path) -> Request | None:
    """The request in a file of latents, or None where there is no such file."""
    try:
        return load_latents(path).request
    except InputError:
        return None
