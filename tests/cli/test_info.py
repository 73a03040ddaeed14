"""`mlxdiff info` of files: a checkpoint in one file is a model, told from latents by what it holds."""

from __future__ import annotations

import json

import ldm_layout
import pytest
from typer.testing import CliRunner

from mlxdiff.checkpoint import single_file
from mlxdiff.cli.app import app


@pytest.fixture
def sd1(tmp_path):
    """The few keys that tell what a file is; `info` reads no weight."""
    keys = {
        single_file.FIRST_CONV: (320, 4, 3, 3),
        "first_stage_model.decoder.conv_in.weight": (512, 4, 3, 3),
        "cond_stage_model.transformer.text_model.final_layer_norm.weight": (768,),
    }
    return ldm_layout.write_sparse(tmp_path / "model.safetensors", keys)


def test_a_checkpoint_in_one_file_is_described_as_a_model(sd1):
    result = CliRunner().invoke(app, ["info", str(sd1), "--json"])
    assert result.exit_code == 0
    said = json.loads(result.stdout)
    assert (said["model"], said["family"], said["size"]) == (str(sd1), "sd", "512x512")
    assert said["prediction_type"] == "epsilon"
