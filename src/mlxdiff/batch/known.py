"""The work of a complete list of jobs: what is there already, what is missing, and in which batches it comes."""

from __future__ import annotations

from pathlib import Path

from ..errors import RequestError
from ..files import remove_parts
from ..request import Model, Resolved
from .contact import ContactSheet
from .jobs import Job, by_model, grouped, largest
from .journal import Journal, Run
from .models import Models
from .naming import check_clashes
from .options import RunOptions
from .sizing import default_batch_size
from .store import Standing, Store
from .unfinished import Unfinished
from .workload import Work


def known_work(
    models: Models,
    jobs: list[Job],
    store: Store,
    options: RunOptions,
    unfinished: Unfinished | None = None,
    sheet: ContactSheet | None = None,
    recorded: Run | None = None,
) -> Work:
    """The work of a complete list of jobs, none of which anything stands in the way of."""
    if sheet is not None and sheet.found and sheet.gathers:
        return Work([], store, len(jobs), None, unfinished=unfinished, sheet=sheet)
    files = [(path, job.source) for job in jobs for path in store.paths(job)]
    check_clashes(files if sheet is None else [*files, (sheet.path, "the sheet")])
    folders = {path.parent for path, _ in files} | ({sheet.path.parent} if sheet is not None else set())
    if not options.dry_run:
        for folder in folders:
            remove_parts(folder)
    missing: list[Job] = []
    unrecorded: list[tuple[Job, Standing]] = []
    for job in jobs:
        standing = store.standing(job)
        if standing.error is not None:
            raise standing.error
        if not standing.done:
            missing.append(job)
        elif standing.line is not None and store.shared:
            unrecorded.append((job, standing))
        else:
            store.adopt(job, standing)
    left = {job.id for job in missing}
    recorded = recorded if unfinished is None else unfinished.run
    if options.dry_run:
        size = 1 if recorded is None else recorded.batch_size
        batches = list(by_model(grouped(jobs, size)))
        return Work(batches, store, len(jobs), None, size, unrecorded, unfinished=unfinished, sheet=sheet, left=left)
    lacking = {job.model for job in missing}
    needs = next((job.model for job in jobs if job.model in lacking), None)
    if needs is None and (recorded is not None or not unrecorded):
        size = 1 if recorded is None else recorded.batch_size
    else:
        begun = any(store.is_done(job) for job in jobs)
        first = largest([job for job in jobs if needs in (None, job.model)])
        size = batch_size(models, recorded if begun else None, recorded, options, first.model, first.request)
    batches = list(by_model(grouped(jobs, size)))
    n_left = sum(any(job.id in left for job in batch.jobs) for batch in batches)
    if unfinished is not None and store.journal is not None:
        unfinished.begin(Run(unfinished.key, jobs[0].request.seeds[0], size))
    return Work(
        batches,
        store,
        len(jobs),
        needs,
        batch_size=size,
        at_once=not store.shared and n_left == 1,
        unfinished=unfinished,
        sheet=sheet,
        folders=folders,
        unrecorded=unrecorded,
        left=left,
    )


def batch_size(
    models: Models, binding: Run | None, recorded: Run | None, options: RunOptions, model: Model, request: Resolved
) -> int:
    """As given, as recorded, or as memory allows; raises RequestError where `binding` asks for another one than given.

    A record binds once a picture of it is done.
    """
    given = options.batch_size
    if binding is not None and given not in (None, binding.batch_size):
        raise RequestError(
            f"This run was begun with --batch-size {binding.batch_size}; with {given} its pictures would share other"
            " batches.",
            "Leave --batch-size out, or render to another folder.",
        )
    if given is not None:
        return given
    if recorded is not None:
        return recorded.batch_size
    fitting = default_batch_size(models.use(model), request)
    # Of a larger batch the rest would be computed, thrown away, and computed again by the next command.
    return fitting if options.limit is None else min(fitting, options.limit)


def store_in(folder: Path, journal: Journal | None, options: RunOptions, *, shared: bool) -> Store:
    """Where a run keeps its pictures. `shared`: other processes may render into the folder at the same time."""
    return Store(
        folder,
        journal,
        metadata=options.metadata,
        latents=options.save_latents,
        trajectory=options.save_trajectory,
        force=options.force,
        skip_existing=options.skip_existing,
        shared=shared,
    )
