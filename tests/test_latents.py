"""Saved latents: exact, with their request, and nothing but InputError for what is damaged or foreign."""

from __future__ import annotations

import json
import struct
import time
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from mlxdiff.errors import InputError, OutputError
from mlxdiff.latents import holds_latents, load_latents, read_info, save_latents
from mlxdiff.request import Request
from mlxdiff.trajectory import open_trajectory

REQUEST = Request(prompt=("猫", "dog"), prompt_syntax="a1111", seed=(3, 9), steps=5, model="emoji", revision="abc")


def latents(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 4, 6, 4), (5, 2, 4, 6, 4)])
def test_everything_comes_back_exactly(tmp_path, shape):
    saved = latents(*shape)
    saved.flat[0] = np.nan
    save_latents(tmp_path / "a.safetensors", saved, REQUEST)
    found = load_latents(tmp_path / "a.safetensors")
    assert found.array.dtype == np.float32
    np.testing.assert_array_equal(found.array, saved)
    assert found.request == REQUEST
    assert found.model == "emoji@abc"
    assert found.is_trajectory == (len(shape) == 5)


def test_the_safetensors_package_alone_reads_them(tmp_path):
    save_latents(tmp_path / "a.safetensors", latents(1, 2, 2, 4), REQUEST)
    with safe_open(tmp_path / "a.safetensors", framework="np") as file:
        assert list(file.keys()) == ["latents"]
        assert Request.from_json(file.metadata()["mlxdiff"]) == REQUEST
        assert file.get_tensor("latents").shape == (1, 2, 2, 4)


def test_any_memory_layout_and_precision_is_written_as_fp32(tmp_path):
    turned = latents(1, 4, 3, 2).transpose(0, 3, 2, 1)
    save_latents(tmp_path / "a.safetensors", turned.astype(np.float64), REQUEST)
    np.testing.assert_array_equal(load_latents(tmp_path / "a.safetensors").array, turned)


def test_nothing_is_overwritten_without_force(tmp_path):
    path = tmp_path / "new" / "a.safetensors"
    save_latents(path, latents(1, 2, 2, 4), REQUEST)
    with pytest.raises(OutputError, match="exists already"):
        save_latents(path, latents(1, 2, 2, 4) + 1, REQUEST)
    save_latents(path, latents(1, 2, 2, 4) + 1, REQUEST, force=True)
    np.testing.assert_array_equal(load_latents(path).array, latents(1, 2, 2, 4) + 1)


def test_without_a_model_none_is_named(tmp_path):
    save_latents(tmp_path / "a.safetensors", latents(1, 2, 2, 4), Request(prompt="a"))
    assert load_latents(tmp_path / "a.safetensors").model is None


def test_a_file_of_another_tool_is_read_without_a_request(tmp_path):
    save_file({"latents": latents(1, 2, 2, 4).astype(np.float16)}, tmp_path / "a.safetensors")
    found = load_latents(tmp_path / "a.safetensors")
    assert (found.request, found.model, found.array.dtype) == (None, None, np.float32)


def header(values: dict, body: bytes = b"") -> bytes:
    text = json.dumps(values).encode()
    return struct.pack("<Q", len(text)) + text + body


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "not a sound safetensors"),
        (b"hello, I am a text", "not a sound safetensors"),
        (struct.pack("<Q", 2**60), "not a sound safetensors"),
        (header({"latents": {"dtype": "F32", "shape": [1, 1, 1, 4], "data_offsets": [0, 16]}}), "not a sound"),
        (
            header({"latents": {"dtype": "F32", "shape": [2, 1, 1, 4], "data_offsets": [0, 16]}}, bytes(16)),
            "not a sound",
        ),
        (header({"latents": {"dtype": "F32", "shape": [2**62, 8, 1, 4], "data_offsets": [0, 16]}}), "not a sound"),
        (header({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)), "holds no latents"),
        (header({"latents": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, bytes(16)), "of shape"),
        (header({"latents": {"dtype": "I32", "shape": [1, 1, 1, 4], "data_offsets": [0, 16]}}, bytes(16)), "I32"),
        (header({"latents": {"dtype": "F32", "shape": [0, 1, 1, 4], "data_offsets": [0, 0]}}), "of shape"),
    ],
)
def test_damaged_and_foreign_files(tmp_path, content, words):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=words):
        load_latents(tmp_path / "a.safetensors")


@settings(deadline=None)
@given(st.integers(0, 400))
def test_a_file_cut_anywhere(tmp_path_factory, length):
    folder = tmp_path_factory.getbasetemp()
    save_latents(folder / "whole.safetensors", latents(1, 4, 4, 4), REQUEST, force=True)
    (folder / "cut.safetensors").write_bytes((folder / "whole.safetensors").read_bytes()[:length])
    with pytest.raises(InputError, match="Get the file again"):
        load_latents(folder / "cut.safetensors")


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": "many"}', '{"prompt":"' + "x" * 2**20 + '"}'])
def test_a_damaged_request(tmp_path, text):
    save_file({"latents": latents(1, 2, 2, 4)}, tmp_path / "a.safetensors", {"mlxdiff": text})
    with pytest.raises(InputError, match="The request in"):
        load_latents(tmp_path / "a.safetensors")


def test_no_file(tmp_path):
    for path, words in ((tmp_path / "missing.safetensors", "There is no file"), (tmp_path, "is a folder")):
        with pytest.raises(InputError, match=words):
            load_latents(path)


def test_latents_are_told_from_other_safetensors_by_their_key(tmp_path):
    save_latents(tmp_path / "it.safetensors", latents(1, 2, 2, 4), REQUEST)
    save_file({"weight": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"latents")
    assert [holds_latents(tmp_path / f"{name}.safetensors") for name in ("it", "other", "damaged", "none")] == [
        True,
        False,
        False,
        False,
    ]


def sparse(path, shape: list[int]):
    """Latents of that shape that take no room on disk."""
    size = 4 * int(np.prod(shape))
    with path.open("wb") as stream:
        stream.write(header({"latents": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}))
        stream.truncate(stream.tell() + size)
    return path


def test_the_header_says_what_is_in_a_file_of_any_size(tmp_path):
    path = sparse(tmp_path / "a.safetensors", [400, 512, 512, 4])
    tracemalloc.start()
    assert holds_latents(path)
    assert read_info(path).shape == (400, 512, 512, 4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**20
    save_latents(tmp_path / "b.safetensors", latents(1, 2, 2, 4), REQUEST)
    found, loaded = read_info(tmp_path / "b.safetensors"), load_latents(tmp_path / "b.safetensors")
    assert (found.shape, found.request, found.model) == (loaded.array.shape, loaded.request, loaded.model)


def test_latents_that_do_not_fit_into_memory_are_refused_before_they_are_read(tmp_path, monkeypatch):
    path = sparse(tmp_path / "a.safetensors", [400, 512, 512, 4])
    monkeypatch.setenv("MLXDIFF_MEMORY", "1")
    with pytest.raises(InputError, match=r"needs 3.4 GB of memory, and 0.8 GB may be used"):
        load_latents(path)
    trajectory = sparse(tmp_path / "b.safetensors", [2, 100, 512, 512, 4])
    with pytest.raises(InputError, match=r"A step in .* needs 1.3 GB"), open_trajectory(trajectory):
        pass


def test_a_header_of_many_megabytes_is_refused_unread(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {f"x{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(80_000)}
    path.write_bytes(header(tensors))
    start = time.process_time()
    assert not holds_latents(path)
    with pytest.raises(InputError, match="a header of"):
        load_latents(path)
    assert time.process_time() - start < 0.5
