"""Safetensors headers: those the real writers make, those that lie, and a few hundred mutations of a sound one."""

from __future__ import annotations

import json
import os
import pickle
import random
import struct
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from mlxdiff.checkpoint.detect import read_json
from mlxdiff.checkpoint.header import Header, TensorInfo, read_header
from mlxdiff.checkpoint.load import map_tensors
from mlxdiff.errors import CheckpointError, MlxdiffError, UnsupportedError

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def write(path: Path, header: object, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def read_tensors(path: Path) -> dict[str, mx.array]:
    """The arrays as a loader gets them."""
    read_header(path)
    return map_tensors(path)


@pytest.fixture
def sound(tmp_path) -> Path:
    path = tmp_path / "model.safetensors"
    torch.manual_seed(0)
    tensors = {
        "conv.weight": torch.randn(4, 3, 3, 3, dtype=torch.float16),
        "linear.weight": torch.randn(5, 4, dtype=torch.bfloat16),
        "linear.bias": torch.randn(5),
        "position_ids": torch.arange(6).reshape(1, 6),
    }
    save_file(tensors, path, metadata={"format": "pt"})
    return path


def test_a_written_file_is_described(sound):
    header = read_header(sound)
    assert header == Header(
        tensors={
            "conv.weight": TensorInfo("F16", (4, 3, 3, 3)),
            "linear.weight": TensorInfo("BF16", (5, 4)),
            "linear.bias": TensorInfo("F32", (5,)),
            "position_ids": TensorInfo("I64", (1, 6)),
        },
        metadata={"format": "pt"},
    )


def test_arrays_are_what_was_written(sound):
    torch.manual_seed(0)
    expected = torch.randn(4, 3, 3, 3, dtype=torch.float16).numpy()
    tensors = read_tensors(sound)
    np.testing.assert_array_equal(np.array(tensors["conv.weight"]), expected)
    assert tensors["linear.weight"].dtype == mx.bfloat16
    assert tensors["position_ids"].tolist() == [[0, 1, 2, 3, 4, 5]]


def test_a_file_without_tensors_is_sound(tmp_path):
    assert read_header(write(tmp_path / "x.safetensors", {})) == Header({}, {})


LIES = {
    "offsets past the end": ({"a": {**A, "data_offsets": [0, 80]}}, b"\0" * 8),
    "offsets backwards": ({"a": {**A, "data_offsets": [8, 0]}}, b"\0" * 8),
    "negative offsets": ({"a": {**A, "data_offsets": [-8, 0]}}, b"\0" * 8),
    "offsets that overflow": ({"a": {**A, "data_offsets": [2**64 - 8, 2**64]}}, b"\0" * 8),
    "shape that overflows": ({"a": {**A, "shape": [2**62, 8]}}, b"\0" * 8),
    "shape larger than its data": ({"a": {**A, "shape": [3]}}, b"\0" * 8),
    "negative shape": ({"a": {**A, "shape": [-2]}}, b"\0" * 8),
    "fractional shape": ({"a": {**A, "shape": [2.0]}}, b"\0" * 8),
    "impossible empty shape": ({"a": {**A, "shape": [2**40, 0], "data_offsets": [0, 0]}}, b""),
    "a gap": ({"a": A, "b": {"dtype": "F32", "shape": [1], "data_offsets": [12, 16]}}, b"\0" * 16),
    "an overlap": ({"a": A, "b": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}, b"\0" * 8),
    "data left over": ({"a": A}, b"\0" * 12),
    "data cut short": ({"a": A}, b"\0" * 7),
    "an unknown dtype": ({"a": {**A, "dtype": "F33"}}, b"\0" * 8),
    "no dtype": ({"a": {"shape": [2], "data_offsets": [0, 8]}}, b"\0" * 8),
    "an entry that is none": ({"a": 7}, b""),
    "a list": ([1], b""),
    "metadata that is no text": ({"__metadata__": {"a": 1}, "a": A}, b"\0" * 8),
    "a duplicated key": (f'{{"a":{json.dumps(A)},"a":{json.dumps(A)}}}'.encode(), b"\0" * 8),
    "a key duplicated by an escape": (f'{{"a":{json.dumps(A)},"\\u0061":{json.dumps(A)}}}'.encode(), b"\0" * 8),
    "a duplicated field": (b'{"a":{"dtype":"F32","dtype":"F32","shape":[2],"data_offsets":[0,8]}}', b"\0" * 8),
    "not UTF-8": (b'{"\xff":' + json.dumps(A).encode() + b"}", b"\0" * 8),
    "half a character": (b'{"\\ud800":' + json.dumps(A).encode() + b"}", b"\0" * 8),
    "not JSON": (b"once upon a time", b"\0" * 8),
    "NaN": (b'{"a":NaN}', b""),
    "nested deeply": (b'{"a":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b""),
    "a huge number": (b'{"a":' + b"9" * 10_000 + b"}", b""),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_a_checkpoint_error(tmp_path, lie):
    path = write(tmp_path / "bad.safetensors", *LIES[lie])
    with pytest.raises(CheckpointError) as caught:
        read_tensors(path)
    assert str(path) in caught.value.problem
    assert len(str(caught.value)) < len(str(path)) + 400


@pytest.mark.parametrize(
    "content",
    [b"", b"\x10", b"\x10" + b"\0" * 7, b"\xff" * 100, struct.pack("<Q", 10**8 + 1) + b"{}"],
    ids=["empty", "one byte", "no header", "ones", "long header"],
)
def test_what_is_no_safetensors_file_is_a_checkpoint_error(tmp_path, content):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"bad\.safetensors is not a sound"):
        read_tensors(path)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_under_another_name_is_refused_unopened(tmp_path, zipped):
    path = tmp_path / "model.safetensors"
    torch.save({"weight": torch.zeros(64)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(UnsupportedError, match="is a pickle under another name") as caught:
        read_tensors(path)
    assert "safe_serialization" in caught.value.remedy


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_any_binary_protocol_is_refused_unopened(tmp_path, protocol):
    path = tmp_path / "model.safetensors"
    path.write_bytes(pickle.dumps({"weight": list(range(1000))}, protocol=protocol))
    with pytest.raises(UnsupportedError, match="is a pickle under another name"):
        read_tensors(path)


def test_a_damaged_file_whose_length_looks_like_a_pickle_is_a_checkpoint_error(tmp_path):
    path = tmp_path / "bad.safetensors"
    path.write_bytes(struct.pack("<Q", 0x0280) + b"{" * 0x0280)
    with pytest.raises(CheckpointError, match="is not a sound"):
        read_tensors(path)


@pytest.mark.parametrize("keep", [4, 8, 50, -1, -100])
def test_a_truncated_file_is_a_checkpoint_error(sound, keep):
    sound.write_bytes(sound.read_bytes()[:keep])
    with pytest.raises(CheckpointError):
        read_tensors(sound)


@pytest.mark.parametrize("make", [lambda _: None, Path.mkdir], ids=["missing", "folder"])
def test_what_cannot_be_opened_is_a_checkpoint_error(tmp_path, make):
    make(tmp_path / "bad.safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tensors(tmp_path / "bad.safetensors")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 134\n", "a Git LFS pointer"),
        (b"<!DOCTYPE html>\n<html><body>Sign in</body></html>", r"a web page \(HTML\)"),
        (b"\n  <html lang='en'>" + b" " * 600, r"a web page \(HTML\)"),
        (b'{"error": "Repository not found"}', "JSON"),
        (b'{\n  "error": "Access to model x is restricted"\n}', "JSON"),
        (b"Access to model acme/x is restricted and you are not in the authorized list.", "a server's error message"),
        (b"Entry not found", "a server's error message"),
    ],
)
def test_what_was_saved_in_a_models_place_is_named(tmp_path, content, what):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=f"is {what}.*, not safetensors. Download the file itself"):
        read_header(path)
    if not content.lstrip().startswith(b"{"):
        path.with_suffix(".json").write_bytes(content)
        with pytest.raises(CheckpointError, match="JSON"):
            read_json(path.with_suffix(".json"))


def test_more_tensors_than_any_model_has_are_refused_before_they_are_read(tmp_path):
    entries = {f"t.{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(20_001)}
    with pytest.raises(CheckpointError, match="lists more than 20000 tensors"):
        read_header(write(tmp_path / "many.safetensors", entries))
    sound = write(tmp_path / "fewer.safetensors", dict(list(entries.items())[:20_000]))
    assert len(read_header(sound).tensors) == 20_000


def test_a_header_larger_than_any_models_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"would be \d+ bytes long; up to 16777216 are read"):
        read_header(write(tmp_path / "x.safetensors", {"__metadata__": {"comment": "x" * 2**24}}))


def mutations(content: bytes, count: int):
    """Changed copies of a file: bits and bytes in its length and header, numbers in its header, cuts, and growth."""
    rng = random.Random(0)
    (length,) = struct.unpack("<Q", content[:8])
    for _ in range(count):
        changed = bytearray(content)
        for _ in range(rng.choice((1, 1, 1, 2, 8))):
            kind = rng.randrange(7)
            place = rng.randrange(min(8 + length, len(changed)))
            if kind == 0:
                changed[place] ^= 1 << rng.randrange(8)
            elif kind == 1:
                changed[place] = rng.choice(b'0123456789[]{}",:-.eE\\ \0\xff')
            elif kind == 2:
                changed[:8] = struct.pack(
                    "<Q", rng.choice((0, 1, length - 1, length + 1, len(content), 2**63, 2**64 - 1))
                )
            elif kind == 3:
                del changed[rng.randrange(9, len(changed)) :]
            elif kind == 4:
                changed += rng.randbytes(rng.randrange(1, 20))
            elif kind == 5:  # a digit becomes another: headers that still parse
                digits = [i for i in range(8, min(8 + length, len(changed))) if changed[i : i + 1].isdigit()]
                if digits:
                    changed[rng.choice(digits)] = rng.choice(b"0123456789")
            else:
                del changed[place]
            if len(changed) < 10:
                break
        yield bytes(changed)


def test_mutated_files_load_or_raise_but_never_crash(sound, tmp_path):
    content = sound.read_bytes()
    path = tmp_path / "mutated.safetensors"
    loaded = refused = 0
    for changed in mutations(content, 600):
        path.unlink(missing_ok=True)  # MLX may still read the one before
        path.write_bytes(changed)
        try:
            tensors = read_tensors(path)
        except MlxdiffError:
            refused += 1
            continue
        loaded += 1
        mx.eval(tensors)
        assert {name: info.shape for name, info in read_header(path).tensors.items()} == {
            name: tuple(array.shape) for name, array in tensors.items()
        }
    assert loaded > 5
    assert refused > 300


def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="no regular file"):
        read_header(tmp_path / "model.safetensors")
