from __future__ import annotations

from pathlib import Path

import checked_folder
import pytest


@pytest.fixture
def folder(tmp_path) -> Path:
    """out/ with four pictures, one of them in a folder below; each with latents and a trajectory."""
    out = tmp_path / "out"
    checked_folder.write(out, ["a.png", "b.png", "c.jpg", "deep/d.webp"])
    return out
