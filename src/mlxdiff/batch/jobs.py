"""Entries of a prompt file to jobs, and jobs to the batches that are denoised together.

    entry  one line: a request of one or more images
    job    one picture: a request that renders it alone, and its path
    batch  jobs that are denoised together

A picture differs in its last bits from one that was rendered in another batch, so what shares a batch follows from the
list of jobs alone: jobs that differ only in prompt and seed are cut, in their order, into batches of `batch_size`.
A batch of which a picture is missing is rendered as the same batch again.

A job's identity is what its line asks for and the template of its name. Where the line has no seed of its own, the
seed that was counted for it is no part of that, and neither is its index unless the template was written with {index}:
of equal jobs the identity counts which one it is. So a line that is inserted moves no other, and what a job was given
when it was rendered first, its seed and its name, is what it keeps (`recall`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import MlxdiffError, RequestError
from ..loras import alike
from ..request import Model, Request, Resolved
from .essence import canonical, earlier, essence
from .journal import Done, hash_of
from .naming import OutputPattern, asks_for_index, below, picture_path
from .prompts import Entry
from .wildcards import TEXTS, Wildcards

MAX_BAD_LINES = 20

_DEFAULT = Model()

Resolve = Callable[[Request], Resolved]
Recall = Callable[[str, str], Done | None]


@dataclass(frozen=True)
class Job:
    """Picture `index` of the run: `request` renders it alone; `source` is where it was asked for.

    model      what to load for it
    former_id  its identity in journals of mlxdiff 0.1, which was of its seed and its name, or of numbers as typed
    counted    whether its seed was counted, and not asked for
    copies     further paths at which the same picture is wanted
    drawn      the prompts, where they were drawn from templates
    """

    index: int
    request: Resolved
    path: Path
    source: str
    id: str
    model: Model = _DEFAULT
    former_id: str = ""
    counted: bool = False
    copies: tuple[Path, ...] = ()
    drawn: str = ""

    @cached_property
    def inputs(self) -> str | None:
        """A hash of the contents of the files that the request names, and of what was drawn; None without either."""
        files = json.dumps(dict(self.request.hashes), sort_keys=True) if self.request.hashes else ""
        texts = [text for text in (files, self.drawn) if text]
        return hash_of(*texts) if texts else None


@dataclass(frozen=True)
class Batch:
    """Jobs that are denoised together; `number` counts the batches of a run."""

    number: int
    jobs: tuple[Job, ...]

    @cached_property
    def request(self) -> Resolved:
        """One request for all its images."""
        prompts = tuple(job.request.prompts[0] for job in self.jobs)
        seeds = tuple(job.request.seeds[0] for job in self.jobs)
        places = tuple(job.request.batch_places[0] for job in self.jobs)
        return self.jobs[0].request.replaced(prompt=prompts, seed=seeds, batch_index=places if any(places) else None)

    @property
    def model(self) -> Model:
        return self.jobs[0].model


def nothing(_identity: str, _former: str) -> None:
    """Recalls no job: where there is no journal."""


def _of_template(texts: Sequence[str], values: dict[str, Any]) -> str:
    return hash_of("template", canonical(values), *texts)


class JobMaker:
    """Entries to jobs, counted from `first`. `recall` finds what a journal has of an identity, or of a former one."""

    def __init__(self, resolve: Resolve, pattern: OutputPattern, recall: Recall = nothing, first: int = 0) -> None:
        self._resolve, self._pattern, self._recall = resolve, pattern, recall
        self._index = self._first = first
        self._places: list[OutputPattern] = []
        self._met: dict[str, int] = {}  # how many jobs were alike so far

    def jobs(self, entry: Entry, where: OutputPattern | None = None) -> list[Job]:
        """One job an image, named as `where` says if it says so; raises MlxdiffErrors that name the entry."""
        try:
            several = entry.request.batch_size > 1
            if where is None:
                where = self._pattern if entry.output is None else below(self._pattern, entry.output, several=several)
            if entry.wildcards is not None:
                return self._drawn(entry, entry.wildcards, where)
            singles = (one for part in alike(entry.request) for one in self._resolve(part).singles())
            found = [self._job(entry, single, where) for single in singles]
        except MlxdiffError as error:
            error.problem = f"{entry.source}: {error.problem}"
            error.args = (f"{error.problem} {error.remedy}",)
            raise
        return found

    def _job(self, entry: Entry, single: Resolved, where: OutputPattern) -> Job:
        asked = essence(single)
        path, seed = picture_path(where, single, self._index), asked["seed"]

        def content_of(values: dict[str, Any]) -> str:
            return hash_of(canonical(values), *texts)

        def former_of(values: dict[str, Any]) -> str:
            name = path.relative_to(self._pattern.folder).as_posix()
            return hash_of(canonical(values | {"seed": seed}), name)

        if entry.counted_from is not None:
            asked["seed"] = None
        place = str(self._index) if asks_for_index(where.template) else ""
        texts = str(entry.counted_from), str(where.template), place
        identity, former, known = self._recalled(entry, asked, content_of, former_of)
        if known is not None:
            path = self._kept(known, path)
            if entry.counted_from is not None and known.seed is not None:
                single = single.replaced(seed=known.seed)
        job = Job(
            self._index,
            single,
            path,
            entry.source,
            identity,
            model=entry.request.wanted_model,
            former_id=former,
            counted=entry.counted_from is not None,
        )
        self._index += 1
        self._places.append(where)
        return job

    def _drawn(self, entry: Entry, wildcards: Wildcards, where: OutputPattern) -> list[Job]:
        """The jobs of a request whose prompts are templates.

        Their identity is that of the templates, since what is drawn follows from the seed, and that may be one which
        the journal keeps. A picture of which other words were drawn, because the wildcards changed, is another.
        """
        request = entry.request
        plain = dict.fromkeys(TEXTS[1:])
        content = essence(self._resolve(request.single(0).replaced(prompt="", **plain)))
        counted = entry.counted_from is not None
        found = []
        for asked in request.singles():
            values = asked.values()
            content |= {name: values.get(name) for name in (*TEXTS, "batch_index")}
            content["seed"] = None if counted else asked.seed
            place = str(self._index) if asks_for_index(where.template) else ""
            texts = str(entry.counted_from), str(where.template), place
            identity, former, known = self._recalled(entry, content, partial(_of_template, texts), lambda _: "")
            if counted and known is not None and known.seed is not None:
                asked = asked.replaced(seed=known.seed)
            single = self._resolve(wildcards.drawn(asked))
            job = Job(
                self._index,
                single,
                picture_path(where, single, self._index),
                entry.source,
                identity,
                model=request.wanted_model,
                former_id=former,
                counted=counted,
                drawn=canonical({name: getattr(single, name) for name in TEXTS}),
            )
            if known is not None and known.inputs == job.inputs:
                job = replace(job, path=self._kept(known, job.path))
            self._index += 1
            self._places.append(where)
            found.append(job)
        return found

    def _recalled(
        self,
        entry: Entry,
        asked: dict[str, Any],
        content_of: Callable[[dict[str, Any]], str],
        former_of: Callable[[dict[str, Any]], str],
    ) -> tuple[str, str, Done | None]:
        """A job's identity, the one that the journal has it under if that is another, and what the journal has.

        content_of  a hash of what is asked for: of jobs that are alike, each then has an identity of its own
        former_of   the identity that mlxdiff 0.1 gave it
        """
        content = content_of(asked)
        nth = self._met[content] = self._met.get(content, -1) + 1
        identity = hash_of(content, str(nth))
        if self._recall is nothing:
            return identity, "", None
        former = former_of(asked)
        known = self._recall(identity, former)
        if known is None:
            for values in earlier(asked, entry.request.values()):
                if known := self._recall(hash_of(content_of(values), str(nth)), former_of(values)):
                    return identity, known.id, known
        return identity, former, known

    def apart(self, jobs: list[Job]) -> list[Job]:
        """The jobs, new ones renamed that were inserted where a picture has the name already that they would get.

        The index in a folder's own names only keeps order, so another one does.
        """
        kept = {job.path for job in jobs if self._recall(job.id, job.former_id) is not None}
        taken = {job.path for job in jobs}
        found, free = [], len(jobs)
        for job in jobs:
            where = self._places[job.index - self._first]
            renames = "index" in where.template.fields and not asks_for_index(where.template)
            if job.path in kept and self._recall(job.id, job.former_id) is None and renames:
                while (path := picture_path(where, job.request, free)) in taken:
                    free += 1
                taken.add(path)
                job = replace(job, path=path)
            found.append(job)
        return found

    def _kept(self, known: Done, path: Path) -> Path:
        """Where the journal says that the picture is, if that is a place inside the folder."""
        kept = PurePosixPath(known.path)
        if kept.is_absolute() or ".." in kept.parts:
            return path
        return self._pattern.folder.joinpath(*kept.parts)


def jobs_of(
    entries: Iterable[Entry | None], resolve: Resolve, pattern: OutputPattern, recall: Recall = nothing
) -> Iterator[Job | None]:
    """The jobs of entries as they come; raises errors that name the entry. None is passed on, see `grouped`."""
    maker = JobMaker(resolve, pattern, recall)
    for entry in entries:
        if entry is None:
            yield None
        else:
            yield from maker.jobs(entry)


def listed(
    entries: Iterator[Entry], resolve: Resolve, pattern: OutputPattern, recall: Recall = nothing
) -> tuple[list[Job], list[MlxdiffError]]:
    """All jobs of the entries, and what is wrong with bad ones: reading ends when more than MAX_BAD_LINES are found."""
    maker = JobMaker(resolve, pattern, recall)
    found: list[Job] = []
    wrong: list[MlxdiffError] = []
    while len(wrong) <= MAX_BAD_LINES:
        try:
            entry = next(entries)
        except StopIteration:
            break
        except RequestError as error:  # of this line; whatever else there is, is of the file
            wrong.append(error)
            continue
        try:
            found += maker.jobs(entry)
        except MlxdiffError as error:
            wrong.append(error)
    return found if wrong else maker.apart(found), wrong


def grouped(jobs: Iterable[Job | None], batch_size: int) -> Iterator[Batch | None]:
    """Batches of at most `batch_size` jobs, each as soon as it is full, the incomplete ones at the end.

    A None among the jobs says that the next one is not there yet, and may not be for long: what has come is then
    grouped as it is, and None is passed on. So is an error that they raise, after what came before it.
    """
    waiting: dict[tuple[Model, Request], list[Job]] = {}
    number, error = 0, None
    try:
        for job in jobs:
            if job is None:
                ready = list(waiting.values())
                waiting.clear()
            else:
                alike = job.model, _alike(job.request)
                waiting.setdefault(alike, []).append(job)
                ready = [waiting.pop(alike)] if len(waiting[alike]) == batch_size else []
            for members in ready:
                yield Batch(number, tuple(members))
                number += 1
            if job is None:
                yield None
    except MlxdiffError as problem:
        error = problem
    for members in waiting.values():
        yield Batch(number, tuple(members))
        number += 1
    if error is not None:
        raise error


def by_model(batches: Iterable[Batch | None]) -> Iterator[Batch]:
    """The batches of a list that is complete, so ordered that each model is loaded once, and each set of LoRAs put on
    once."""
    known = [batch for batch in batches if batch is not None]
    first: dict[Any, int] = {}
    for batch in known:
        for weights in _weights_of(batch):
            first[weights] = min(batch.jobs[0].index, first.get(weights, batch.jobs[0].index))
    yield from sorted(known, key=lambda batch: [first[weights] for weights in _weights_of(batch)])


def _weights_of(batch: Batch) -> tuple[Any, Any]:
    job = batch.jobs[0]
    return job.model, (job.model, job.request.lora)


def largest(jobs: Sequence[Job]) -> Job:
    """The job of most pixels, in its largest pass."""
    return max(jobs, key=lambda job: math.prod(job.request.final_size))


def _alike(request: Request) -> Request:
    """Equal for requests that can share a batch: everything but the prompt, the seed and its place in a batch."""
    return request.replaced(prompt="", seed=0, batch_index=None)
