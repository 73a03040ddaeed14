"""What can go wrong, as one tree.

MlxdiffError
├── RequestError           the caller asked for what cannot be rendered (exit code 2; also a ValueError)
├── ModelNotFoundError     no model under this name, folder or cache
├── CheckpointError        the model's files are damaged, incomplete or do not fit its config
├── UnsupportedError       a sound checkpoint or setting that mlxdiff does not implement
├── BackendError           MLX is absent or has no backend for this machine
├── InputError             a picture or latents file that cannot be read
├── OutputError            a file that cannot be written, or that exists already
└── NonFiniteError         NaN or infinity where a picture should be

MlxdiffWarning             something the caller should know, although the work goes on (a UserWarning)

Every error is two sentences: what is wrong, and what to do about it.
"""

from __future__ import annotations

import errno
import re

LONGEST_PROBLEM = 1200  # letters; two paths of a kilobyte would be unusual


class MlxdiffError(Exception):
    """Base of all errors. `problem` says what is wrong, `remedy` what to do; `exit_code` is the shell's."""

    exit_code = 1

    def __init__(self, problem: str, remedy: str):
        problem = shortened(problem)
        super().__init__(f"{problem} {remedy}")
        self.problem = problem
        self.remedy = remedy


def shortened(problem: str) -> str:
    """The sentence without its middle where it is too long to read: values out of hostile files can be megabytes."""
    if len(problem) <= LONGEST_PROBLEM:
        return problem
    end = LONGEST_PROBLEM // 4
    return f"{problem[: LONGEST_PROBLEM - end]}...{problem[-end:]}"


class RequestError(MlxdiffError, ValueError):
    exit_code = 2


class ModelNotFoundError(MlxdiffError):
    pass


class CheckpointError(MlxdiffError):
    pass


class UnsupportedError(MlxdiffError):
    pass


class BackendError(MlxdiffError):
    pass


class InputError(MlxdiffError):
    pass


class OutputError(MlxdiffError):
    pass


class NonFiniteError(MlxdiffError):
    pass


class MlxdiffWarning(UserWarning):
    """Shown once on stderr by the command line; a plain Python warning for importers."""


# MLX on a CPU "Unable to allocate"; Metal "Attempting to allocate" and "Insufficient Memory"; CUDA "out of memory" and
# "cudaErrorMemoryAllocation". An "illegal memory access" is another matter.
_LACK_OF_MEMORY = re.compile(r"alloc|out ?of ?memory|insufficient memory", re.IGNORECASE)


def out_of_memory(n_images: int | None = None) -> BackendError:
    """What to say where memory ran out, while so many images were rendered at once if that is known."""
    during = "" if n_images is None else f" rendering {n_images} image{'s' if n_images > 1 else ''} at once"
    return BackendError(
        f"The memory ran out{during}, and what was computed is lost.",
        "Render fewer or smaller pictures at once (--batch-size, --tile), or close other programs.",
    )


def says_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system, MLX, or the driver behind it say by this error that memory ran out."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    said_by_mlx = isinstance(error, RuntimeError) and _LACK_OF_MEMORY.search(str(error)) is not None
    return said_by_mlx or isinstance(error, MemoryError)
