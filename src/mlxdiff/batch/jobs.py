"""Entries of a prompt file to jobs, and jobs to the groups that share a batch.

    entry  one line: a request of one or more images
    job    one picture: a request that renders it alone, and its path
    group  jobs that are denoised together

Pictures of one batch differ in the last bits from the same pictures in another, so that what shares a batch follows
from the list of jobs alone: jobs that are alike but for prompt and seed are cut, in their order, into groups of
`batch_size`. A group of which a picture is missing is rendered as the same group again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from ..errors import RequestError
from ..request import Request
from .journal import hash_of
from .naming import OutputPattern, below, picture_path
from .prompts import Entry


@dataclass(frozen=True)
class Job:
    """Picture `index` of the run: `request` is resolved and renders it alone; `source` is where it was asked for."""

    index: int
    request: Request
    path: Path
    source: str
    id: str


@dataclass(frozen=True)
class Group:
    """Jobs that are denoised together; `number` counts the groups of a run."""

    number: int
    jobs: tuple[Job, ...]

    @cached_property
    def request(self) -> Request:
        """One request for all its images."""
        prompts = tuple(job.request.prompts[0] for job in self.jobs)
        seeds = tuple(job.request.seeds[0] for job in self.jobs)
        return replace(self.jobs[0].request, prompt=prompts, seed=seeds)

    @cached_property
    def id(self) -> str:
        return hash_of(*(job.id for job in self.jobs))


def jobs_of(
    entries: Iterable[Entry | None], resolve: Callable[[Request], Request], pattern: OutputPattern
) -> Iterator[Job | None]:
    """One job an image, with its path; raises RequestError that names the entry. None is passed on, see `grouped`."""
    index = 0
    for entry in entries:
        if entry is None:
            yield None
            continue
        try:
            several = entry.request.batch_size > 1
            where = pattern if entry.output is None else below(pattern, entry.output, several=several)
            request = resolve(entry.request)
            for i in range(request.batch_size):
                single = request.single(i)
                path = picture_path(where, single, index)
                name = path.relative_to(pattern.folder).as_posix()
                yield Job(index, single, path, entry.source, hash_of(single.to_json(), name))
                index += 1
        except RequestError as error:
            raise RequestError(f"{entry.source}: {error.problem}", error.remedy) from None


def grouped(jobs: Iterable[Job | None], batch_size: int) -> Iterator[Group | None]:
    """Groups of at most `batch_size` jobs, each as soon as it is full, the incomplete ones at the end.

    A None among the jobs says that the next one is not there yet, and may not be for long: what has come is then
    grouped as it is, and None is passed on.
    """
    waiting: dict[Request, list[Job]] = {}
    number = 0
    for job in jobs:
        if job is None:
            ready = list(waiting.values())
            waiting.clear()
        else:
            alike = _alike(job.request)
            waiting.setdefault(alike, []).append(job)
            ready = [waiting.pop(alike)] if len(waiting[alike]) == batch_size else []
        for members in ready:
            yield Group(number, tuple(members))
            number += 1
        if job is None:
            yield None
    for members in waiting.values():
        yield Group(number, tuple(members))
        number += 1


def _alike(request: Request) -> Request:
    """Equal for requests that can share a batch: everything but the prompt and the seed."""
    return replace(request, prompt="", seed=0)
