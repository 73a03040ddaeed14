"""Runs of the batch package from the command line: what is announced, what is counted, and how a run ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from ..batch.options import RunOptions
from ..errors import MlxdiffError, RequestError
from ..request import Request
from . import bell, output, refused, viewer
from . import plan as plans
from .bars import Bars
from .interrupt import Interrupts
from .measured import load_pace, save_pace
from .outcome import SOME_FAILED, Outcome, end, end_interrupted, say_done, say_stopped

if TYPE_CHECKING:
    import numpy as np

    from ..batch.again import Source
    from ..batch.events import Cooling, Event, Policy, Written
    from ..batch.jobs import Job
    from ..batch.models import Models
    from ..batch.wildcards import Wildcards
    from ..batch.workload import Work
    from .preview import Preview

__all__ = ["RunOptions", "check_size", "many", "pictures", "prompt_file", "say_sheet", "sheet", "sweep", "to_stdout"]


def pictures(
    request: Request, output_path: str | None, options: RunOptions, wildcards: Wildcards | None = None
) -> None:
    """The pictures of one request."""
    _check_alone("prompt")
    _run(
        options, lambda work, models, _: work.for_prompt(models, request, output_path, options, wildcards), request.seed
    )


def to_stdout(request: Request, options: RunOptions, wildcards: Wildcards | None = None) -> None:
    """The picture of a request as a PNG on standard output."""
    import tempfile

    _check_alone("prompt")
    with tempfile.TemporaryDirectory(prefix="mlxdiff-") as folder:
        path = Path(folder) / "picture.png"

        def plan(work: Any, models: Models, _: object) -> Work:
            return replace(work.for_prompt(models, request, str(path), options, wildcards), temporary=True)

        _run(options, plan, request.seed)
        if path.exists():  # not where --until came first
            output.write_bytes(path.read_bytes())


def sheet(
    request: Request, n_rows: int, output_path: str | None, options: RunOptions, wildcards: Wildcards | None = None
) -> None:
    """The pictures of one request, on one contact sheet of `n_rows` rows."""
    _check_alone("sheet")
    _run(
        options,
        lambda work, models, _: work.for_sheet(models, request, n_rows, output_path, options, wildcards),
        request.seed,
    )


def sweep(
    request: Request,
    vary: Sequence[str],
    output_path: Path,
    options: RunOptions,
    *,
    save_cells: Path | None = None,
    gap: int = 4,
) -> None:
    """The request varied along one or two axes, as a labelled sheet; cells in a folder if one is named."""
    _check_alone("sweep")
    _run(
        options,
        lambda work, models, _: work.for_sweep(models, request, vary, output_path, save_cells, gap, options),
        request.seed,
    )


def prompt_file(
    base: Request, file: str, output_path: str | None, options: RunOptions, wildcards: Wildcards | None = None
) -> None:
    """The pictures of a prompt file, or of standard input for `-`; what a line does not say comes from `base`."""
    if file == "-":
        _run(
            options,
            lambda work, models, stop: work.for_stream(models, base, output_path, options, stop, wildcards),
            base.seed,
        )
    else:
        _run(
            options,
            lambda work, models, _: work.for_file(models, base, file, output_path, options, wildcards),
            base.seed,
        )


def many(
    sources: Sequence[Source],
    given: Mapping[str, Any],
    complete: Callable[[Request], Request],
    output_path: str | None,
    options: RunOptions,
) -> None:
    """Pictures rendered again with the settings `given` in place of theirs."""

    def plan(_work: Any, models: Models, _stop: object) -> Work:
        from ..batch import again

        return again.for_sources(models, sources, given, complete, output_path, options)

    _run(options, plan, None)


def check_size(path: Path, size: tuple[int, ...]) -> None:
    """Raises RequestError for a sheet of (height, width) that the file's format has no numbers for."""
    from ..batch import contact

    contact.check_size(path, size)


def say_sheet(path: Path, drawn: np.ndarray, n_images: int, *, json: bool) -> None:
    """Announces a sheet of pictures that existed."""
    height, width = drawn.shape[:2]
    if json:
        output.say_json({"event": "sheet", "path": str(path), "height": height, "width": width, "images": n_images})
    else:
        output.say(str(path))


def _check_alone(what: str) -> None:
    from ..batch import ranks

    if ranks.rank() is not None:
        raise RequestError(f"Several ranks have one {what}.", "Give them a --prompts-file to share.")


def _run(options: RunOptions, plan: Callable[[Any, Models, Callable[[], bool]], Work], seed: Any) -> None:
    """Plans the work and renders it; exits where a part of it is missing at the end. `seed` is None for a drawn one."""
    began = time.perf_counter()
    with opened(options) as (bars, preview):
        from ..batch import work as work_module
        from ..batch.models import Models

        models = Models()
        stop = _Stop()
        try:
            work = plan(work_module, models, stop)
        except work_module.BadLinesError as error:
            _say_bad_lines(error, bars)
        pace = load_pace()
        if options.dry_run:
            bars.stop()
            try:
                plans.tell(work, options, pace, counted=seed is not None or work.is_begun)
                refused.tell(work.refused, json=options.json)
            finally:
                work.close(complete=False)
            if work.refused:
                raise typer.Exit(SOME_FAILED)
            return
        interrupts = Interrupts(
            lambda: bars.note("Finishing the pictures at hand. Once more, and it stops at once.", "yellow"),
            clean=work.clean,
        )
        stop.asked = interrupts.is_set
        outcome, complete = Outcome(), False
        try:
            if work.needs is not None:
                models.use(work.needs)
            bars.progress.limit = options.limit
            bars.start(work.n_images)
            refused.tell(work.refused, json=options.json)
            with nullcontext() if work.at_once else interrupts:
                policy = replace(work.policy(options), stop=stop, pace=pace)
                follow(models, work, options, bars, preview, policy, outcome)
                all_there = outcome.rendered + outcome.found == work.n_images
                complete = not outcome.failures and (all_there or not (stop() or outcome.stopped))
                if complete:
                    _finish(work, options)
            left = sum(not work.store.is_done(job) for job in work.jobs) if outcome.stopped else 0
        finally:
            work.close(complete=complete)
        bars.stop()
    if bars.visible:
        save_pace(pace)
        bell.ring(options.bell, time.perf_counter() - began)
        if options.progress == "json":
            say_done(outcome, work, time.perf_counter() - began)
    if outcome.found:
        output.note(f"Done before, or by another process: {outcome.found}.", style="dim")
    if interrupts.is_set() and not complete:
        end_interrupted(outcome, work, interrupts)
    if options.open and bars.visible:
        viewer.show(outcome.paths if work.sheet is None else [work.sheet.path] if complete else [])
    if outcome.stopped:
        say_stopped(outcome.stopped, None if work.n_images is None else left, options)
    end(outcome, work, options)


class _Stop:
    """Whether the run is to end early: asked of the signals once they are watched."""

    def __init__(self) -> None:
        self.asked: Callable[[], bool] = lambda: False

    def __call__(self) -> bool:
        return self.asked()


@contextmanager
def opened(options: RunOptions) -> Iterator[tuple[Bars, Preview | None]]:
    """The bars, and the preview above them; other ranks than the first draw nothing."""
    from ..batch import ranks

    first = ranks.rank() in (None, 0)
    preview = None
    if options.shows and first:
        from .preview import open_preview

        preview = open_preview(output.err_console(), vae=options.preview_vae)
        if preview is None:
            output.note("There is no preview: this terminal shows no pictures.", style="yellow")
    with Bars(visible=first, preview=preview, shown=options.progress) as bars:
        yield bars, preview


def follow(
    models: Models,
    work: Work,
    options: RunOptions,
    bars: Bars,
    preview: Preview | None,
    policy: Policy,
    outcome: Outcome,
    tell: Callable[[Event], None] = lambda _: None,
) -> None:
    """Runs the batches: draws, prints a line a picture, and counts in `outcome`.

    `tell` is called with each event once that is said; where it raises, the run ends there.
    """
    from ..batch.events import Cooling, Failed, Stopped, Written
    from ..batch.runner import run

    with closing(run(models, work.batches, work.store, policy)) as running:
        events: Iterator[Event] = bars.follow(_expecting(running, work, bars))
        for event in events if preview is None else preview.follow(events):
            if isinstance(event, Failed):
                outcome.failures.append((event.job, event.error))
                _say_failed(event.job, event.error, work, options)
            elif isinstance(event, Written):
                outcome.found += event.found
                outcome.rendered += not event.found
                if not work.is_hidden:
                    outcome.paths.append(event.job.path)
                _say_written(event, work, options)
            elif isinstance(event, Stopped):
                outcome.stopped = event.why
            elif isinstance(event, Cooling):
                _say_cooling(event, bars, options)
            tell(event)


def _expecting(events: Iterator[Event], work: Work, bars: Bars) -> Iterator[Event]:
    """The events of a run, of which the bars learn how many pictures a stream has so far."""
    from ..batch.events import Cooling, Stopped
    from ..batch.render import Denoised

    if work.n_images is not None:
        yield from events
        return
    for event in events:
        if isinstance(event, Stopped | Cooling):
            yield event
            continue
        last = max(event.indices) if isinstance(event, Denoised) else getattr(event, "job", event).index  # type: ignore[union-attr]
        bars.expect(last + 1)
        yield event


def _say_written(event: Written, work: Work, options: RunOptions) -> None:
    if work.is_hidden:
        return
    job = event.job
    for path in (job.path, *job.copies):
        if options.json:
            said = _about(job, path, work) | {kind: str(beside) for kind, beside in work.store.beside(path).items()}
            if not event.found:
                said |= {"seconds": event.seconds, "peak_memory": event.peak_memory}
            output.say_json(said | {"event": "found" if event.found else "picture"})
        elif not event.found:
            output.say(str(path))


def _say_failed(job: Job, error: MlxdiffError, work: Work, options: RunOptions) -> None:
    if not options.json:
        return
    paths = [work.sheet.path] if work.sheet is not None and work.is_hidden else [job.path, *job.copies]
    for path in paths:
        output.say_json(_about(job, path, work) | {"event": "failed", "error": str(error)})


def _about(job: Job, path: Path, work: Work) -> dict[str, Any]:
    return plans.about(path, job.request) | {"index": job.index} | work.cells.get(path, {})


def _finish(work: Work, options: RunOptions) -> None:
    """Draws the sheet, if there is to be one, and announces it."""
    sheet = work.sheet
    if sheet is None:
        return
    if not sheet.found:
        sheet.write(work.store, force=options.force)
    elif not options.json:
        output.note(f"Done before: {sheet.path}.", style="dim")
    height, width = sheet.size
    if options.json:
        said = plans.about(sheet.path, sheet.request)
        said |= {kind: str(path) for kind, path in sheet.beside(work.store).items()}
        said |= {"height": height, "width": width, "images": len(sheet.cells)}
        output.say_json(said | {"event": "found" if sheet.found else "sheet"})
    elif not sheet.found:
        output.say(str(sheet.path))


def _say_bad_lines(error: Any, bars: Bars) -> NoReturn:
    from ..batch.jobs import MAX_BAD_LINES

    bars.stop()
    for one in error.errors[:MAX_BAD_LINES]:
        output.complain("error", str(one))
    if len(error.errors) > MAX_BAD_LINES:
        output.complain("error", f"More lines are bad: only the first {MAX_BAD_LINES} are named.")
    raise typer.Exit(error.exit_code)


def _say_cooling(event: Cooling, bars: Bars, options: RunOptions) -> None:
    """Why nothing moves."""
    if options.progress == "json":
        output.event({"event": "cooling", "temperature": event.temperature, "limit": event.limit})
    else:
        bars.note(f"{event.temperature:.0f} °C: cooling down, then it goes on by itself.", "yellow")
