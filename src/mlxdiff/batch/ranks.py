"""Several processes under `mlx.launch` as one run: who they are, what they agree on, and how the batches are dealt.

Where all ranks write to one folder (one machine, or a shared file system) each takes the next batch that is not
claimed, so that a slow rank delays no other, and rank 0 takes over what the others give up. Where each machine has a
folder of its own no rank sees what the others finish, so that batches are dealt in turn.

The ranks talk once, before the first picture. After that none waits for another: one that dies leaves its share for the
next run, and nothing hangs.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from ..errors import BackendError, OutputError
from ..files import output_error

# Set by mlx.launch for its own backends, and by Open MPI and MPICH.
_VARIABLES = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")


@dataclass(frozen=True)
class Ranks:
    """This process among `size`; `shared` says whether all of them see the same output folder."""

    rank: int = 0
    size: int = 1
    shared: bool = True

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def is_ours(self, number: int) -> bool:
        """Whether this rank may render batch `number`."""
        return self.shared or number % self.size == self.rank


@dataclass(frozen=True)
class Agreement:
    """What all ranks must agree on: the first seed, and how many images share a batch."""

    seed: int
    batch_size: int


def rank() -> int | None:
    """This process' rank as its launcher set it, without MLX; None where it was started alone."""
    values = [os.environ[name] for name in _VARIABLES if os.environ.get(name, "").isdecimal()]
    return int(values[0]) if values else None


def join(folder: Path, agreement: Agreement, *, recorded: bool) -> tuple[Ranks, Agreement]:
    """Finds the other ranks and agrees with them; returns at once for a process that was started alone.

    `recorded` says that this comes from a journal: then it holds for all, else rank 0's seed and the smallest batch
    size do. Raises BackendError where the ranks do not find each other.
    """
    if rank() is None:
        return Ranks(), agreement
    import mlx.core as mx

    try:
        group = mx.distributed.init()
        if group.size() == 1:
            return Ranks(), agreement
        token = secrets.randbits(30)
        # A seed is up to 63 bits: three limbs, since not every backend sends 64-bit integers.
        limbs = [agreement.seed >> shift & 0x3FFFFFFF for shift in (0, 30, 60)]
        rows = _gather(mx, [int(recorded), *limbs, agreement.batch_size, token])
        chosen = next((row for row in rows if row[0]), rows[0])
        batch_size = chosen[4] if chosen[0] else min(row[4] for row in rows)
        agreed = Agreement(sum(limb << shift for limb, shift in zip(chosen[1:4], (0, 30, 60), strict=True)), batch_size)
        return Ranks(group.rank(), group.size(), _sees_the_same(mx, folder, group.rank(), rows[0][5])), agreed
    except (RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise BackendError(
            f"The ranks of this run do not reach each other ({reason}).",
            "Check the addresses in the hostfile and the firewalls, or run one process.",
        ) from error


def _sees_the_same(mx, folder: Path, rank: int, token: int) -> bool:
    """Whether a file that rank 0 makes is there for all."""
    path = folder / f".mlxdiff-{token:08x}.shared"
    failure = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if rank == 0:
            path.touch()
    except OSError as error:
        failure = output_error(path, error)
    _gather(mx, [rank])  # nobody looks before it is there
    seen = _gather(mx, [int(failure is None and path.exists())])
    if rank == 0:
        path.unlink(missing_ok=True)
    if failure is not None:
        raise OutputError(failure.problem, failure.remedy)
    return all(row[0] for row in seen)


def _gather(mx, row: list[int]) -> list[list[int]]:
    """Everybody's row of small numbers, by rank."""
    return mx.distributed.all_gather(mx.array([row], dtype=mx.int32)).tolist()
