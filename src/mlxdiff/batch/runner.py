"""Runs batches: denoises one while the one before is decoded, encoded and written.

MLX is only ever asked from the thread that iterates. The decoding of a batch is queued on the device behind its
denoising, and fetched after the first step of the next batch, so that the device never waits for Python; pictures are
compressed and written by a thread of their own. The weights of one model at a time are in memory.

Knows nothing of terminals: it yields what happened. What fails is a value too, so that the other jobs go on.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import groupby

import mlx.core as mx
import numpy as np

from .. import files
from ..errors import MlxdiffError, out_of_memory, says_out_of_memory
from ..request import Model, Resolved
from . import claims
from .claims import Claim
from .encoded_ahead import encoded_ahead
from .events import Event, Failed, Policy, Written
from .jobs import Batch, Job
from .limits import Limits
from .models import Models
from .recorder import Recorder
from .render import Rendered, denoise
from .store import Steps, Store, attempt

POLL = 0.2  # seconds between looks at batches that another process has

WITH_WRITER = 2  # batches of finished pictures to hold in memory while a slow disk writes


@dataclass
class Active:
    """A batch on its way: its jobs that are missing, what is queued on the device, and what the writer has."""

    batch: Batch
    missing: tuple[Job, ...]
    claims: list[Claim]
    began: float = 0.0
    seconds: float = 0.0
    peak_memory: int = 0
    latents: mx.array | None = None
    decoding: list[tuple[int, mx.array]] = field(default_factory=list)
    writing: list[tuple[Job, Future[MlxdiffError | None]]] = field(default_factory=list)

    def release(self) -> None:
        claims.release(self.claims)
        self.claims = []


def run(
    models: Models, batches: Iterable[Batch | None], store: Store, policy: Policy | None = None
) -> Generator[Event]:
    """Renders what is missing of the batches, in their order, each picture written as soon as it is done.

    A None among the batches says that the next may be long in coming: what is under way is then finished first.
    """
    runner = _Runner(models, store, Policy() if policy is None else policy)
    try:
        yield from runner.events(batches)
    finally:
        runner.close()


class _Runner:
    def __init__(self, models: Models, store: Store, policy: Policy) -> None:
        self.models, self.store, self.policy = models, store, policy
        self.limits = Limits(policy)
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="mlxdiff-writer")
        self.decoding: Active | None = None
        self.writing: list[Active] = []
        self.recorder = Recorder() if store.trajectory else None
        self.failed = self.full = False
        self.fetched = 0.0

    def events(self, batches: Iterable[Batch | None]) -> Iterator[Event]:
        elsewhere: list[Batch] = []
        coming = self._coming(batches)
        while not self._is_over():
            try:
                batch = next(coming)
            except StopIteration:
                break
            except MlxdiffError:  # a bad line in a stream: what came before it is finished first
                yield from self._finish()
                raise
            if batch is None:
                yield from self._finish()
            elif self.policy.is_ours(batch.number) and not (yield from self._run(batch)):
                elsewhere.append(batch)
        yield from self._finish()
        while elsewhere and self.policy.waits and not self._is_over():
            time.sleep(POLL)
            for batch in list(elsewhere):
                if self._is_over():
                    break
                if (yield from self._run(batch)):
                    elsewhere.remove(batch)
            yield from self._finish()
        if self.limits.stopped is not None:
            yield self.limits.stopped

    def _coming(self, batches: Iterable[Batch | None]) -> Iterator[Batch | None]:
        """The batches, their prompts encoded ahead, and a None wherever another model is loaded."""
        model: Model | None = None

        def model_of(batch: Batch | None) -> Model | None:
            nonlocal model
            if batch is not None and self._coming_request(batch) is not None:
                model = batch.model
            return model

        for wanted, run_of_batches in groupby(batches, model_of):
            part: Iterable[Batch | None] = run_of_batches
            if wanted is None:  # nothing so far that would need one
                yield from part
                continue
            if self.models.replaces(wanted):
                yield None
            try:
                sd = self.models.use(wanted)
            except MlxdiffError:  # which each of its batches meets again
                sd = None
            yield from part if sd is None else encoded_ahead(sd, part, self._coming_request)

    def _coming_request(self, batch: Batch) -> Resolved | None:
        """What the batch will be asked of the model, unless it is done or another rank's."""
        if not self.policy.is_ours(batch.number) or all(self.store.is_done(job) for job in batch.jobs):
            return None
        return batch.request

    def close(self) -> None:
        """Waits for the writer, which leaves no file half written, and gives every claim back."""
        self.writer.shutdown(wait=True, cancel_futures=True)
        for active in (*self.writing, *([] if self.decoding is None else [self.decoding])):
            active.release()

    def _is_over(self) -> bool:
        over = self.full or self.limits.stopped is not None or (self.failed and self.policy.fail_fast)
        return over or self.policy.stop()

    def _run(self, batch: Batch) -> Iterator[Event]:
        """Renders what the batch lacks; returns False where another process has some of that."""
        store = self.store
        missing = tuple(job for job in batch.jobs if not store.is_done(job))
        held: list[Claim] = []
        if missing and store.journal is not None and store.shared:
            try:
                store.check_folder()
                taken = claims.take_all(store.folder, [job.id for job in missing])
                held = [] if taken is None else taken
                store.journal.refresh()
            except MlxdiffError as error:
                claims.release(held)
                for job in missing:
                    yield self._fail(job, error)
                return True
            missing = tuple(job for job in missing if not store.is_done(job))
            if taken is None and missing:
                return False
        active = Active(batch, missing, held)
        try:
            yield from self._take_up(active)
        except BaseException:  # the run is closed in the middle, and this process may go on with another
            active.release()
            raise
        return True

    def _take_up(self, active: Active) -> Iterator[Event]:
        """Renders what is missing of a batch that nobody else has, and that is not there without a line."""
        store = self.store
        for job in active.batch.jobs:
            if job not in active.missing:
                yield Written(job, found=True)
        rest = []
        for job in active.missing:
            try:
                standing = store.standing(job)
                if standing.done:
                    store.adopt(job, standing)
            except MlxdiffError as error:
                yield self._fail(job, error)
                continue
            if standing.error is not None:
                yield self._fail(job, standing.error)
            elif standing.done:
                yield Written(job, found=True)
            else:
                rest.append(job)
        if rest:
            yield from self.limits.cool()
        active.missing = self.limits.admitted(active.batch.jobs, tuple(rest))
        if not active.missing:
            active.release()
            return
        yield from self._denoise(active)

    def _denoise(self, active: Active) -> Iterator[Event]:
        if self.models.replaces(active.batch.model):
            yield from self._finish()
        for turn in range(self.policy.retries + 1):
            try:
                yield from self._steps(active)
                self._queue_decoding(active)
                break
            except (MlxdiffError, MemoryError, RuntimeError) as problem:
                error = _in_words(problem, len(active.batch.jobs))
                if turn == self.policy.retries or isinstance(problem, MlxdiffError):
                    active.release()
                    for job in active.missing:
                        yield self._fail(job, error)
                    return
                mx.clear_cache()
        self.decoding = active

    def _steps(self, active: Active) -> Iterator[Event]:
        sd = self.models.use(active.batch.model)
        self._note_memory()
        mx.reset_peak_memory()
        active.began = begun = time.perf_counter()
        for event in denoise(sd, active.batch.request, indices=tuple(job.index for job in active.batch.jobs)):
            active.latents = event.latents
            if self.recorder is not None:
                self.recorder.keep(event)
            yield event
            # The device did the decoding that was queued before this step, so that fetching it costs no wait.
            yield from self._fetch()
            yield from self._collect(WITH_WRITER)
            if event.step == 1:
                begun = time.perf_counter()
        self._learn_steps(active, time.perf_counter() - begun)

    def _learn_steps(self, active: Active, seconds: float) -> None:
        """Of a kind that was never measured: from the steps after the first one, before a picture is finished."""
        first = active.batch.jobs[0].request
        if first.n_steps > 1 and not self.policy.pace.knows(first):
            each = seconds / (first.n_steps - 1) / len(active.batch.jobs)
            self.policy.pace.learn(first, each * first.n_steps)

    def _queue_decoding(self, active: Active) -> None:
        """Decodes the missing pictures, in the same chunks whatever is missing, so that their bits are the same."""
        latents, size = active.latents, self.policy.decode_batch_size
        sd = self.models.open(active.batch.model)
        active.decoding = []
        assert latents is not None
        missing = {job.index for job in active.missing}
        for first in range(0, len(active.batch.jobs), size):
            jobs = active.batch.jobs[first : first + size]
            if any(job.index in missing for job in jobs):
                active.decoding.append((first, sd.decode(latents[first : first + size], tile=self.policy.tile)))
        mx.async_eval([picture for _, picture in active.decoding])

    def _finish(self) -> Iterator[Event]:
        """Everything under way, to its end."""
        yield from self._fetch()
        yield from self._collect(0)

    def _fetch(self) -> Iterator[Event]:
        """Hands the decoded pictures to the writer, and reports on the batch that it had before."""
        active, self.decoding = self.decoding, None
        if active is None:
            return
        yield from self._collect(WITH_WRITER - 1)
        self.writing.append(active)
        sd = self.models.open(active.batch.model)
        missing = {job.index for job in active.missing}
        steps = {} if self.recorder is None else {job.index: self.recorder.take(job.index) for job in active.batch.jobs}
        for first, chunk in active.decoding:
            jobs = active.batch.jobs[first : first + chunk.shape[0]]
            for offset, job in enumerate(jobs):
                if job.index not in missing:
                    continue
                try:
                    picture = sd.finish(job.request, chunk[offset])
                except (MlxdiffError, MemoryError, RuntimeError) as problem:
                    yield self._fail(job, _in_words(problem, len(active.batch.jobs)))
                    continue
                assert active.latents is not None
                latents = np.array(active.latents[first + offset])
                active.writing.append(
                    (job, self.writer.submit(self._work(job, picture, latents, steps.get(job.index))))
                )
                yield Rendered(job.index, job.request, picture, latents)
        now = time.perf_counter()
        # A batch begins before the one ahead of it is fetched: no moment counts for both.
        active.seconds = (now - max(active.began, self.fetched)) / len(active.batch.jobs)
        active.peak_memory = max(active.peak_memory, mx.get_peak_memory())
        self.fetched = now
        self.policy.pace.learn(active.batch.jobs[0].request, active.seconds, active.peak_memory)
        active.decoding, active.latents = [], None

    def _note_memory(self) -> None:
        """Before the count begins anew: what is still being decoded belongs to the batch before."""
        if self.decoding is not None:
            self.decoding.peak_memory = max(self.decoding.peak_memory, mx.get_peak_memory())

    def _work(
        self, job: Job, picture: np.ndarray, latents: np.ndarray, steps: Steps | None
    ) -> Callable[[], MlxdiffError | None]:
        def write() -> None:
            self.store.write(job, picture, latents, steps)

        return lambda: attempt(write, self.policy.retries, time.sleep)

    def _collect(self, keep: int) -> Iterator[Event]:
        """Reports what the writer has done, and waits for it while it has more than `keep` batches."""
        while self.writing:
            active = self.writing[0]
            while active.writing and (len(self.writing) > keep or active.writing[0][1].done()):
                job, future = active.writing.pop(0)
                error = future.result()
                done = Written(job, seconds=active.seconds, peak_memory=active.peak_memory)
                yield done if error is None else self._fail(job, error)
            if active.writing:
                return
            active.release()
            self.writing.pop(0)

    def _fail(self, job: Job, error: MlxdiffError) -> Failed:
        self.failed = True
        self.full = self.full or files.is_full(error)
        return Failed(job, error)


def _in_words(error: Exception, n_images: int) -> MlxdiffError:
    """The error as one of a job; raises one that says something else than that memory ran out."""
    if isinstance(error, MlxdiffError):
        return error
    if says_out_of_memory(error):
        return out_of_memory(n_images)
    raise error
