"""Where finished pictures go, and what is there already: files written whole, each with its line in the journal.

A picture is done when the journal has its job, its file is still the one that the journal describes, and the files that
its request names are still what they were. What else may stand in its place:

    a damaged file   shorter than recorded or not decodable, or of the recorded length with other bytes: rendered again
    a stale one      made from files that have changed since: rendered again, and replaced
    one without a line, as a process leaves that was killed between the two: taken as it is when it decodes and says of
                     itself that the same request made it, else rendered again and compared where it cannot say
    any other        not the job's: it stays, and the error says why
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..errors import InputError, MlxdiffError, OutputError, out_of_memory
from ..files import atomic_write, check_writable, output_error
from ..images import encode_picture, open_picture
from ..latents import encode_latents, load_latents
from ..metadata import picture_text, read_picture
from ..request import Request
from ..trajectory import SUFFIX as TRAJECTORY
from ..trajectory import encode_trajectory
from .essence import essence
from .jobs import Job
from .journal import Done, Journal

LATENTS = ".safetensors"
MAX_DIFFERENCES = 3  # that an error names
Steps = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Standing:
    """What is there of a job.

    done      all of it
    replaces  files of its own that rendering it may replace: their hashes by path
    error     what keeps it from being rendered
    line      what the journal lacks of a job that is done
    """

    done: bool = False
    replaces: Mapping[Path, str] = field(default_factory=dict)
    error: OutputError | None = None
    line: Done | None = None


@dataclass(frozen=True)
class Store:
    """How pictures of a run are kept.

    journal        None for a command that is not resumed
    metadata       whether pictures say how they were made
    latents        whether NAME.safetensors is written beside each
    trajectory     whether NAME.trajectory.safetensors is
    force          whether files that are in the way may be overwritten
    skip_existing  whether any picture of a job's name is taken for it
    shared         whether the journal stays, and other processes may work on it at the same time
    """

    folder: Path
    journal: Journal | None = None
    metadata: bool = True
    latents: bool = False
    trajectory: bool = False
    force: bool = False
    skip_existing: bool = False
    shared: bool = True
    _finished: set[str] = field(default_factory=set, compare=False)  # jobs whose files were read and found sound
    _replaces: dict[Path, str] = field(default_factory=dict, compare=False)

    def beside(self, path: Path) -> dict[str, Path]:
        """The files beside a picture: `latents` and `trajectory`, where they are kept."""
        kept = {"latents": (self.latents, LATENTS), "trajectory": (self.trajectory, TRAJECTORY)}
        return {kind: path.with_suffix(suffix) for kind, (wanted, suffix) in kept.items() if wanted}

    def paths(self, job: Job) -> list[Path]:
        """Every file that the job makes."""
        return [file for path in (job.path, *job.copies) for file in (path, *self.beside(path).values())]

    def is_done(self, job: Job) -> bool:
        """Whether the journal, as far as it was read, and the disk agree that the job is finished."""
        if job.id in self._finished:
            return True
        if self._line_of(job) is None and not self.skip_existing:
            return False
        standing = self.standing(job)
        return standing.done and standing.line is None

    def standing(self, job: Job) -> Standing:
        """What is there of the job; changes nothing on the disk."""
        if job.id in self._finished:
            return Standing(done=True)
        if self.skip_existing and all(os.path.isfile(path) for path in (job.path, *job.copies)):
            return self._noted(job, Standing(done=True))
        line = self._line_of(job)
        if line is None and self.force and not self.shared:
            return Standing()  # whatever there is was not made by this run
        found: list[_File] = []
        for picture in (job.path, *job.copies):
            found.append(self._picture(job, picture, line))
            found += [self._beside(job, kind, path, line) for kind, path in self.beside(picture).items()]
        error = next((file.error for file in found if file.error is not None), None)
        if error is not None and self.force:
            error = next((refused for file in found if (refused := _refusal(file.path, force=True))), None)
            found = [replace(file, sound=False) if file.error is not None else file for file in found]
        if error is not None:
            return Standing(error=error)
        if all(file.sound for file in found):
            known = line is not None and line.id == job.id and line.sha256 == found[0].digest
            if known:
                return self._noted(job, Standing(done=True))
            beside = {} if line is None else {kind: getattr(line, kind) for kind in self.beside(job.path)}
            assert found[0].digest is not None
            return Standing(done=True, line=self._line(job, found[0].digest, found[0].size, beside))
        replaces: dict[Path, str] = {}
        for file in found:
            if file.digest is not None and file.error is None:
                replaces[file.path] = file.digest
        self._replaces.update(replaces)
        return Standing(replaces=replaces)

    def adopt(self, job: Job, standing: Standing) -> None:
        """Records a job that was found done."""
        if standing.line is not None and self.journal is not None and self.shared:
            self.journal.append(standing.line)
        self._finished.add(job.id)

    def write(self, job: Job, picture: np.ndarray, latents: np.ndarray, steps: Steps | None = None) -> None:
        """Writes (H, W, 3) uint8, and what is kept beside it; then the line in the journal. Raises OutputError.

        `latents` are (h, w, C); `steps`, needed for a trajectory, is latents and predicted x0 of each, (T, 1, h, w, C).
        """
        if self.journal is not None:
            self.journal.prepare()
        self.check_folder()
        digests: dict[str, str] = {}
        text = picture_text(job.request) if self.metadata else None
        recorded: bytes | None = None
        for place in (job.path, *job.copies):
            for kind, path in self.beside(place).items():
                if kind == "latents":
                    data = encode_latents(latents[None], job.request)
                else:
                    assert steps is not None
                    data = encode_trajectory(*steps, job.request)
                digests[kind] = self._put(path, data)
            encoded = encode_picture(place, picture, text)
            self._put(place, encoded)
            recorded = encoded if recorded is None else recorded
        if self.journal is not None:
            assert recorded is not None
            self.journal.append(self._line(job, _hash_of(recorded), len(recorded), digests))
        self._finished.add(job.id)

    def check_folder(self) -> None:
        """Raises OutputError when the folder that a run began in is gone: it is not made again unasked.

        It was deleted, or its disk unmounted, and then pictures would fill the disk below.
        """
        if self.journal is not None and self.journal.before_first is None and not self.journal.exists:
            raise OutputError(
                f"{self.folder} is gone, or its journal: it was deleted, or its disk removed, during the run.",
                "Put it back, and run the same command again.",
            )

    def _noted(self, job: Job, standing: Standing) -> Standing:
        self._finished.add(job.id)
        return standing

    def _line_of(self, job: Job) -> Done | None:
        return None if self.journal is None else self.journal.find(job.id, job.former_id)

    def _line(self, job: Job, digest: str, size: int, beside: Mapping[str, str]) -> Done:
        return Done(
            job.id,
            Path(os.path.relpath(job.path, self.folder)).as_posix(),
            digest,
            bytes=size,
            inputs=job.inputs,
            seed=job.request.seeds[0] if job.counted else None,
            latents=beside.get("latents"),
            trajectory=beside.get("trajectory"),
        )

    def _picture(self, job: Job, path: Path, line: Done | None) -> _File:
        file = _read(path)
        if file.digest is None or file.size == 0:  # the system may leave an empty file where it stopped
            return file
        if line is not None:
            if file.digest == line.sha256:
                return replace(file, sound=line.inputs is None or line.inputs == job.inputs)
            if file.size == line.bytes or not _decodes(path):
                return file  # damaged, and rendered again
        why = self._other_than(job, path)
        if why is None:
            return replace(file, sound=_decodes(path))
        if line is None and not self.metadata and self.journal is not None and self.journal.before_first is None:
            return replace(file, digest=None)  # it cannot say: rendered again, and compared
        return replace(file, error=_in_the_way(path, why))

    def _beside(self, job: Job, kind: str, path: Path, line: Done | None) -> _File:
        file = _read(path)
        if file.digest is None or file.size == 0:
            return file
        recorded = None if line is None else getattr(line, kind)
        if recorded == file.digest:
            assert line is not None
            return replace(file, sound=line.inputs is None or line.inputs == job.inputs)
        try:
            request = load_latents(path).request
        except InputError:
            return file if recorded is not None else replace(file, error=_in_the_way(path, "it holds no sound latents"))
        if request is not None and essence(request) == essence(job.request):
            return file
        return replace(file, error=_in_the_way(path, "another request made it"))

    def _put(self, path: Path, data: bytes) -> str:
        """Writes the file, unless it is there with the same bytes; returns their hash."""
        written = _hash_of(data)
        may_replace = path in self._replaces and _read(path).digest == self._replaces[path]
        if may_replace and self._replaces[path] == written:
            return written
        try:
            atomic_write(path, lambda stream: stream.write(data), force=self.force or may_replace)
        except OutputError:
            if _read(path).digest != written:
                raise
        return written

    def _other_than(self, job: Job, path: Path) -> str | None:
        """Why the picture is not the job's, or None where its metadata says that it is."""
        if not self.metadata:
            return "without metadata it cannot say what made it"
        try:
            request = read_picture(path).request
        except InputError:
            return "it is not a picture, or a damaged one"
        if request is None:
            return "it does not say that mlxdiff made it"
        return difference(request, job.request)


@dataclass(frozen=True)
class _File:
    """A file as it is: `digest` is None where there is none, `error` says why it is not the job's."""

    path: Path
    digest: str | None = None
    size: int = 0
    sound: bool = False
    error: OutputError | None = None


def difference(found: Request, wanted: Request) -> str | None:
    """What a picture's request has that is not as wanted, in words; None where nothing differs."""
    have, want = essence(found), essence(wanted)
    names = [name for name in sorted(have.keys() | want.keys()) if have.get(name) != want.get(name)]
    if names:
        listed = [f"{name} is {_short(have.get(name))}, not {_short(want.get(name))}" for name in names]
        more = f", and {len(names) - MAX_DIFFERENCES} more" if len(names) > MAX_DIFFERENCES else ""
        return f"its {', its '.join(listed[:MAX_DIFFERENCES])}{more}"
    had, has = dict(found.hashes or ()), dict(wanted.hashes or ())
    changed = [name for name in had if has.get(name, had[name]) != had[name]]
    return f"{changed[0]} has changed since" if changed else None


def attempt(work: Callable[[], None], retries: int, pause: Callable[[float], object]) -> MlxdiffError | None:
    """Runs `work`, again after a pause where it fails to write or lacks memory, `retries` times.

    Returns what went wrong at last.
    """
    error: MlxdiffError | None = None
    for n in range(retries + 1):
        if n > 0:
            pause(min(0.5 * 2**n, 30))
        try:
            work()
        except OutputError as problem:
            error = problem
        except MemoryError:
            error = out_of_memory()
        except MlxdiffError as problem:  # it would fail again in the same way
            return problem
        else:
            return None
    return error


def _read(path: Path) -> _File:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a folder, or a pipe, which would wait for ever
            return _File(path, error=_refusal(path))
        with open(path, "rb") as file:
            data = file.read()
    except (FileNotFoundError, NotADirectoryError):
        return _File(path, error=_refusal(path))
    except OSError as error:
        return _File(path, error=output_error(path, error))
    return _File(path, _hash_of(data), len(data))


def _hash_of(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _refusal(path: Path, *, force: bool = False) -> OutputError | None:
    try:
        check_writable(path, force=force)
    except OutputError as error:
        return error
    return None


def _decodes(path: Path) -> bool:
    """Whether every pixel can be read, and every checksum is right."""
    try:
        with open_picture(path) as picture:
            picture.verify()
        with open_picture(path) as picture:
            picture.load()
    except InputError:
        return False
    return True


def _in_the_way(path: Path, why: str) -> OutputError:
    return OutputError(f"{path} exists already: {why}.", "Name another file, or overwrite it with --force.")


def _short(value: object) -> str:
    text = "unset" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
