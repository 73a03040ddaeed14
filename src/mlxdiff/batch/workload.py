"""The batches of a run, their store, and how the run ends for the next process."""

from __future__ import annotations

from collections.abc import Iterable, Set
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import MlxdiffError
from ..files import remove_parts
from ..request import Model
from . import claims
from .contact import ContactSheet
from .events import Policy
from .jobs import Batch, Job
from .options import RunOptions
from .ranks import Ranks
from .store import Standing, Store
from .unfinished import Unfinished


@dataclass
class Work:
    """The batches of a run and their store.

    n_images    None where it is unknown, as for a stream
    unrecorded  pictures that were found, of which the journal has no line
    needs       the model to load before the first picture; None where nothing is left to do
    at_once     whether an interrupt ends the run at once: what is at hand is all there is
    unfinished  what has to be completed, or left to the next process
    sheet       what is made of all pictures
    temporary   whether the pictures only lie there until they are sent elsewhere
    begun_before  whether the journal of a prompt file has this run
    cells       what else JSON says of a path: its place in a sweep's sheet, or the picture that it was made from
    left        ids of the jobs that are missing
    refused     pictures that were to be rendered again, and why they cannot be
    """

    batches: Iterable[Batch | None]
    store: Store
    n_images: int | None
    needs: Model | None
    batch_size: int = 1
    unrecorded: list[tuple[Job, Standing]] = field(default_factory=list)
    at_once: bool = False
    unfinished: Unfinished | None = None
    sheet: ContactSheet | None = None
    temporary: bool = False
    begun_before: bool = False
    cells: dict[Path, dict[str, Any]] = field(default_factory=dict)
    left: Set[str] = frozenset()
    refused: list[tuple[Path, MlxdiffError]] = field(default_factory=list)
    ranks: Ranks = field(default_factory=Ranks)
    folders: set[Path] = field(default_factory=set)

    @property
    def is_hidden(self) -> bool:
        """Whether the pictures are not the user's yet: cells of a sheet, or one that goes to standard output."""
        return self.temporary or (self.unfinished is not None and self.unfinished.holds_pictures)

    @property
    def jobs(self) -> list[Job]:
        """Of a list that is complete; a stream has none yet."""
        known = self.batches if isinstance(self.batches, list) else []
        return [job for batch in known if batch is not None for job in batch.jobs]

    @property
    def is_begun(self) -> bool:
        """Whether an earlier process has begun it, and so drawn its seed."""
        return self.begun_before or (self.unfinished is not None and self.unfinished.run is not None)

    def policy(self, options: RunOptions) -> Policy:
        return Policy(
            decode_batch_size=options.decode_batch_size,
            tile=options.tile,
            retries=options.retries,
            fail_fast=options.fail_fast,
            limit=options.limit,
            until=options.until,
            min_battery=options.min_battery,
            max_temperature=options.max_temperature,
            is_ours=self.ranks.is_ours,
            waits=self.ranks.is_first,
        )

    def close(self, *, complete: bool) -> None:
        """Removes what only an unfinished run needs, or gives it up for the next process."""
        with suppress(OSError):  # the pictures are written, or said to have failed
            if self.store.shared:
                claims.sweep(self.store.folder)
            if self.unfinished is not None:
                self.unfinished.complete() if complete else self.unfinished.release()

    def clean(self) -> None:
        """Removes what this process is writing, before it ends without unwinding."""
        for folder in self.folders:
            remove_parts(folder, ours=True)
