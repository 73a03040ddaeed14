"""The pictures of lines that a person types one after another: each line is work of its own, begun when it is typed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from .jobs import Job, JobMaker, nothing
from .journal import Journal, Run, hash_of
from .known import known_work, store_in
from .models import Models
from .naming import ALONE, IN_FOLDER, next_index, parse_output, parse_template
from .options import RunOptions
from .prompts import Entry
from .store import Store
from .workload import Work

MOST_ALIKE = 10_000  # pictures of one prompt and seed in a folder


class TypedLines:
    """Where the pictures of typed lines go: `output` as --output has it, of which there may be several pictures.

    A folder gets a journal, as that of a prompt file does, and names that are numbered on from those that are there.
    Elsewhere a picture's name says its seed; where one of other settings has it, NAME-2 is taken, NAME-3 and so on.
    Raises RequestError for an output that cannot be used.
    """

    def __init__(self, output: str | None) -> None:
        self._pattern = parse_output(ALONE if output is None else output, several=True)
        self._journal: Journal | None = None
        self._next = next_index(self._pattern)
        self._begun: list[Job] = []  # of the line before: those that were rendered have used up their numbers
        self._named: dict[str, Path] = {}  # the name that a job got
        self._tried: dict[Path, int] = {}  # how many pictures have a name, with a number or without

    def work(self, models: Models, entries: Sequence[Entry], options: RunOptions) -> Work:
        """The work of one line's entries, which have their seeds. Raises MlxdiffErrors."""
        journal = self._opened_journal()
        store = store_in(self._pattern.folder, journal, options, shared=journal is not None)
        recall = nothing if journal is None else journal.find
        self._next = max([self._next, *(job.index + 1 for job in self._begun if job.path.exists())])
        maker = JobMaker(models.resolve, self._pattern, recall, self._next)
        jobs = [self._placed(job, store) for entry in entries for job in maker.jobs(entry)]
        name = hash_of(*(entry.request.to_json() for entry in entries), str(self._pattern.template))
        recorded = None if journal is None else journal.runs.get(name)
        work = known_work(models, jobs, store, options, recorded=recorded)
        if work.needs is not None and not options.dry_run:
            models.use(work.needs)  # a damaged model leaves no folder behind
            if journal is not None:
                journal.begin(Run(name, jobs[0].request.seeds[0], work.batch_size), recorded)
        self._begun = jobs if work.needs is not None else []
        return work

    def _placed(self, job: Job, store: Store) -> Job:
        """The job, under another name where its own is that of a picture of other settings."""
        if job.id in self._named:
            return replace(job, path=self._named[job.id])
        path, number = job.path, self._tried.get(job.path, 1)
        while number < MOST_ALIKE:
            job = replace(job, path=path if number == 1 else path.with_stem(f"{path.stem}-{number}"))
            if not os.path.lexists(job.path) or store.standing(job).error is None:
                break
            number += 1
        self._named[job.id], self._tried[path] = job.path, number
        return job

    def _opened_journal(self) -> Journal | None:
        """With what other processes have added; None where the pictures have none."""
        if self._pattern.template != parse_template(IN_FOLDER):
            return None
        if self._journal is None:
            self._journal = Journal(self._pattern.folder)
        else:
            self._journal.refresh()
        return self._journal
