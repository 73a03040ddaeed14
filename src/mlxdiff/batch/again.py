"""Many pictures rendered again with something changed: each is a job, named after the picture that it comes from.

    apple.png with --hires 2                 apple-hires-2.png
    out/cats/1.png of the folder out/        cats/1-hires-2.png
    -o big/{name}-{steps}.png                as it says

Neither a picture that is read is ever overwritten, nor does one that this command made become a source of it when it is
run again in the same folder: such a picture has the name that another source leads to, or a line in the journal.
"""

from __future__ import annotations

import json
import os
import re
import warnings
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from ..errors import MlxdiffError, MlxdiffWarning, RequestError
from ..metadata import request_from_file
from ..request import SEEDS, Model, Request
from ..request.declarations import Reference, declared
from ..request.pictures import PictureSource
from ..request.structured import Structured
from .essence import earlier
from .jobs import Job, JobMaker
from .journal import Journal, hash_of
from .models import Models
from .naming import (
    FIELDS,
    MAX_NAME,
    NAME,
    OutputPattern,
    Piece,
    Template,
    asks_for_index,
    folders_of,
    parse_output,
    path_key,
    safe,
)
from .options import RunOptions
from .prompts import Entry
from .store import Store
from .work import for_list
from .workload import Work

UNCHANGED = "again"  # in the name of a picture that is rendered as it was
MAX_CHANGES = 80  # bytes of a name that say what was changed
MOST = 20  # remarks that are made about many pictures
_ROOM = 48  # bytes of a name for a seed, a number and a format
_UNWANTED = re.compile(r"[\x00-\x1f\x7f-\x9f\\\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True)
class Source:
    """A picture to render again: its file, and its path in the folder that was named, or its name alone."""

    path: Path
    below: Path

    @cached_property
    def key(self) -> str:
        return _key(self.path)


@dataclass
class Remarks:
    """What is to be said of many pictures, each kind of remark once."""

    _of: dict[str, dict[Path, None]] = field(default_factory=dict)

    @contextmanager
    def about(self, path: Path) -> Iterator[None]:
        """Keeps the MlxdiffWarnings inside."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", MlxdiffWarning)
            yield
        for one in caught:
            self._of.setdefault(str(one.message).replace(str(path), "the picture"), {})[path] = None

    def tell(self, of: Collection[Path]) -> None:
        """Warns of what was kept about these, of each kind once: with the pictures' number, and the first of them."""
        kept = {said: [path for path in paths if path in of] for said, paths in self._of.items()}
        kept = {said: paths for said, paths in kept.items() if paths}
        for said, paths in list(kept.items())[:MOST]:
            first = ", ".join(path.name for path in paths[:3])
            whose = first if len(paths) == 1 else f"{len(paths)} pictures ({first}{', ...' if len(paths) > 3 else ''})"
            warnings.warn(MlxdiffWarning(f"{whose}: {said}"), stacklevel=2)
        if len(kept) > MOST:
            more = f"There are {len(kept) - MOST} more remarks about single pictures."
            warnings.warn(MlxdiffWarning(f"{more} `mlxdiff info PICTURE` says what of it is not used."), stacklevel=2)


def for_sources(
    models: Models,
    sources: Sequence[Source],
    given: Mapping[str, Any],
    complete: Callable[[Request], Request],
    output: str | None,
    options: RunOptions,
) -> Work:
    """The pictures of many others, with the settings `given` in place of theirs; `complete` names a missing model.

    A source that cannot be rendered is one of the work's `refused`. Raises RequestError for what is given, and the
    error of a model that is.
    """
    asked = _asked(given)
    if given.get("model") is not None:
        models.open(Model(given["model"], given.get("revision")))
    pattern = parse_output(output, several=True, fields=(*FIELDS, NAME))
    journal = Journal(pattern.folder)
    kinds = {item.name: item.kind for item in declared(Request)}
    values = {name: None if value is None else kinds[name].to_json(value) for name, value in asked.items()}
    names = [
        hash_of("from", json.dumps(each, sort_keys=True), str(pattern.template)) for each in (values, *earlier(values))
    ]
    name = next((name for name in names if name in journal.runs), names[0])
    sources = _outside(sources, pattern.folder)
    remarks, requests, refused = Remarks(), {}, {}
    for source in sources:
        read = _read(source, given, remarks)
        if isinstance(read, MlxdiffError):
            refused[source] = read
        else:
            requests[source] = complete(read)
    plan = _Plan(models, journal, pattern, changes(asked), remarks, name)
    made = plan.outputs(sources, requests)
    requests = {source: request for source, request in requests.items() if source.key not in made}
    refused = {source: error for source, error in refused.items() if source.key not in made}
    found: list[Job] = []
    gentle = Store(pattern.folder, journal, metadata=options.metadata, skip_existing=options.skip_existing)

    def jobs_with(seed: int) -> list[Job]:
        jobs, errors = plan.jobs(requests, seed)
        refused.update(errors)
        if options.force:
            _check_kept(jobs, {source.key for source in sources}, gentle)
        found[:] = jobs
        return jobs

    work = for_list(models, journal, name, None, jobs_with, options)
    remarks.tell({source.path for source in requests})
    work.begun_before = work.begun_before or not any(job.counted for job in found)
    work.refused = [(source.path, refused[source]) for source in sources if source in refused]
    for job in found:
        for path in (job.path, *job.copies):
            work.cells[path] = {"source": job.source}
    return work


def _outside(sources: Sequence[Source], folder: Path) -> list[Source]:
    """The sources, but those in an output folder that lies in the folder which was named: they were made before."""
    output = _key(folder)

    def is_inside(source: Source) -> bool:
        named = _key(source.path.parents[len(source.below.parts) - 1])
        return output != named and _is_below(output, named) and _is_below(source.key, output)

    kept = [source for source in sources if not is_inside(source)]
    if len(kept) < len(sources):
        left = f"Pictures in {folder} are left out ({len(sources) - len(kept)}): new ones are written there."
        warnings.warn(MlxdiffWarning(left), stacklevel=3)
    return kept


def _is_below(key: str, folder: str) -> bool:
    return key.startswith(os.path.join(folder, ""))


def _read(source: Source, given: Mapping[str, Any], remarks: Remarks) -> Request | MlxdiffError:
    """The request of a source, or why there is none."""
    try:
        with remarks.about(source.path):
            return request_from_file(source.path, given=given).replaced(hashes=None)
    except MlxdiffError as error:
        return error


def _asked(given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given, in the words of its declarations: `DPM++ 2M Karras` is a sampler and a schedule.

    Raises RequestError: what is wrong with it is wrong for all pictures.
    """
    checked = Request(**given)
    values = {item.name: (item, getattr(checked, item.name)) for item in declared(Request)}
    return {
        name: value
        for name, (item, value) in values.items()
        if name in given or (value is not None and value != item.default)
    }


def changes(given: Mapping[str, Any]) -> str:
    """What was changed, for a name: `hires-2`, `steps-40-sampler-heun`; `again` where nothing was."""
    parts = []
    for item in declared(Request):
        if item.name not in given or item.name == "n_images":
            continue
        value = given[item.name]
        shown = "random" if value is None else value if isinstance(value, str) else item.kind.show(value)
        if isinstance(item.kind, Reference | PictureSource | Structured):
            shown = re.sub(r"[^,=|\s]*/", "", shown).replace(".safetensors", "")  # folders are private
        parts.append(f"{item.name.replace('_', '-')}-{shown}")
    return safe("-".join(parts), MAX_CHANGES) if parts else UNCHANGED


def named(pattern: OutputPattern, source: Source, changed: str, *, several: bool) -> OutputPattern:
    """The pattern of a source's pictures, of which there may be several."""
    stem = _clean(source.below.stem, MAX_NAME - len(changed.encode()) - _ROOM)
    folders = folders_of(pattern.template)
    if folders is None:
        pieces = tuple(_filled(piece, stem) for piece in pattern.template.pieces)
        return OutputPattern(pattern.folder, Template(pieces))
    place = "".join(f"{_clean(part, MAX_NAME)}/" for part in source.below.parent.parts)
    last = f"{place}{stem}-{changed}"
    tail = (Piece(f"{last}-", "seed"), Piece(".png")) if several else (Piece(f"{last}.png"),)
    return OutputPattern(pattern.folder, Template((*folders, *tail)))


@dataclass
class _Plan:
    """How sources become jobs."""

    models: Models
    journal: Journal
    pattern: OutputPattern
    changed: str
    remarks: Remarks
    run: str
    _unusable: dict[Model, MlxdiffError] = field(default_factory=dict)

    def outputs(self, sources: Sequence[Source], requests: Mapping[Source, Request]) -> set[str]:
        """The keys of paths among the sources that this command makes, or has made.

        Raises RequestError where it cannot tell them from sources, or would write over one.
        """
        folder = _key(self.pattern.folder)
        if not any(_is_below(source.key, folder) for source in sources):
            return set()
        if asks_for_index(self.pattern.template):
            raise RequestError(
                f"{self.pattern.folder} has pictures that are read, and a name with {{index}} does not say of which one"
                " a picture was made.",
                "Put {name} in its place, or name another folder.",
            )
        recorded = self.journal.runs.get(self.run)
        jobs, _ = self.jobs(requests, 0 if recorded is None else recorded.seed)
        paths = {source.key: source for source in sources}
        of = {str(source.path): source for source in sources}
        made = set()
        for job in jobs:
            key = _key(job.path)
            if key == of[job.source].key:
                raise RequestError(
                    f"{job.path} would be written over the picture that it is made from.",
                    "Name another folder, or put more than {name} into the name.",
                )
            made.add(key)
        mine = (done.path for done in self.journal.done.values() if done.of is not None and done.of[0] == self.run)
        made |= {_key(self.pattern.folder / path) for path in mine}
        return made & paths.keys()

    def jobs(self, requests: Mapping[Source, Request], seed: int) -> tuple[list[Job], dict[Source, MlxdiffError]]:
        """The jobs of all sources, and why some have none. A source without a seed has one by its name."""
        maker = JobMaker(self.models.resolve, self.pattern, self.journal.find)
        jobs: list[Job] = []
        refused: dict[Source, MlxdiffError] = {}
        for source, request in requests.items():
            counted = None
            if request.seed is None:
                counted = seed
                request = request.replaced(seed=(seed + zlib.crc32(os.fsencode(source.below))) % SEEDS)
            try:
                self._check_model(request.wanted_model)
                where = named(self.pattern, source, self.changed, several=request.batch_size > 1)
                entry = Entry(request, None, str(source.path), counted)
                with self.remarks.about(source.path):
                    jobs += maker.jobs(entry, where)
            except MlxdiffError as error:
                refused[source] = error
        return (jobs if folders_of(self.pattern.template) is None else self._apart(jobs)), refused

    def _check_model(self, model: Model) -> None:
        """Raises the error of a model that cannot be opened; it is looked for once."""
        if model in self._unusable:
            raise self._unusable[model]
        try:
            self.models.open(model)
        except MlxdiffError as error:
            self._unusable[model] = error
            raise

    def _apart(self, jobs: list[Job]) -> list[Job]:
        """The jobs; of those that would have one name the later ones with a number, unless the journal knows theirs."""
        known = {job.id for job in jobs if self.journal.find(job.id, job.former_id) is not None}
        taken = {path_key(job.path) for job in jobs if job.id in known}
        found = []
        for job in jobs:
            path, n = job.path, 2
            while job.id not in known and path_key(path) in taken:
                path = job.path.with_name(f"{job.path.stem}-{n}{job.path.suffix}")
                n += 1
            taken.add(path_key(path))
            found.append(job if path == job.path else replace(job, path=path))
        return found


def _check_kept(jobs: Sequence[Job], sources: Collection[str], gentle: Store) -> None:
    """Raises an error where --force would overwrite a source: another picture, under the name of a new one.

    gentle  the run's store, as it would be without --force
    """
    for job in jobs:
        error = gentle.standing(job).error if _key(job.path) in sources else None
        if error is not None:
            raise RequestError(f"{error.problem} It is also read.", "Name another folder; --force spares sources.")


def _key(path: Path) -> str:
    """Equal for paths of one file, by links too."""
    return path_key(Path(os.path.realpath(path)))


def _filled(piece: Piece, name: str) -> Piece:
    """The piece as text, where it is the picture's name."""
    if piece.field != NAME:
        return piece
    return Piece(piece.text + _clean(format(name, piece.spec), MAX_NAME))


def _clean(name: str, limit: int) -> str:
    """A part of a path, without what no name should have, and at most `limit` bytes long."""
    name = _UNWANTED.sub("-", name)
    while len(os.fsencode(name)) > limit:
        name = name[:-1]
    return "-" if name in ("", ".", "..") else name
