"""The table of parts beside what diffusers writes, and beside those who read it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import tiny

from mlxdiff.checkpoint.detect import check_parts, parse_model_index
from mlxdiff.checkpoint.rename import TABLES
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.families import base
from mlxdiff.parts import BACKBONE, BY_NAME, PARTS


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_parts_are_what_diffusers_writes(tmp_path, name):
    folder = tiny.write(tiny.PIPELINES[name], tmp_path / name)
    index = json.loads((folder / "model_index.json").read_text())
    written = {key for key, value in index.items() if isinstance(value, list) and any(value)}
    assert written <= set(BY_NAME)
    for part in (BY_NAME[name] for name in written):
        assert not part.classes or index[part.name][1] in part.classes
        assert (folder / part.name / part.config).exists()
        if part.weights is not None:
            assert (folder / part.name / f"{part.weights}.safetensors").exists()


def test_every_row_can_be_loaded():
    assert BY_NAME[BACKBONE].needed
    for part in PARTS:
        assert part.rename in TABLES
        if part.weights is not None:
            assert set(part.classes) <= set(base._NETWORKS)


def model_index(**changes):
    values = {"_class_name": "StableDiffusionPipeline"}
    for part in PARTS:
        if part.needed or part.name in ("text_encoder", "tokenizer"):
            values[part.name] = ["library", part.classes[0] if part.classes else "AnyScheduler"]
    return parse_model_index("model_index.json", values | changes)


def test_a_part_that_is_missing_or_of_another_class_is_named(tmp_path):
    check_parts(model_index(), tmp_path)
    for part in PARTS:
        if part.needed:
            with pytest.raises(CheckpointError, match=f"names no {part.name} "):
                check_parts(model_index(**{part.name: [None, None]}), tmp_path)
    with pytest.raises(UnsupportedError, match=r"The text_encoder of .* is a XLMRobertaModel"):
        check_parts(model_index(text_encoder=["transformers", "XLMRobertaModel"]), tmp_path)
    with pytest.raises(UnsupportedError, match=r"The vae of .* is a ConsistencyDecoderVAE"):
        check_parts(model_index(vae=["diffusers", "ConsistencyDecoderVAE"]), tmp_path)
    check_parts(model_index(vae=["diffusers", "AutoencoderTiny"]), tmp_path)
    check_parts(model_index(scheduler=["diffusers", "SomeNewScheduler"]), tmp_path)


def test_the_table_needs_no_mlx():
    code = "import sys; from mlxdiff import parts; assert 'mlx.core' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
