"""Textual inversion files of every layout, and those that are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from mlxdiff.checkpoint.inversion import CLIP_G, CLIP_L, ONE, read_inversion, vectors_for
from mlxdiff.errors import CheckpointError, RequestError, UnsupportedError


def rows(n: int, width: int = 768) -> np.ndarray:
    return np.random.default_rng(width + n).normal(size=(n, width)).astype(np.float32)


LAYOUTS = {
    "A1111": {"emb_params": rows(3)},
    "one vector": {"emb_params": rows(1)[0]},
    "string_to_param": {"string_to_param.*": rows(2), "step": np.array([5.0], np.float32)},
    "diffusers": {"<cat-toy>": rows(4)},
    "with integers": {"*": rows(2), "string_to_token": np.array(265)},
    "SDXL": {CLIP_L: rows(2), CLIP_G: rows(2, 1280)},
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layouts(tmp_path, name):
    path = tmp_path / "style.safetensors"
    tensors = LAYOUTS[name]
    save_file(tensors, path)
    found = read_inversion(path)
    assert found.name == "style"
    assert found.token == ("<cat-toy>" if name == "diffusers" else None)
    if name == "SDXL":
        left, right = vectors_for(found, [768, 1280])
        assert np.array_equal(np.array(left), tensors[CLIP_L])
        assert np.array_equal(np.array(right), tensors[CLIP_G])
    else:
        (only,) = vectors_for(found, [768])
        expected = np.atleast_2d(next(value for value in tensors.values() if value.shape[-1:] == (768,)))
        assert np.array_equal(np.array(only), expected)
        assert found.count == len(expected)
    assert set(found.vectors) == ({CLIP_L, CLIP_G} if name == "SDXL" else {ONE})


def test_a_name_can_be_given(tmp_path):
    save_file(LAYOUTS["A1111"], tmp_path / "a.safetensors")
    assert read_inversion(tmp_path / "a.safetensors", "cat").name == "cat"


@pytest.mark.parametrize(
    ("tensors", "widths"),
    [
        ({"emb_params": rows(2)}, [1024]),
        ({"emb_params": rows(2)}, [768, 1280]),
        ({CLIP_L: rows(2), CLIP_G: rows(2, 1280)}, [768]),
        ({CLIP_L: rows(2), CLIP_G: rows(2, 1280)}, [1280]),
        ({CLIP_L: rows(2), CLIP_G: rows(2, 1280)}, [768, 1024]),
    ],
)
def test_another_models_file_is_refused(tmp_path, tensors, widths):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(RequestError, match="is of another kind of model: its vectors have"):
        vectors_for(read_inversion(tmp_path / "a.safetensors"), widths)


@pytest.mark.parametrize("ending", ["pt", "bin", "safetensors"])
def test_a_pickle_is_refused_in_words(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    torch.save({"string_to_param": {"*": torch.zeros(2, 768)}}, path)
    with pytest.raises(UnsupportedError, match="pickle") as caught:
        read_inversion(path)
    assert "safetensors" in caught.value.remedy


@pytest.mark.parametrize(
    "tensors",
    [
        {"a": rows(2), "b": rows(2)},
        {"a": np.zeros((2, 3, 768), np.float32)},
        {"a": np.zeros((0, 768), np.float32)},
        {"a": np.zeros((2, 768), np.int64)},
        {CLIP_L: rows(2), CLIP_G: rows(3, 1280)},
    ],
)
def test_a_file_of_something_else_is_refused(tmp_path, tensors):
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        read_inversion(tmp_path / "a.safetensors")


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError):
        read_inversion(tmp_path / "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"nothing")
    with pytest.raises(CheckpointError):
        read_inversion(tmp_path / "b.safetensors")
