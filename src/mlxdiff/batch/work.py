"""What a command amounts to: its jobs in batches, where they go, and what is made of them at the end.

A prompt, a file of prompts, a contact sheet and a sweep differ here and nowhere else. Everything is checked before
anything is made: a command that is refused leaves no file and no folder behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from ..errors import InputError, MlxdiffError, RequestError
from ..files import remove_parts
from ..request import Model, Request, Resolved
from . import claims, contact, ranks, stream, sweep
from .essence import canonical, essence
from .jobs import Job, JobMaker, grouped, jobs_of, listed, nothing
from .journal import Journal, Run, hash_of
from .known import batch_size, known_work, store_in
from .models import Models
from .naming import ALONE, OutputPattern, check_clashes, parse_output, parse_template, picture_path, safe
from .options import RunOptions
from .prompts import STANDARD_INPUT, Entry, open_prompts, read_entries, source_name
from .ranks import Ranks
from .resolving import Resolving
from .resuming import continued, run_of, seed_of
from .store import Standing, Store
from .unfinished import CELLS, RUN
from .wildcards import Wildcards
from .workload import Work

SHEET = "{prompt}-{seed}-sheet.png"
CELL = "{index:05d}.png"


class BadLinesError(MlxdiffError):
    """Several lines of a prompt file are wrong: `errors` says what is wrong with each, as far as it was read."""

    def __init__(self, name: str, errors: Sequence[MlxdiffError]) -> None:
        super().__init__(f"{name} has {len(errors)} bad lines.", "Correct them; nothing was rendered.")
        self.errors = tuple(errors)
        self.exit_code = errors[0].exit_code


def for_prompt(
    models: Models, request: Request, output: str | None, options: RunOptions, wildcards: Wildcards | None = None
) -> Work:
    """The pictures of one request, which need not be resolved."""
    if wildcards is not None and wildcards.concern(request):
        return _for_template(models, request, output, options, wildcards)
    pattern = parse_output(ALONE if output is None else output, several=request.batch_size > 1)
    with continued(pattern.folder, request, RUN, str(pattern.template)) as (unfinished, request):
        resolved = models.resolve(request)
        jobs = JobMaker(lambda _: resolved, pattern).jobs(Entry(request, None, "the prompt"))
        store = store_in(pattern.folder, None if len(jobs) == 1 else unfinished.journal, options, shared=False)
        return known_work(models, jobs, store, options, unfinished)


def _for_template(
    models: Models, request: Request, output: str | None, options: RunOptions, wildcards: Wildcards
) -> Work:
    """The pictures of a request whose prompts are drawn, or of every combination of them."""
    parts = _combinations(wildcards, request)
    pattern = parse_output(ALONE if output is None else output, several=sum(part.batch_size for part in parts) > 1)
    asked = f"{pattern.template} wildcards {wildcards.every}"
    with continued(pattern.folder, request, RUN, asked) as (unfinished, request):
        maker = JobMaker(models.resolve, pattern)
        drawn = None if wildcards.every else wildcards
        parts = _combinations(wildcards, request)
        jobs = [job for part in parts for job in maker.jobs(Entry(part, None, "the prompt", wildcards=drawn))]
        store = store_in(pattern.folder, None if len(jobs) == 1 else unfinished.journal, options, shared=False)
        return known_work(models, jobs, store, options, unfinished)


def _combinations(wildcards: Wildcards, request: Request) -> list[Request]:
    if not wildcards.every:
        return [request]
    try:
        return wildcards.combinations(request)
    except RequestError as error:
        raise RequestError(f"The prompt: {error.problem}", error.remedy) from None


def for_sheet(
    models: Models,
    request: Request,
    n_rows: int,
    output: str | None,
    options: RunOptions,
    wildcards: Wildcards | None = None,
) -> Work:
    """The pictures of one request, on one sheet."""
    folder = Path() if output is None else Path(output).parent
    asked = f"{output} {n_rows}"
    if wildcards is not None and wildcards.concern(request):
        if others := wildcards.concern_besides(request):
            raise RequestError(f"A contact sheet has one {others[0]}.", "Take the braces and wildcards out of it.")
        asked += f" wildcards {wildcards.every}"
    else:
        wildcards = None
    with continued(folder, request, CELLS, asked) as (unfinished, request):
        if wildcards is not None:
            (request,) = _combinations(wildcards, request) if wildcards.every else (wildcards.drawn_all(request),)
        resolved = models.resolve(request)
        unnamed = OutputPattern(folder, parse_template(SHEET))
        target = picture_path(unnamed, resolved.single(0), 0) if output is None else Path(output)
        cells = OutputPattern(unfinished.pictures, parse_template(CELL))
        jobs = JobMaker(lambda _: resolved, cells).jobs(Entry(request, None, "the prompt"))
        store = store_in(cells.folder, unfinished.journal, _for_hidden(options), shared=False)
        sheet = contact.contact_sheet(target, resolved, jobs, n_rows, store, options)
        return known_work(models, jobs, store, options, unfinished, sheet)


def for_sweep(
    models: Models,
    request: Request,
    vary: Sequence[str],
    output: Path,
    save_cells: Path | None,
    gap: int,
    options: RunOptions,
) -> Work:
    """The cells of a sweep, equal ones rendered once, and their sheet."""
    axes = [sweep.parse_axis(text) for text in vary]
    sweep.cells(request, axes)  # what is wrong with the axes is said before what is wrong with files
    hidden = save_cells is None
    if hidden and (options.save_latents or options.save_trajectory):
        raise RequestError("A sweep without cells has no place for their latents.", "Add --save-cells FOLDER.")
    folder = output.parent if save_cells is None else save_cells
    asked = "\0".join([output.name, str(gap), *vary])
    with continued(folder, request, CELLS if hidden else RUN, asked) as (unfinished, request):
        folder = unfinished.pictures if save_cells is None else save_cells
        cells = sweep.cells(request, axes)
        paths = [folder / (f"{i:05d}.png" if hidden else _cell_name(cell, axes)) for i, cell in enumerate(cells)]
        keys = [(cell.request.wanted_model, models.resolve(cell.request)) for cell in cells]
        jobs: dict[tuple[Model, Resolved], Job] = {}
        for place, (key, path) in enumerate(zip(keys, paths, strict=True)):
            if key not in jobs:
                identity = hash_of(canonical(essence(key[1])), path.name)
                jobs[key] = Job(place, key[1], path, f"cell {place + 1} of the sweep", identity, model=key[0])
            elif not hidden:
                jobs[key] = replace(jobs[key], copies=(*jobs[key].copies, path))
        kept = _for_hidden(options) if hidden else options
        store = store_in(folder, unfinished.journal, kept, shared=False)
        places = [jobs[key] for key in keys]
        sheet = contact.sweep_sheet(output, request, vary, axes, places, gap, store, options)
        work = known_work(models, list(jobs.values()), store, options, unfinished, sheet)
    if not hidden:
        for cell, path in zip(cells, paths, strict=True):
            varied = sweep.as_json(axes, cell.values)
            work.cells[path] = {"row": cell.row, "column": cell.column, "varied": varied}
    return work


def for_file(
    models: Models,
    base: Request,
    file: str,
    output: str | None,
    options: RunOptions,
    wildcards: Wildcards | None = None,
) -> Work:
    """The pictures of a prompt file, all of whose lines are read and checked now."""
    pattern = parse_output(output, several=True)
    base = _single(base)
    lines: list[bytes] = []
    opened = open_prompts(file)
    coming: Iterable[bytes] = _kept(opened, lines)
    journal, resolve = Journal(pattern.folder), Resolving(models.resolve)

    def jobs_with(seed: int) -> list[Job]:
        nonlocal coming
        entries = read_entries(coming, source_name(file), base.replaced(seed=seed), wildcards)
        jobs, wrong = listed(entries, resolve, pattern, journal.find if journal.done else nothing)
        opened.close()
        coming = lines
        if wrong:
            raise wrong[0] if len(wrong) == 1 else BadLinesError(file, wrong)
        if not jobs:
            raise InputError(f"{file} has no prompts.", "Write one a line, or see what should have written them.")
        return jobs

    assert not isinstance(base.seed, tuple)
    return for_list(models, journal, run_of(models, journal, base, pattern), base.seed, jobs_with, options)


def for_list(
    models: Models,
    journal: Journal,
    name: str,
    seed: int | None,
    jobs_with: Callable[[int], list[Job]],
    options: RunOptions,
) -> Work:
    """The pictures of a complete list, whose folder keeps a journal; processes and ranks share them.

    name       of the run in the journal: a hash of what the command asks for
    seed       from which jobs without one of their own are counted; None for the one recorded, or a drawn one
    jobs_with  the jobs with such a seed; asked for again where other processes have agreed on another
    """
    store = store_in(journal.path.parent, journal, options, shared=True)
    recorded = journal.runs.get(name)
    first: int = seed_of(Request(seed=seed), recorded)
    agreed = Ranks()
    while True:
        work = known_work(models, jobs_with(first), store, options, recorded=recorded)
        if options.dry_run:
            work.begun_before = recorded is not None
            return work
        run = Run(name, first, work.batch_size)
        if ranks.rank() is not None and agreed.size == 1:
            wanted = ranks.Agreement(first, work.batch_size)
            agreed, wanted = ranks.join(store.folder, wanted, recorded=recorded is not None)
            run = Run(name, wanted.seed, wanted.batch_size)
        # A folder in which all pictures were found, each with its line, stays as it is.
        if work.needs is not None or work.unrecorded or agreed.size > 1:
            if work.needs is not None:
                models.use(work.needs)  # a damaged model leaves no folder behind either
            run = journal.begin(run, recorded)
        if (run.seed, run.batch_size) == (first, work.batch_size):
            work.ranks = agreed
            _record(store, journal, work.unrecorded)
            return work
        recorded, first = run, run.seed


def _kept(lines: Iterable[bytes], kept: list[bytes]) -> Iterator[bytes]:
    """The lines, each also put into the list: of a file without an end no more are read than are asked for."""
    for line in lines:
        kept.append(line)
        yield line


def _record(store: Store, journal: Journal, found: Sequence[tuple[Job, Standing]]) -> None:
    """Adds the lines of pictures that were found, unless another process has them or did it."""
    for job, standing in found:
        claim = claims.take(store.folder, job.id)
        if claim is None:
            continue
        try:
            journal.refresh()
            if not store.is_done(job):
                store.adopt(job, standing)
        finally:
            claim.release()


def for_stream(
    models: Models,
    base: Request,
    output: str | None,
    options: RunOptions,
    stop: Callable[[], bool],
    wildcards: Wildcards | None = None,
) -> Work:
    """The pictures of standard input, whose lines are rendered as they come, until `stop` says so."""
    if options.dry_run:
        raise RequestError("Standard input can only be read once.", "Write the prompts to a file, and name it.")
    if ranks.rank() is not None:
        raise RequestError("Ranks cannot share standard input.", "Write the prompts to a file, and name it.")
    pattern = parse_output(output, several=True)
    base = _single(base)
    lines = open_prompts(STANDARD_INPUT)
    journal = Journal(pattern.folder)
    store = store_in(pattern.folder, journal, options, shared=True)
    name = run_of(models, journal, base, pattern)
    recorded = journal.runs.get(name)
    asked = models.resolve(base.replaced(seed=seed_of(base, recorded)))
    size = batch_size(models, recorded if journal.done else None, recorded, options, base.wanted_model, asked)
    base = base.replaced(seed=asked.seed)
    work = Work([], store, None, base.wanted_model, batch_size=size)

    def jobs() -> Iterator[Job | None]:
        resolve = Resolving(models.resolve)
        entries = read_entries(lines, source_name(STANDARD_INPUT), base, wildcards)
        found = jobs_of(stream.as_they_come(entries, stop), resolve, pattern, journal.find)
        taken: dict[str, tuple[Path, str]] = {}
        for job in found:
            if job is not None:
                if not taken:
                    journal.begin(Run(name, asked.seeds[0], size), recorded)
                for path in store.paths(job):  # clashes can only be found as they come
                    if (key := str(path).casefold()) in taken:
                        check_clashes([taken[key], (path, job.source)])
                    taken[key] = (path, job.source)
                if job.path.parent not in work.folders:
                    work.folders.add(job.path.parent)
                    remove_parts(job.path.parent)
            yield job
        if not taken and not stop():
            raise InputError("Standard input has no prompts.", "See what should have written them.")

    work.batches = grouped(jobs(), size)
    return work


def _single(base: Request) -> Request:
    """Lines count their seeds from one: of a picture's several that is the first."""
    if not isinstance(base.seed, tuple):
        return base
    return base.replaced(prompt=base.prompts[0], seed=base.seed[0], n_images=1)


def _for_hidden(options: RunOptions) -> RunOptions:
    """For cells of a sheet: their metadata identifies them, and the folder holds no other files."""
    return replace(options, metadata=True, force=False, skip_existing=False)


def _cell_name(cell: sweep.Cell, axes: Sequence[sweep.Axis]) -> str:
    """ROW-COLUMN-LABELS.png, counted from 0."""
    words = [axes[1].labels[cell.row]] if len(axes) == 2 else []
    return f"{cell.row:02d}-{cell.column:02d}-{safe('-'.join([*words, axes[0].labels[cell.column]]))}.png"
