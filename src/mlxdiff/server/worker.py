"""The thread that renders, and the jobs that wait for it: one after another, in the order of their arrival.

MLX's streams belong to threads, so models are opened, loaded and asked by this thread alone.
"""

from __future__ import annotations

import math
import threading
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..batch.models import Models
from ..errors import MlxdiffWarning, out_of_memory, says_out_of_memory
from ..images import Picture
from ..loras import alike
from ..request import Model, Request
from .answers import Refusal
from .connection import GoneError
from .limits import Limits
from .names import Names

POLL_S = 0.1  # between two looks at whether the client is still there


class _Ended(Exception):
    """The job was cancelled: what it has so far is all that there will be."""


@dataclass(eq=False)
class Job:
    """A request on its way. `pictures` are those that are done; `interrupted`, whether others were left out."""

    request: Request
    pictures: list[Picture] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    error: Exception | None = None
    step: int = 0
    steps: int = 0
    began: float | None = None
    interrupted: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Ends it after the step that is being computed; one that waits is not begun."""
        self.interrupted = True


class Worker:
    """`names` says what of this machine a request may name."""

    def __init__(self, limits: Limits, names: Names, models: Models | None = None) -> None:
        self.limits, self._names = limits, names
        self._models = Models() if models is None else models
        self._places = threading.BoundedSemaphore(limits.queue + 1)
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._stopped = False
        self._seconds = 1.0  # of the last job
        self._thread: threading.Thread | None = None

    def start(self, base: Request) -> None:
        """Loads the model of `base`, and sees that it can be rendered; raises what that raises, and RequestError."""
        loaded = threading.Event()
        failure: list[BaseException] = []

        def work() -> None:
            try:
                self.limits.check(self._models.use(base.wanted_model).resolve(base.for_model(Model())))
            except BaseException as error:
                failure.append(error)
                return
            finally:
                loaded.set()
            self._work()

        self._thread = threading.Thread(target=work, name="mlxdiff-worker")
        self._thread.start()
        try:
            loaded.wait()
        except BaseException:  # Ctrl-C
            self._stopped = True
            raise
        if failure:
            self._thread.join()
            raise failure[0]

    def stop(self) -> None:
        """Finishes the pictures at hand, which are a job's last then; jobs that wait are refused."""
        with self._changed:
            self._stopped = True
            for job in self._waiting:
                job.error = _stopping()
                job.done.set()
            self._waiting.clear()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def interrupt(self) -> None:
        """Ends the job at hand, if there is one."""
        with self._changed:
            if self._running is not None:
                self._running.cancel()

    def progress(self) -> tuple[Job | None, int]:
        """The job at hand, and how many wait."""
        with self._changed:
            return self._running, len(self._waiting)

    @contextmanager
    def place(self) -> Iterator[None]:
        """Holds one of the places in the queue; raises Refusal where none is free."""
        if self._stopped:
            raise _stopping()
        if not self._places.acquire(blocking=False):
            after = max(1, min(600, math.ceil(self._seconds)))
            message = f"{self.limits.queue + 1} requests are under way or waiting. Try again in {after} s."
            raise Refusal(503, message, code="queue_full", headers={"Retry-After": str(after)})
        try:
            yield
        finally:
            self._places.release()

    def render(self, request: Request, is_gone: Callable[[], bool]) -> Job:
        """The job of a request, when it is done.

        Where `is_gone` says that nobody waits for it any more, it is cancelled. Raises MlxdiffError, Refusal, and then
        GoneError.
        """
        self.limits.check_before(request)
        job = Job(request)
        with self._changed:
            if self._stopped:
                raise _stopping()
            self._waiting.append(job)
            self._changed.notify()
        gone = False
        while not job.done.wait(POLL_S):
            if is_gone():
                gone = True
                self._drop(job)
        if gone:
            raise GoneError
        if job.error is not None:
            raise job.error
        return job

    def _drop(self, job: Job) -> None:
        """Ends a job; one that waits makes room at once."""
        job.cancel()
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                job.done.set()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._waiting and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
                job = self._running = self._waiting.popleft()
            began = job.began = time.monotonic()
            try:
                with warnings.catch_warnings(record=True) as caught:
                    warnings.simplefilter("ignore")
                    warnings.simplefilter("always", MlxdiffWarning)
                    try:
                        with self._names.only():
                            self._render(job)
                    finally:
                        job.said += dict.fromkeys(self._names.told(str(each.message)) for each in caught)
            except _Ended:
                pass
            except Exception as error:
                job.error = out_of_memory() if says_out_of_memory(error) else error
            with self._changed:
                self._running = None
                self._seconds = time.monotonic() - began
            job.done.set()

    def _render(self, job: Job) -> None:
        if job.interrupted:
            raise _Ended
        sd = self._models.use(job.request.wanted_model)
        parts = [sd.resolve(part) for part in alike(job.request.for_model(Model()))]
        for part in parts:
            self.limits.check(part)
        batches = [batch for part in parts for batch in part.parts(sd.batch_size(part))]
        job.steps = sum(batch.n_steps for batch in batches)

        def look(_: Any) -> None:
            job.step += 1
            if job.interrupted:
                raise _Ended

        for batch in batches:
            if self._stopped and job.pictures:
                job.cancel()
                raise _Ended
            job.pictures += sd.render(batch, on_step=look)


def _stopping() -> Refusal:
    return Refusal(503, "The server is being stopped. Ask again when it is back.", headers={"Retry-After": "30"})
