"""Who may read what the scripts write. safetensors creates its files for their owner alone, whatever the umask says."""

from __future__ import annotations

import os
from pathlib import Path


def follow_umask(written: Path) -> None:
    """Gives a .safetensors file, or those of a folder, the permissions that any other new file has."""
    mask = os.umask(0)
    os.umask(mask)
    for path in [written] if written.is_file() else written.glob("*.safetensors"):
        path.chmod(0o666 & ~mask)
