"""What a checkpoint says of its defaults is believed only where it can be true."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import mlxdiff
from mlxdiff import StableDiffusion
from mlxdiff.errors import CheckpointError

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"


@pytest.mark.parametrize(
    "value", ["NaN", "Infinity", "-Infinity", "-1", "1e308", "1" * 400, "true", "null", '"25"', "[25]"]
)
@pytest.mark.parametrize("key", ["steps", "guidance_scale", "height"])
def test_a_default_that_is_no_sensible_number_is_refused(tmp_path, key, value):
    folder = shutil.copytree(EMOJI, tmp_path / "model", symlinks=True)
    (folder / "mlxdiff.json").write_text(f'{{"{key}": {value}}}')
    with pytest.raises(CheckpointError, match="It may hold numbers"):
        StableDiffusion(str(folder))
