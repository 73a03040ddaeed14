"""Runs the groups of a batch: denoises one while the one before is decoded, encoded and written.

MLX is only ever asked from the thread that iterates. The decoding of a group is queued on the device behind its
denoising, and fetched after the first step of the next group, so that the device never waits for Python; pictures are
compressed and written by a thread of their own.

Knows nothing of terminals: it yields what happened. What fails is a value too, so that the other jobs go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Protocol

import mlx.core as mx
import numpy as np

from .. import images
from ..errors import BackendError, MlxdiffError
from ..pipeline import StableDiffusion
from ..request import Request
from . import claims
from .ahead import encoded_ahead
from .jobs import Group, Job
from .recorder import Recorder
from .render import Denoised, Rendered, denoise
from .store import Steps, Store, attempt

POLL = 0.2  # seconds between looks at groups that another process has

WITH_WRITER = 2  # groups of finished pictures to hold in memory while a slow disk writes


@dataclass(frozen=True)
class Written:
    """The job's picture is on disk, with its line in the journal. `found`: it was before, or another made it."""

    job: Job
    found: bool = False


@dataclass(frozen=True)
class Failed:
    """The job has no picture, after all retries."""

    job: Job
    error: MlxdiffError


Event = Denoised | Rendered | Written | Failed


@dataclass(frozen=True)
class Settings:
    """How a run goes about it.

    retries    how often a picture is tried again when it could not be written, or memory ran out
    fail_fast  whether the first failure ends the run
    stop       asked between groups; once it says yes, what is under way is finished and the run ends
    is_ours    whether this process renders a group at all, by its number
    waits      whether to wait for groups that other processes have, and take over those that they give up
    """

    decode_batch_size: int = 1
    tile: int | None = None
    retries: int = 0
    fail_fast: bool = False
    stop: Callable[[], bool] = lambda: False
    is_ours: Callable[[int], bool] = lambda _: True
    waits: bool = True


class Lease(Protocol):
    def release(self) -> None: ...


@dataclass
class Active:
    """A group on its way: its jobs that are missing, what is queued on the device, and what the writer has."""

    group: Group
    missing: tuple[Job, ...]
    lease: Lease | None
    latents: mx.array | None = None
    decoding: list[tuple[int, mx.array]] = field(default_factory=list)
    writing: list[tuple[Job, Future[MlxdiffError | None]]] = field(default_factory=list)

    def release(self) -> None:
        if self.lease is not None:
            self.lease.release()
            self.lease = None


def run(
    sd: StableDiffusion, groups: Iterable[Group | None], store: Store, settings: Settings | None = None
) -> Iterator[Event]:
    """Renders what is missing of the groups, in their order, each picture written as soon as it is done.

    A None among the groups says that the next may be long in coming: what is under way is then finished first.
    """
    runner = _Runner(sd, store, Settings() if settings is None else settings)
    try:
        yield from runner.events(groups)
    finally:
        runner.close()


class _Runner:
    def __init__(self, sd: StableDiffusion, store: Store, settings: Settings) -> None:
        self.sd, self.store, self.settings = sd, store, settings
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="mlxdiff-writer")
        self.decoding: Active | None = None
        self.writing: list[Active] = []
        self.recorder = Recorder() if store.trajectory else None
        self.failed = False

    def events(self, groups: Iterable[Group | None]) -> Iterator[Event]:
        elsewhere: list[Group] = []
        coming = encoded_ahead(self.sd, groups, self._coming_request)
        while not self._is_over():
            try:
                group = next(coming)
            except StopIteration:
                break
            except MlxdiffError:  # a bad line in a stream: what came before it is finished first
                yield from self._finish()
                raise
            if group is None:
                yield from self._finish()
            elif self.settings.is_ours(group.number) and not (yield from self._run(group)):
                elsewhere.append(group)
        yield from self._finish()
        while elsewhere and self.settings.waits and not self._is_over():
            time.sleep(POLL)
            for group in list(elsewhere):
                if self._is_over():
                    break
                if (yield from self._run(group)):
                    elsewhere.remove(group)
            yield from self._finish()

    def _coming_request(self, group: Group) -> Request | None:
        """What the group will be asked of the model, unless it is done or another rank's."""
        if not self.settings.is_ours(group.number) or all(self.store.is_done(job) for job in group.jobs):
            return None
        return group.request

    def close(self) -> None:
        """Waits for the writer, which leaves no file half written, and gives every claim back."""
        self.writer.shutdown(wait=True, cancel_futures=True)
        for active in (*self.writing, *([] if self.decoding is None else [self.decoding])):
            active.release()

    def _is_over(self) -> bool:
        return self.settings.stop() or (self.failed and self.settings.fail_fast)

    def _run(self, group: Group) -> Iterator[Event]:
        """Renders what the group lacks; returns False where another process has it."""
        store = self.store
        missing = tuple(job for job in group.jobs if not store.is_done(job))
        lease = None
        if missing and store.journal is not None:
            try:
                store.check_folder()
                lease = claims.take(store.folder, group.id)
                store.journal.refresh()
            except MlxdiffError as error:
                for job in missing:
                    yield self._fail(job, error)
                return True
            missing = tuple(job for job in missing if not store.is_done(job))
            if lease is None and missing:
                return False
        active = Active(group, missing, lease)
        for job in group.jobs:
            if job not in missing:
                yield Written(job, found=True)
        rest = []
        for job in missing:
            error, adopted = self._look(job)
            if error is not None:
                yield self._fail(job, error)
            elif adopted:
                yield Written(job, found=True)
            else:
                rest.append(job)
        active.missing = tuple(rest)
        if not rest:
            active.release()
            return True
        yield from self._denoise(active)
        return True

    def _look(self, job: Job) -> tuple[MlxdiffError | None, bool]:
        """What is wrong with writing the job's picture, and whether it is there already."""
        try:
            if self.store.adopt(job):
                return None, True
            self.store.check(job)
        except MlxdiffError as error:
            return error, False
        return None, False

    def _denoise(self, active: Active) -> Iterator[Event]:
        for turn in range(self.settings.retries + 1):
            try:
                yield from self._steps(active)
                self._queue_decoding(active)
                break
            except (MlxdiffError, MemoryError, RuntimeError) as problem:
                error = _in_words(problem, len(active.group.jobs))
                if turn == self.settings.retries or isinstance(problem, MlxdiffError):
                    active.release()
                    for job in active.missing:
                        yield self._fail(job, error)
                    return
                mx.clear_cache()
        self.decoding = active

    def _steps(self, active: Active) -> Iterator[Event]:
        request = active.group.request
        for event in denoise(self.sd, request, indices=tuple(job.index for job in active.group.jobs)):
            active.latents = event.latents
            if self.recorder is not None:
                self.recorder.keep(event)
            yield event
            # The device did the decoding that was queued before this step, so that fetching it costs no wait.
            yield from self._fetch()
            yield from self._collect(WITH_WRITER)

    def _queue_decoding(self, active: Active) -> None:
        """Decodes the missing pictures, in the same chunks whatever is missing, so that their bits are the same."""
        latents, size = active.latents, self.settings.decode_batch_size
        active.decoding = []
        assert latents is not None
        missing = {job.index for job in active.missing}
        for first in range(0, len(active.group.jobs), size):
            jobs = active.group.jobs[first : first + size]
            if any(job.index in missing for job in jobs):
                active.decoding.append((first, self.sd.decode(latents[first : first + size], tile=self.settings.tile)))
        mx.async_eval([picture for _, picture in active.decoding])

    def _finish(self) -> Iterator[Event]:
        """Everything under way, to its end."""
        yield from self._fetch()
        yield from self._collect(0)

    def _fetch(self) -> Iterator[Event]:
        """Hands the decoded pictures to the writer, and reports on the group that it had before."""
        active, self.decoding = self.decoding, None
        if active is None:
            return
        yield from self._collect(WITH_WRITER - 1)
        self.writing.append(active)
        missing = {job.index for job in active.missing}
        steps = {} if self.recorder is None else {job.index: self.recorder.take(job.index) for job in active.group.jobs}
        for first, chunk in active.decoding:
            jobs = active.group.jobs[first : first + chunk.shape[0]]
            for offset, job in enumerate(jobs):
                if job.index not in missing:
                    continue
                try:
                    picture = images.to_uint8(chunk[offset])
                except (MlxdiffError, MemoryError, RuntimeError) as problem:
                    yield self._fail(job, _in_words(problem, len(active.group.jobs)))
                    continue
                assert active.latents is not None
                latents = np.array(active.latents[first + offset])
                active.writing.append(
                    (job, self.writer.submit(self._work(job, picture, latents, steps.get(job.index))))
                )
                yield Rendered(job.index, job.request, picture, latents)
        active.decoding, active.latents = [], None

    def _work(
        self, job: Job, picture: np.ndarray, latents: np.ndarray, steps: Steps | None
    ) -> Callable[[], MlxdiffError | None]:
        def write() -> None:
            self.store.write(job, picture, latents, steps)

        return lambda: attempt(write, self.settings.retries, time.sleep)

    def _collect(self, keep: int) -> Iterator[Event]:
        """Reports what the writer has done, and waits for it while it has more than `keep` groups."""
        while self.writing:
            active = self.writing[0]
            while active.writing and (len(self.writing) > keep or active.writing[0][1].done()):
                job, future = active.writing.pop(0)
                error = future.result()
                yield Written(job) if error is None else self._fail(job, error)
            if active.writing:
                return
            active.release()
            self.writing.pop(0)

    def _fail(self, job: Job, error: MlxdiffError) -> Failed:
        self.failed = True
        return Failed(job, error)


def _in_words(error: Exception, n_images: int) -> MlxdiffError:
    """MLX reports that memory ran out as a RuntimeError, other than on a CPU."""
    if isinstance(error, MlxdiffError):
        return error
    text = " ".join(str(error).split())
    if isinstance(error, MemoryError) or "alloc" in text or "memory" in text.lower():
        return BackendError(
            f"The device ran out of memory rendering {n_images} images at once.",
            "Give a smaller --batch-size, or --tile for large pictures.",
        )
    raise error
