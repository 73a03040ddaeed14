"""`mlxdiff info --check`: whether pictures are sound and say the truth, and what of them comes out the same again."""

from __future__ import annotations

import math
import os
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import InputError, RequestError
from . import output, usage
from .bars import Bars

if TYPE_CHECKING:
    from ..checking.again import Compared, NotRendered
    from ..checking.fault import Fault
    from ..checking.folder import Plan
    from ..checking.picture import Looked
    from ..checking.sample import Sample


def check(subjects: Sequence[str], rerender: int | None, *, json: bool) -> None:
    """Looks at all pictures in folders and at named ones; exits with 1 where something is wrong."""
    roots = _roots(subjects)
    from ..checking import folder
    from ..checking.sample import Sample

    began = time.perf_counter()
    plan = folder.plan(roots)
    if plan.n_files == 0 and not plan.found.faults and not plan.known.ledger.entries:
        raise InputError(f"There are no pictures in {', '.join(subjects)}.", "Name a folder with pictures.")
    told = _Told(json=json)
    sample = Sample(0 if rerender is None else rerender, plan.roots)
    _look(plan, sample, told)
    chosen = sample.chosen
    told.seconds = time.perf_counter() - began
    if chosen:
        _render(chosen, told)
    told.summary(plan.found.at_work, None if rerender is None else len(chosen))
    if told.faults:
        raise typer.Exit(1)


def _roots(subjects: Sequence[str]) -> list[Path]:
    if not subjects:
        raise RequestError("--check has nothing to look at.", "Name a folder: mlxdiff info --check out/")
    roots = [_existing(Path(subject)) for subject in subjects]
    usage.check_files(roots)
    return roots


def _existing(root: Path) -> Path:
    try:
        os.stat(root)
    except (OSError, ValueError) as error:
        if root.is_symlink():
            raise InputError(f"{root} is a link that leads nowhere.", "Name the file or folder itself.") from None
        reason = " that may be read" if isinstance(error, PermissionError) else ""
        raise InputError(f"There is no file or folder {root}{reason}.", "Check its name.") from None
    return root


def _look(plan: Plan, sample: Sample, told: _Told) -> None:
    from ..checking import folder
    from ..checking.fault import Fault

    with Bars() as bars:
        bars.start(plan.n_files)
        for looked in folder.look(plan):
            if isinstance(looked, Fault):
                told.fault(looked)
                continue
            bars.count()
            told.looked(looked)
            sample.show(looked)


def _render(chosen: Sequence[Looked], told: _Told) -> None:
    from ..checking import again
    from ..checking.fault import Fault

    place = {looked.path: index for index, looked in enumerate(chosen)}
    with Bars() as bars:
        bars.start(len(chosen))
        for event in bars.follow(again.rerender(chosen)):
            if isinstance(event, again.Compared | again.NotRendered | Fault):
                bars.done(place[event.path])
            if isinstance(event, again.Compared):
                told.compared(event)
            elif isinstance(event, again.NotRendered):
                told.not_rendered(event)
            elif isinstance(event, Fault):
                told.fault(event)


@dataclass
class _Told:
    """Says what is found, and counts it."""

    json: bool
    seconds: float = 0.0
    pictures: int = 0
    beside: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    faulty: set[str] = field(default_factory=set)
    equal: int = 0
    close: list[float] = field(default_factory=list)
    refused: int = 0

    def looked(self, looked: Looked) -> None:
        if looked.path == Path():  # a file of another kind
            return
        self.pictures += looked.is_picture
        self.beside += not looked.is_picture
        if self.json:
            output.say_json(_picture(looked))
        for fault in looked.faults:
            self.fault(fault)

    def fault(self, fault: Fault) -> None:
        self.faults[fault.kind] += 1
        self.faulty.add(str(fault.path))
        if self.json:
            said = {"event": "fault", "kind": fault.kind, "path": str(fault.path), "problem": fault.problem}
            output.say_json(said)
        else:
            output.say(output.one_line(f"{fault.kind:<10}  {fault.path}: {fault.problem}"))

    def compared(self, compared: Compared) -> None:
        equal = math.isinf(compared.decibels)
        if self.json:
            said = {"psnr": None if equal else round(compared.decibels, 2), "largest_difference": compared.largest}
            output.say_json({"event": "rerendered", "path": str(compared.path), "equal": equal, **said})
        if compared.fault is not None:
            self.fault(compared.fault)
        elif equal:
            self.equal += 1
        else:
            self.close.append(compared.decibels)
            if not self.json:
                close = f"{compared.decibels:.1f} dB, the largest difference {compared.largest} of 255"
                output.say(output.one_line(f"{'close':<10}  {compared.path}: Rendered again: {close}."))

    def not_rendered(self, event: NotRendered) -> None:
        self.refused += 1
        if self.json:
            output.say_json({"event": "not rendered", "path": str(event.path), "problem": event.why})
        else:
            output.say(output.one_line(f"{'skipped':<10}  {event.path}: It cannot be rendered here. {event.why}"))

    def summary(self, at_work: int, n_chosen: int | None) -> None:
        """The last line."""
        n_faults = sum(self.faults.values())
        if self.json:
            said: dict[str, Any] = {"event": "summary", "pictures": self.pictures, "latents": self.beside}
            said |= {"faults": dict(self.faults), "files_with_faults": len(self.faulty), "at_work": at_work}
            said |= {"seconds": round(self.seconds, 3)}
            if n_chosen is not None:
                said["rerendered"] = {"equal": self.equal, "close": len(self.close), "not_rendered": self.refused}
            output.say_json(said)
            return
        files = [
            _counted(self.pictures, "picture"),
            *([_counted(self.beside, "file of latents")] if self.beside else []),
        ]
        wrong = f"{_counted(n_faults, 'fault')} in {_counted(len(self.faulty), 'file')}"
        parts = [f"Checked {' and '.join(files)}: {wrong if n_faults else 'all sound and true'}."]
        if n_chosen is not None:
            parts.append(self._rendered(n_chosen))
        if at_work:
            parts.append(f"Runs are at work: {_counted(at_work, 'file')} of theirs were left alone.")
        output.say(" ".join(parts))

    def _rendered(self, n_chosen: int) -> str:
        if n_chosen == 0:
            return "None of them says how to render it again."
        done = [f"{self.equal} equal"]
        if self.close:
            done.append(f"{len(self.close)} close ({min(self.close):.1f} dB at least)")
        if self.faults["rerendered"]:
            done.append(f"{self.faults['rerendered']} different")
        if self.refused:
            done.append(f"{self.refused} not possible here")
        return f"Rendered again {n_chosen}: {', '.join(done)}."


def _picture(looked: Looked) -> dict[str, Any]:
    said: dict[str, Any] = {
        "event": "picture" if looked.is_picture else "latents",
        "path": str(looked.path),
        "sound": not looked.faults,
        "in_journal": looked.in_journal,
        "documented": looked.request is not None,
    }
    if looked.pixels is not None:
        size = looked.pixels.size
        said |= {"format": looked.pixels.format, "size": f"{size[0]}x{size[1]}", "frames": looked.pixels.frames}
    return said


def _counted(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what}"
    first, _, rest = what.partition(" ")
    return f"{number} {first}s{' ' + rest if rest else ''}"
