"""Whether what a file or a request asks for fits into memory, before it is allocated."""

from __future__ import annotations

MODEST = 2**28  # bytes that every machine has: below it the memory is not looked up, which would load MLX
SHARE = 0.8  # of the memory that one thing may take


def fits(n_bytes: int) -> bool:
    """Whether so many bytes may be allocated at once."""
    return n_bytes <= MODEST or n_bytes <= SHARE * _memory()


def lack(n_bytes: int) -> str:
    """What an error says where they do not fit: "needs 4.2 GB of memory, and 3.0 GB may be used"."""
    return f"needs {n_bytes / 1e9:.1f} GB of memory, and {SHARE * _memory() / 1e9:.1f} GB may be used"


def _memory() -> int:
    from . import backend

    return backend.memory_size()
