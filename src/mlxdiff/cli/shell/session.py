"""The shell itself: reads lines until the end, and does what they say. The models stay loaded from line to line."""

from __future__ import annotations

import json
import os
import secrets
import signal
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import typer

from ...batch.options import RunOptions
from ...batch.prompts import TYPED, Entry, typed_entries
from ...batch.wildcards import TEXTS
from ...errors import MlxdiffError, RequestError
from ...request import SEEDS, Model, Request
from ...request.declarations import Setting
from .. import options as run_options
from .. import output
from ..bars import Bars
from ..completion import names_here
from ..interrupt import insisting
from ..measured import load_pace
from .commands import COMMANDS, Leave, perform
from .completion import Completer
from .history import NAME, History
from .reading import Reader
from .rendering import Rendered, rendered
from .state import State, differences
from .terminal import Terminal

MOST_UNDONE = 1000
NOT_HERE = ("--limit", "--until", "--skip-existing")  # which are of runs that a command goes on with


def open_shell(
    request: Request,
    output_path: str | None,
    run: RunOptions,
    wildcards: Path | None,
    *,
    every: bool,
    with_model: Callable[[Request], Request],
) -> None:
    """Asks for prompts until the end. `request` has the start settings; `with_model` fills in the default model.

    Raises MlxdiffErrors of the start: settings that cannot be used, or a model that is not there.
    """
    from ...batch import ranks

    if ranks.rank() is not None:
        raise RequestError("Several ranks have one terminal.", "Give them a --prompts-file to share.")
    if others := [name for name in run_options.given(run) if name in NOT_HERE]:
        raise RequestError(f"{others[0]} is of a run that ends by itself.", "Leave it out, or give a prompt.")
    start = State(request, output_path, wildcards, run.shows or (not run.json and _shows_pictures(run)))
    Session(start, run, every=every, with_model=with_model).run()


class Session:
    """`start` holds at the beginning; `state` now. `every` is --wildcards-all."""

    def __init__(self, start: State, run: RunOptions, *, every: bool, with_model: Callable[[Request], Request]) -> None:
        from ...batch.models import Models
        from ...batch.typed import TypedLines

        self.start = self.state = start
        self._run, self._every, self._with_model = run, every, with_model
        self._before: list[State] = []
        self._models = Models()
        self._lines = TypedLines(start.output)
        self._pace = load_pace()
        self._last: str | None = None
        self._literal: frozenset[str] = frozenset()  # prompts that are no templates
        self._pictures: list[tuple[Path, int]] = []  # of the last line that had any
        self._terminal = Terminal()
        _check_wildcards(start.wildcards)

    def run(self) -> None:
        """Until Ctrl-D, /quit, or Ctrl-C at an empty line, twice. Raises typer.Exit after SIGTERM."""
        try:
            with insisting(signal.SIGTERM, _end):
                self._run_lines()
        finally:
            self._terminal.restore()

    def _run_lines(self) -> None:
        if self.state.preview:
            try:
                self._check_preview()
            except RequestError as error:
                output.note(error.problem, style="yellow")
                self.start = self.state = replace(self.state, preview=False)
        with self._terminal.unseen():
            self._load(self.state.request.wanted_model)
        from ... import hub

        history = History(hub.home() / NAME)
        arguments = {name: command.complete for name, command in COMMANDS.items()}
        reader = Reader(history, Completer(arguments, names_here, self._wildcard_names))
        output.note("Type what to draw. /help lists the commands, Ctrl-D leaves.")
        told = is_leaving = False
        while True:
            try:
                lines = reader.lines()
                is_leaving = False
                with self._terminal.unseen():
                    goes_on = self.do(lines)
                if not goes_on:
                    return
            except (EOFError, OSError):  # Ctrl-D, or a terminal that is gone
                output.answer("")
                return
            except KeyboardInterrupt:
                output.answer("")
                if reader.is_empty():
                    if is_leaving:
                        return
                    is_leaving = True
                    output.note("Ctrl-C once more, or Ctrl-D, leaves.", style="dim")
            except MlxdiffError as error:
                output.report(_plainly(error))
            if history.problem is not None and not told:
                told = True
                output.warn(f"Lines are not kept for later shells. {history.problem}")

    def do(self, lines: Sequence[str]) -> bool:
        """Lines that came together; whether the shell goes on."""
        if len(lines) > 1:
            output.note(f"{len(lines)} lines: each is done by itself. Ctrl-C stops them all.", style="dim")
        for line in lines:
            if len(lines) > 1:
                output.note(f"> {line}", style="bold")
            output.show_warnings()  # what was said of another line is said of this one too
            try:
                if line.lstrip().startswith("/"):
                    perform(self, line)
                elif not self._render_line(line):
                    break
            except Leave:
                return False
            except KeyboardInterrupt:
                output.note("Stopped.", style="yellow")
                break
            except MlxdiffError as error:
                output.report(_plainly(error))
            except typer.Exit:
                raise
            except Exception as error:
                self._report_unforeseen(error)
        return True

    # What commands ask for.

    def change(self, state: State) -> None:
        """Makes this the state, if pictures can be rendered with it, and says what changed. Raises MlxdiffError."""
        before = self.state
        self._become(state)
        if self.state != before:
            self._before = [*self._before[-MOST_UNDONE:], before]

    def undo(self) -> None:
        if not self._before:
            raise RequestError("There is nothing to undo.", "It undoes changes of settings, the last one first.")
        self._become(self._before[-1])
        self._before.pop()

    def again(self, times: int) -> None:
        """The last prompt, each time with a new seed."""
        entries = self._entries(self._last_line())
        self._render([_with_new_seed(entry) for _ in range(times) for entry in entries])

    def repeat(self) -> None:
        """The last prompt, as if it were typed once more."""
        self._render_line(self._last_line())

    def take_over(self, request: Request) -> None:
        """Makes the settings of one that made a picture the present ones, and its prompt the last prompt.

        Of several images it is the first. Its prompts have been drawn: braces in them are text.
        """
        prompt = request.prompts[0]
        seed = request.seed[0] if isinstance(request.seed, tuple) else request.seed
        own = {"prompt": "", "seed": seed, "n_images": 1, "batch_index": None, "hashes": None}
        self.change(replace(self.state, request=request.replaced(**own)))
        self._literal = frozenset(text for name in TEXTS if isinstance(text := getattr(request, name), str))
        self._last = json.dumps({"prompt": prompt})
        output.answer(f"prompt: {prompt}")

    def last_picture(self) -> Path:
        return self._last_of_line()[0]

    def last_seed(self) -> int:
        return self._last_of_line()[1]

    def filled_in(self, item: Setting) -> str | None:
        """What the model makes of a setting that is not given; None where that cannot be said."""
        with suppress(MlxdiffError):
            value = getattr(self._models.resolve(_sample(self.state)), item.name)
            return None if value is None or item.name == "seed" else item.kind.show(value)
        return None

    def _last_line(self) -> str:
        if self._last is None:
            raise RequestError("There is no last prompt.", "Type one.")
        return self._last

    def _last_of_line(self) -> tuple[Path, int]:
        if not self._pictures:
            raise RequestError("There is no picture yet.", "Type a prompt.")
        return self._pictures[-1]

    # A change of the state.

    def _become(self, state: State) -> None:
        if state.request.model is None:
            state = replace(state, request=self._with_model(state.request))
        before = self.state
        changed = differences(before, state)
        if not changed:
            output.note("Nothing changes.", style="dim")
            return
        model = state.request.wanted_model
        if model != before.request.wanted_model:
            self._models.open(model)
        self._check(before, state)
        lines = self._lines
        if state.output != before.output:
            from ...batch.typed import TypedLines

            lines = TypedLines(state.output)
        if state.wildcards != before.wildcards:
            _check_wildcards(state.wildcards)
        if state.preview and not before.preview:
            self._check_preview()
        if model != before.request.wanted_model:
            self._load(model)
        self.state, self._lines = state, lines
        for name, value in changed:
            output.answer(f"{name}: {value}")

    def _check(self, before: State, after: State) -> None:
        """Raises what keeps pictures from being rendered, unless something did before the change."""
        problem = self._problem(after)
        if problem is not None and self._problem(before) is None:
            raise problem
        if problem is not None:
            output.warn(str(problem))

    def _problem(self, state: State) -> MlxdiffError | None:
        try:
            self._models.resolve(_sample(state))
        except MlxdiffError as error:
            return error
        return None

    def _check_preview(self) -> None:
        from ..preview import open_preview

        if output.verbosity.quiet:
            raise RequestError("There is no preview under --quiet.", "Start the shell without it.")
        if self._run.progress != "bar" or open_preview(output.err_console(), vae=self._run.preview_vae) is None:
            raise RequestError("There is no preview: this terminal shows no pictures.", "Look at them with /open.")

    def _load(self, model: Model) -> None:
        with Bars(shown=self._run.progress) as bars:
            self._models.use(model)
            bars.clear()

    # Pictures.

    def _render_line(self, line: str) -> bool:
        """Whether the lines that came with it are to be done too."""
        entries = self._entries(line)
        if not entries:  # a comment
            return True
        self._last = line
        return self._render([entry if entry.request.seed is not None else _with_new_seed(entry) for entry in entries])

    def _entries(self, line: str) -> list[Entry]:
        from ...batch.wildcard_files import WildcardFiles
        from ...batch.wildcards import Wildcards

        wildcards = Wildcards(WildcardFiles(self.state.wildcards), every=self._every, literal=self._literal)
        return [replace(entry, counted_from=None) for entry in typed_entries(line, self.state.request, wildcards)]

    def _render(self, entries: Sequence[Entry]) -> bool:
        done = Rendered()
        preview = self.state.preview
        options = replace(self._run, preview=preview, preview_vae=self._run.preview_vae if preview else None)
        try:
            rendered(self._models, self._lines, entries, options, self._pace, done, self._terminal.restore)
        finally:
            self._pictures = done.pictures or self._pictures
        for job, error in done.failures:
            which = "" if done.wanted == 1 else f"seed {job.request.seeds[0]}: "
            output.complain("error", f"{which}{_plainly(error)}")
        if done.is_held_back:
            output.note("Stopped by --min-battery: the rest waits for power. Type the line again then.", style="yellow")
        if done.is_terminated:
            raise typer.Exit(128 + (done.signal or 0))
        if done.signal is not None and done.wanted is not None and len(done.pictures) < done.wanted:
            of = "" if done.wanted == 1 else f" {len(done.pictures)} of {done.wanted} pictures are done."
            output.note(f"Stopped.{of}", style="yellow")
        return done.signal is None

    def _report_unforeseen(self, error: Exception) -> None:
        """An error that nobody thought of may have left the models half changed: they are read again."""
        from ...batch.models import Models

        self._models = Models()
        unforeseen = MlxdiffError(
            f"An unexpected error stopped this line ({type(error).__name__}: {error}).",
            "The shell goes on. Start it with -v for the details, and please report them.",
        )
        unforeseen.__cause__ = error
        output.report(unforeseen)

    def _wildcard_names(self) -> Iterable[str]:
        from ...batch.wildcard_files import WildcardFiles

        return WildcardFiles(self.state.wildcards).names


def _end(number: int, _: object) -> None:
    """Ends the shell in order, so that readline gives the terminal back."""
    raise typer.Exit(128 + number)


def _check_wildcards(folder: Path | None) -> None:
    from ...batch.wildcard_files import WildcardFiles

    WildcardFiles(folder)


def _shows_pictures(run: RunOptions) -> bool:
    """Whether the terminal shows real pictures, by its environment: then a preview is what people expect."""
    from .. import graphics

    console = output.err_console()
    plain = run.progress != "bar" or console.quiet or not console.is_terminal or console.is_dumb_terminal
    return not plain and graphics.protocol_of(os.environ) in (graphics.KITTY, graphics.ITERM2, graphics.SIXEL)


def _sample(state: State) -> Request:
    """A request by which to see whether the settings can be used."""
    return state.request.replaced(prompt="", seed=0, n_images=1)


def _with_new_seed(entry: Entry) -> Entry:
    return replace(entry, request=entry.request.replaced(seed=secrets.randbelow(SEEDS)))


def _plainly(error: MlxdiffError) -> MlxdiffError:
    """The error without its place, which is the line just typed."""
    error.problem = error.problem.removeprefix(f"{TYPED}: ")
    error.args = (f"{error.problem} {error.remedy}",)
    return error
