"""What `mlxdiff info` says of a LoRA's file: for people and as JSON."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mlxdiff.adapters import describe, is_adapter
from mlxdiff.cli.app import main

TAGS = {"1_cat": {"cat": 30, "sitting, outdoors": 4}, "2_dog": {"dog": 12, "sitting, outdoors": 5}, "bad": 3}
METADATA = {
    "ss_base_model_version": "sd_v1",
    "ss_sd_model_name": "v1-5-pruned.safetensors",
    "ss_output_name": "watercolour",
    "modelspec.trigger_phrase": "in \x1b[31mwatercolour\x1b[0m\nstyle",
    "modelspec.author": "None",
    "ss_tag_frequency": json.dumps(TAGS),
    "ss_network_dim": "4",
}


def tensors(rank: int = 4) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    shapes = {
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_up.weight": (8, rank, 1, 1),
        "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": (rank, 8, 1, 1),
        "lora_unet_mid_block_resnets_0_conv1.lora_up.weight": (8, 2, 1, 1),
        "lora_unet_mid_block_resnets_0_conv1.lora_down.weight": (2, 8, 3, 3),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_a": (8, rank),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w1_b": (rank, 8),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w2_a": (8, rank),
        "lora_te_text_model_encoder_layers_0_mlp_fc1.hada_w2_b": (rank, 8),
        "bundle_emb.mytoken.string_to_param.*": (2, 8),
    }
    alphas = {f"{key.partition('.')[0]}.alpha": np.array(1.5, np.float32) for key in shapes if key.startswith("lora")}
    return {key: rng.normal(size=shape).astype(np.float32) for key, shape in shapes.items()} | alphas


@pytest.fixture
def file(tmp_path) -> Path:
    save_file(tensors(), tmp_path / "style.safetensors", METADATA)
    return tmp_path / "style.safetensors"


def test_what_is_said(file):
    said = describe(file)
    assert said == {
        "file": str(file),
        "adapter": ["LoCon", "LoHa", "LoRA"],
        "base": "SD 1.x",
        "rank": [2, 4],
        "alpha": [1.5],
        "layers": {"unet": 2, "text_encoder": 1},
        "title": "watercolour",
        "trained_on": "v1-5-pruned.safetensors",
        "trigger": "in watercolour style",
        "tags": {"cat": 30, "dog": 12, "sitting, outdoors": 9},
        "embeddings": ["mytoken"],
    }


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[" * 100_000, "[1]", '{"a": {"b": "c", "d": true, "e": -3, "f": 1e400}}', '{"a": null}']
)
def test_tags_that_are_none_are_left_out(text, tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", {"ss_tag_frequency": text})
    assert "tags" not in describe(tmp_path / "a.safetensors")


def test_long_texts_are_cut(tmp_path):
    save_file(tensors(), tmp_path / "a.safetensors", {"modelspec.title": "word " * 100_000})
    assert len(describe(tmp_path / "a.safetensors")["title"]) == 303


def run(arguments, capsys) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(arguments)
    return (end.value.code, *capsys.readouterr())


def test_info(file, capsys):
    code, out, err = run(["info", str(file)], capsys)
    assert (code, err) == (0, "")
    rows = dict(re.split(r"  +", line, maxsplit=1) for line in out.splitlines() if re.match(r"\S+  +\S", line))
    assert (rows["adapter"], rows["base"], rows["rank"]) == ("LoCon, LoHa, LoRA", "SD 1.x", "2, 4")
    assert rows["trigger"] == "in watercolour style"
    assert re.search(r"^  cat +30$", out, re.M)
    code, out, err = run(["info", str(file), "--json"], capsys)
    assert (code, err) == (0, "")
    content = file.read_bytes()
    whole = hashlib.sha256(content).hexdigest()
    data = hashlib.sha256(content[8 + int.from_bytes(content[:8], "little") :]).hexdigest()
    hashes = {"sha256": whole, "autov2": whole[:10], "autov3": data[:12]}
    assert json.loads(out) == {**describe(file), **hashes}


def test_info_finds_a_lora_by_its_name(file, capsys, monkeypatch):
    monkeypatch.setenv("MLXDIFF_LORAS", str(file.parent))
    code, out, err = run(["info", "style", "--json"], capsys)
    assert (code, err) == (0, "")
    assert json.loads(out)["file"] == str(file)
    code, out, err = run(["info", "stile"], capsys)
    assert (code, out) == (1, "")
    assert "There is no model 'stile'" in err


def test_info_of_folders_and_damaged_files(tmp_path, capsys):
    save_file(
        {"base_model.model.fc.lora_A.weight": np.ones((2, 4), np.float32),
         "base_model.model.fc.lora_B.weight": np.ones((4, 2), np.float32)},
        tmp_path / "adapter_model.safetensors",
    )  # fmt: skip
    (tmp_path / "adapter_config.json").write_text('{"r": 2, "lora_alpha": 6}')
    code, out, _ = run(["info", str(tmp_path), "--json"], capsys)
    assert code == 0
    assert json.loads(out)["alpha"] == [6]
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(b"nothing")
    assert not is_adapter(bad)
    code, out, err = run(["info", str(bad)], capsys)
    assert (code, out) == (1, "")
    assert "is not a sound safetensors file" in err


def test_a_lora_with_alpha_0_is_refused_by_info_too(tmp_path, capsys):
    arrays = {key: array for key, array in tensors().items() if not key.endswith(".alpha")}
    save_file(
        arrays | {"lora_unet_mid_block_resnets_0_conv1.alpha": np.array(0.0, np.float32)}, tmp_path / "a.safetensors"
    )
    code, out, err = run(["info", str(tmp_path / "a.safetensors")], capsys)
    assert (code, out) == (1, "")
    assert "has an alpha of 0" in err
