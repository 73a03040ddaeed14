"""Runs of the batch package from the command line: what is announced, what is counted, and how a run ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from ..errors import MlxdiffError, RequestError
from ..request import Request
from . import output
from .bars import BatchBars

if TYPE_CHECKING:
    from ..batch.jobs import Group, Job
    from ..batch.journal import Journal
    from ..batch.naming import OutputPattern
    from ..batch.ranks import Ranks
    from ..batch.runner import Event, Settings
    from ..batch.store import Store
    from ..pipeline import StableDiffusion
    from .interrupt import Interrupts
    from .preview import Preview

SOME_FAILED = 3


@dataclass(frozen=True)
class Wishes:
    """What the options say about keeping pictures and about going on."""

    batch_size: int | None
    decode_batch_size: int
    tile: int | None
    latents: bool
    trajectory: bool
    metadata: bool
    force: bool
    json: bool
    fail_fast: bool = False
    retries: int = 0


@dataclass
class Outcome:
    """How far a run came."""

    rendered: int = 0
    found: int = 0
    failures: list[tuple[Job, MlxdiffError]] = field(default_factory=list)


def render_request(
    sd: StableDiffusion,
    request: Request,
    pattern: OutputPattern,
    wishes: Wishes,
    bars: BatchBars,
    preview: Preview | None,
) -> None:
    """The pictures of one resolved request: no journal, and an interrupt ends it at once."""
    from ..batch.jobs import grouped, jobs_of
    from ..batch.naming import check_clashes
    from ..batch.prompts import Entry
    from ..batch.runner import Settings
    from ..batch.sizing import default_batch_size

    entry = Entry(request, None, "the prompt")
    jobs = [job for job in jobs_of([entry], lambda resolved: resolved, pattern) if job is not None]
    store = _store(pattern, None, wishes)
    check_clashes((path, job.source) for job in jobs for path in store.paths(job))
    for job in jobs:
        store.check(job)
    sd.load()
    bars.start(len(jobs))
    size = default_batch_size(sd, request) if wishes.batch_size is None else wishes.batch_size
    settings = Settings(decode_batch_size=wishes.decode_batch_size, tile=wishes.tile, retries=wishes.retries)
    settings = replace(settings, fail_fast=wishes.fail_fast)
    outcome = _follow(sd, grouped(jobs, size), store, settings, wishes, bars, preview)
    bars.stop()
    if len(jobs) == 1 and outcome.failures:
        raise outcome.failures[0][1]
    _end(outcome, wishes)


def render_file(
    sd: StableDiffusion,
    base: Request,
    prompts: str,
    wanted: str | None,
    wishes: Wishes,
    bars: BatchBars,
    preview: Preview | None,
) -> None:
    """The pictures of a prompt file, or of standard input for `-`; goes on where an earlier run stopped."""
    from ..batch import claims, ranks, stream
    from ..batch.jobs import grouped, jobs_of
    from ..batch.journal import Journal
    from ..batch.naming import check_clashes, parse_output
    from ..batch.prompts import STANDARD_INPUT, open_prompts, read_entries, source_name
    from ..batch.runner import Settings
    from .interrupt import Interrupts

    streams = prompts == STANDARD_INPUT
    if streams and ranks.rank() is not None:
        raise RequestError("Ranks cannot share standard input.", "Write the prompts to a file, and name it.")
    pattern = parse_output(wanted, several=True)
    lines = open_prompts(prompts)  # a missing file is found before anything is made
    journal = Journal(pattern.folder)
    group, base, batch_size = _agree(sd, base, pattern, wishes, journal)
    if not streams:
        claims.sweep(pattern.folder)
    store = _store(pattern, journal, wishes)
    jobs = _cleaned(jobs_of(read_entries(lines, source_name(prompts), base), sd.resolve, pattern))
    n_images = None
    if not streams:
        listed = list(jobs)
        check_clashes((path, job.source) for job in listed for path in store.paths(job))
        for job in listed:
            if not store.is_done(job):
                store.check(job)
        jobs, n_images = listed, len(listed)
    sd.load()
    bars.start(n_images)
    interrupts = Interrupts(
        tell=lambda: bars.note("Finishing the pictures at hand. Once more, and it stops at once.", "yellow"),
        clean=lambda: _clean(pattern.folder),
    )
    settings = Settings(
        decode_batch_size=wishes.decode_batch_size,
        tile=wishes.tile,
        retries=wishes.retries,
        fail_fast=wishes.fail_fast,
        stop=interrupts.is_set,
        is_ours=group.is_ours,
        waits=group.is_first,
    )
    with interrupts:
        if streams:
            jobs = _counted(stream.as_they_come(_distinct(jobs, store), interrupts.is_set), bars)
        outcome = _follow(sd, grouped(jobs, batch_size), store, settings, wishes, bars, preview)
    bars.stop()
    claims.sweep(pattern.folder)
    if interrupts.is_set():
        _say_interrupted(outcome, n_images, interrupts)
    _end(outcome, wishes, group)


def _agree(
    sd: StableDiffusion, base: Request, pattern: OutputPattern, wishes: Wishes, journal: Journal
) -> tuple[Ranks, Request, int]:
    """The ranks, and the seed and batch size that hold for all of them and for every resumption."""
    from ..batch import ranks
    from ..batch.journal import Run, hash_of
    from ..batch.sizing import default_batch_size

    asked = sd.resolve(replace(base, seed=0 if base.seed is None else base.seed))
    name = hash_of(replace(asked, seed=None).to_json(), str(base.seed), str(pattern.template))
    recorded = journal.runs.get(name)
    if recorded is not None and wishes.batch_size not in (None, recorded.batch_size):
        raise RequestError(
            f"This run was begun with --batch-size {recorded.batch_size}; with {wishes.batch_size} its pictures would"
            " share other batches.",
            "Leave --batch-size out, or render to another folder.",
        )
    if recorded is None:
        seed = sd.resolve(base).seed
        assert isinstance(seed, int)
        size = default_batch_size(sd, asked) if wishes.batch_size is None else wishes.batch_size
        recorded = Run(name, seed, size)
        group, plan = ranks.join(pattern.folder, ranks.Plan(seed, size), recorded=False)
    else:
        group, plan = ranks.join(pattern.folder, ranks.Plan(recorded.seed, recorded.batch_size), recorded=True)
    run = journal.begin(Run(name, plan.seed, plan.batch_size))
    return group, replace(base, seed=run.seed), run.batch_size


def _store(pattern: OutputPattern, journal: Journal | None, wishes: Wishes) -> Store:
    from ..batch.store import Store

    return Store(
        pattern.folder,
        journal,
        metadata=wishes.metadata,
        latents=wishes.latents,
        trajectory=wishes.trajectory,
        force=wishes.force,
    )


def _cleaned(jobs: Iterable[Job | None]) -> Iterator[Job]:
    """The jobs, after what killed processes left in their folders has been removed."""
    from ..files import remove_parts

    seen: set[Path] = set()
    for job in jobs:
        if job is None:
            continue
        if job.path.parent not in seen:
            seen.add(job.path.parent)
            remove_parts(job.path.parent)
        yield job


def _distinct(jobs: Iterable[Job], store: Store) -> Iterator[Job]:
    """The jobs of a stream, whose clashes can only be found as they come."""
    from ..batch.naming import check_clashes

    taken: dict[str, tuple[Path, str]] = {}
    for job in jobs:
        for path in store.paths(job):
            if (key := str(path).casefold()) in taken:
                check_clashes([taken[key], (path, job.source)])
            taken[key] = (path, job.source)
        yield job


def _counted(jobs: Iterable[Job | None], bars: BatchBars) -> Iterator[Job | None]:
    for job in jobs:
        if job is not None:
            bars.expect(job.index + 1)
        yield job


def _follow(
    sd: StableDiffusion,
    groups: Iterable[Group | None],
    store: Store,
    settings: Settings,
    wishes: Wishes,
    bars: BatchBars,
    preview: Preview | None,
) -> Outcome:
    """Runs the groups: draws, prints a line a picture, and counts."""
    from ..batch.runner import Failed, Written, run

    outcome = Outcome()
    events: Iterator[Event] = bars.follow(run(sd, groups, store, settings))
    for event in events if preview is None else preview.follow(sd, events):
        if isinstance(event, Failed):
            outcome.failures.append((event.job, event.error))
        elif isinstance(event, Written) and event.found:
            outcome.found += 1
        elif isinstance(event, Written):
            outcome.rendered += 1
            _say(event.job, store, json=wishes.json)
    return outcome


def _say(job: Job, store: Store, *, json: bool) -> None:
    if not json:
        output.say(str(job.path))
        return
    said = {"path": str(job.path), "seed": job.request.seed, "prompt": job.request.prompt, "index": job.index}
    output.say_json(said | {kind: str(path) for kind, path in store.beside(job).items()})


def _say_interrupted(outcome: Outcome, n_images: int | None, interrupts: Interrupts) -> None:
    done = outcome.rendered + outcome.found
    of = "" if n_images is None else f" of {n_images}"
    output.note(f"Interrupted: {done}{of} pictures are done. The same command again does the rest.", style="yellow")
    raise typer.Exit(interrupts.exit_code)


def _end(outcome: Outcome, wishes: Wishes, group: Ranks | None = None) -> None:
    """Lists what failed, and exits accordingly."""
    if outcome.found:
        output.note(f"Done before, or by another process: {outcome.found}.", style="dim")
    if not outcome.failures:
        return
    for job, error in outcome.failures:
        output.complain("failed", f"{job.source}, {job.path}: {error}")
    rest = "" if not wishes.fail_fast else " The others were not tried."
    output.note(f"Failed: {len(outcome.failures)}.{rest}", style="yellow")
    if group is not None and not (group.is_first and group.shared):
        # mlx.launch ends all ranks as soon as one exits with an error. Where they share a folder the first one tries
        # what the others failed at, and so speaks for all; it is the last to go.
        return
    raise typer.Exit(1 if wishes.fail_fast else SOME_FAILED)


def _clean(folder: Path) -> None:
    from ..files import remove_parts

    remove_parts(folder, ours=True)
