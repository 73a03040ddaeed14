"""Stored quantized copies give exactly what quantizing on the fly gives, and are checked when they are loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import tiny
from mlx.utils import tree_flatten

import mlxdiff
from mlxdiff import StableDiffusion, hub, quantized
from mlxdiff.errors import CheckpointError, ModelNotFoundError, OutputError, RequestError, UnsupportedError

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji"


def edit(path: Path, **changes) -> None:
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, **changes}))


def render(sd: StableDiffusion) -> np.ndarray:
    *_, last = sd.generate_latents("a red apple", steps=2, seed=3, height=64, width=64)
    return np.array(sd.decode(last))


def weights(sd: StableDiffusion) -> dict[str, np.ndarray]:
    return {path: np.array(array) for path, array in tree_flatten(sd.networks.backbone.network.parameters())}


@pytest.mark.parametrize("bits", [8, 4])
def test_a_copy_of_the_built_in_model_gives_the_same_picture_to_the_bit(bits):
    on_the_fly = StableDiffusion("emoji", quantize=bits)
    expected, arrays = render(on_the_fly), weights(on_the_fly)
    folder = quantized.store("emoji", bits)
    sd = StableDiffusion("emoji", quantize=bits)
    assert sd.checkpoint.folder == folder
    found = weights(sd)
    assert found.keys() == arrays.keys()
    assert all(np.array_equal(found[path], arrays[path]) for path in arrays)
    assert np.array_equal(render(sd), expected)
    assert sd.resolve(mlxdiff.Request(seed=1)).quantize == bits
    assert size(folder / "unet") < {8: 0.85, 4: 0.75}[bits] * size(EMOJI / "unet")


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.filterwarnings("ignore:On a CPU:mlxdiff.errors.MlxdiffWarning")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_copy_of_sdxl_serves_every_dtype(tmp_path, dtype):
    folder = tiny.write(tiny.sdxl, tmp_path / "sdxl")
    shutil.rmtree(folder / "tokenizer_2")
    shutil.copytree(folder / "tokenizer", folder / "tokenizer_2")
    expected = StableDiffusion(str(folder), quantize=4, dtype=dtype).load()
    copy = quantized.store(str(folder), 4)
    for sd in (StableDiffusion(str(folder), quantize=4, dtype=dtype), StableDiffusion(str(copy), dtype=dtype)):
        assert sd.networks.bits == 4
        assert sd.checkpoint.folder == copy
        conditions = [model.encode_prompt("a cat").arrays() for model in (sd, expected)]
        assert all(mx.array_equal(a, b) for a, b in zip(*conditions, strict=True))
        ours, theirs = weights(sd), weights(expected)
        assert all(np.array_equal(ours[path], theirs[path]) for path in ours | theirs)


@pytest.fixture
def model(tmp_path) -> Path:
    """The built-in model in a folder of its own, which a test may change."""
    return Path(shutil.copytree(EMOJI, tmp_path / "model"))


def test_a_second_call_finds_the_copy_and_a_changed_source_makes_a_new_one(model):
    folder = quantized.store(str(model), 8)
    record = folder / quantized.RECORD
    before = record.stat().st_mtime_ns
    assert quantized.store(str(model), 8) == folder
    assert record.stat().st_mtime_ns == before
    os.utime(model / "unet" / "diffusion_pytorch_model.safetensors", ns=(1, 1))
    assert quantized.find(hub.resolve(str(model)), 8) is None
    assert StableDiffusion(str(model), quantize=8).checkpoint.folder == model
    assert quantized.store(str(model), 8) == folder
    assert record.stat().st_mtime_ns != before
    assert [entry.name for entry in folder.parent.iterdir()] == [folder.name]


def test_copies_lists_what_is_there(model):
    assert quantized.copies() == []
    folder = quantized.store(str(model), 4)
    (hub.home() / "quantized" / ".unfinished-1-ab").mkdir()
    (copy,) = quantized.copies()
    assert (copy.path, copy.bits, copy.source, copy.revision) == (folder, 4, str(model), None)
    assert copy.size == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_revision_decides_for_a_model_of_the_hub(model):
    snapshot = hub.Snapshot("owner/name", model, "a" * 40)
    folder = quantized.write_quantized(snapshot, 8, quantized.folder_of(snapshot, 8))
    os.utime(model / "model_index.json", ns=(1, 1))  # fetched again: the same files at another time
    assert quantized.find(snapshot, 8) == folder
    assert quantized.find(hub.Snapshot("owner/name", model, "a" * 12 + "b" * 28), 8) is None


def test_what_is_asked_must_be_what_is_stored(model):
    folder = quantized.store(str(model), 8)
    with pytest.raises(RequestError, match="stored in 8 bits"):
        StableDiffusion(str(folder), quantize=4).load()
    with pytest.raises(RequestError, match="quantized copy already"):
        quantized.store(str(folder), 4)


@pytest.mark.parametrize("bits", [0, 16, 8.0, True, None, "8"])
def test_other_bits_are_refused(bits):
    with pytest.raises(RequestError, match="Choose 8 or 4"):
        quantized.store("emoji", bits)


def test_what_is_no_model_makes_no_copy(tmp_path):
    with pytest.raises(ModelNotFoundError):
        quantized.store(str(tmp_path / "none"), 8)
    assert quantized.copies() == []


def test_a_home_that_is_a_file_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLXDIFF_HOME", str(tmp_path / "file"))
    with pytest.raises(OutputError):
        quantized.store("emoji", 8)


def test_a_kill_in_the_middle_leaves_no_copy(model, monkeypatch):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(quantized, "_take_place", interrupted)
    with pytest.raises(KeyboardInterrupt):
        quantized.store(str(model), 8)
    assert quantized.copies() == []
    assert quantized.find(hub.resolve(str(model)), 8) is None


def layer_lost(folder: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    config["quantization_config"]["layers"].popitem()
    (folder / "unet/config.json").write_text(json.dumps(config))


def layer_added(folder: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    config["quantization_config"]["layers"]["conv_in"] = 64
    (folder / "unet/config.json").write_text(json.dumps(config))


def other_bits(folder: Path) -> None:
    config = json.loads((folder / "unet/config.json").read_text())
    config["quantization_config"]["bits"] = 4
    (folder / "unet/config.json").write_text(json.dumps(config))


def rewrite(folder: Path, change) -> None:
    path = folder / "unet/diffusion_pytorch_model.safetensors"
    arrays = {key: mx.array(np.array(value)) for key, value in mx.load(str(path)).items()}
    change(arrays, next(key for key in sorted(arrays) if key.endswith(".scales")).removesuffix(".scales"))
    mx.save_safetensors(str(path), arrays)
    record = folder / quantized.RECORD
    edit(record, weights={**json.loads(record.read_text())["weights"], str(path.relative_to(folder)): size_of(path)})


def size_of(path: Path) -> int:
    return path.stat().st_size


DAMAGE = {
    "a layer is not listed": layer_lost,
    "a layer too many is listed": layer_added,
    "the bits are others": other_bits,
    "scales are gone": lambda folder: rewrite(folder, lambda arrays, layer: arrays.pop(f"{layer}.scales")),
    "biases are gone": lambda folder: rewrite(folder, lambda arrays, layer: arrays.pop(f"{layer}.biases")),
    "a weight is not packed": lambda folder: rewrite(
        folder, lambda arrays, layer: arrays.update({f"{layer}.weight": arrays[f"{layer}.weight"].astype(mx.float16)})
    ),
    "scales are cut": lambda folder: rewrite(
        folder, lambda arrays, layer: arrays.update({f"{layer}.scales": arrays[f"{layer}.scales"][:1]})
    ),
    "the record is torn": lambda folder: (folder / quantized.RECORD).write_text("{"),
    "the record leads elsewhere": lambda folder: edit(folder / quantized.RECORD, weights={"../../x": 1}),
    "a file is cut": lambda folder: os.truncate(folder / "unet/diffusion_pytorch_model.safetensors", 1000),
    "a file is gone": lambda folder: (folder / "text_encoder/model.safetensors").unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_copy_is_refused(damage):
    folder = quantized.store("emoji", 8)
    damage(folder)
    with pytest.raises((CheckpointError, RequestError)):
        StableDiffusion("emoji", quantize=8).load()


@pytest.mark.parametrize("version", [0, 2, "1", None, True])
def test_another_format_is_refused(version):
    folder = quantized.store("emoji", 8)
    config = json.loads((folder / "unet/config.json").read_text())
    config["quantization_config"]["format"] = version
    (folder / "unet/config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedError, match="not 1"):
        StableDiffusion("emoji", quantize=8).load()
