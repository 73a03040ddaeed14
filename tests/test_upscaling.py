"""Pictures enlarged, beside the papers' networks in torch: as a whole and in tiles, from files in every layout."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
import torch_upscalers as papers
from safetensors.numpy import save_file
from skimage import data
from torch_upscalers import OldRRDBNet, RRDBNet, SRVGGNetCompact, seeded

from mlxdiff import backend, upscaling
from mlxdiff.errors import CheckpointError, InputError, RequestError, UnsupportedError
from mlxdiff.models.upscaler import pack
from mlxdiff.upscaling import factor_of, load, upscale

NETWORKS = {
    "rrdb_x1_packed": (RRDBNet, {"packed": 4}, 1),
    "rrdb_x2_packed": (RRDBNet, {"packed": 2}, 2),
    "rrdb_x4": (RRDBNet, {}, 4),
    "rrdb_x8": (RRDBNet, {"doublings": 3, "blocks": 1}, 8),
    "rrdb_x1_old": (OldRRDBNet, {"doublings": 0}, 1),
    "rrdb_x2_old": (OldRRDBNet, {"doublings": 1}, 2),
    "rrdb_x4_old": (OldRRDBNet, {}, 4),
    "rrdb_x8_old": (OldRRDBNet, {"doublings": 3, "blocks": 1}, 8),
    "compact_x1": (SRVGGNetCompact, {"factor": 1}, 1),
    "compact_x2": (SRVGGNetCompact, {"factor": 2, "convs": 4}, 2),
    "compact_x3": (SRVGGNetCompact, {"factor": 3}, 3),
    "compact_x4": (SRVGGNetCompact, {}, 4),
    "compact_x4_relu": (SRVGGNetCompact, {"prelu": False}, 4),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name -> the torch network and its file."""
    folder, found = tmp_path_factory.mktemp("upscalers"), {}

    def of(name: str):
        if name not in found:
            make, options, _ = NETWORKS[name]
            network = seeded(make, **options)
            found[name] = network, papers.write(network, folder / f"{name}.safetensors")
        return found[name]

    return of


def photo(height: int = 24, width: int = 32) -> np.ndarray:
    return np.ascontiguousarray(data.astronaut()[60 : 60 + height, 200 : 200 + width])


def by_torch(network, pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) floats of the whole picture."""
    x = torch.from_numpy(pixels.astype(np.float32) / 255).permute(2, 0, 1)[None]
    with torch.no_grad():
        return network(x)[0].permute(1, 2, 0).numpy()


def as_bytes(floats: np.ndarray) -> np.ndarray:
    return (np.clip(floats, 0, 1) * 255).round().astype(np.uint8)


def differ(ours: np.ndarray, theirs: np.ndarray) -> int:
    assert ours.shape == theirs.shape
    assert ours.dtype == theirs.dtype == np.uint8
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_equal_the_papers(name, made):
    network, path = made(name)
    assert factor_of(path) == NETWORKS[name][2]
    pixels = photo()
    expected = by_torch(network, pixels)
    ours = load(path, "fp32")
    cells = pack(mx.array(pixels.astype(np.float32) / 255)[None], ours.config.packed)
    *_, features = ours.body_steps(cells)
    found = np.array(ours.head(features, cells))[0]
    assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-5
    large = upscale(path, pixels, dtype="fp32")
    assert large.shape == (24 * factor_of(path), 32 * factor_of(path), 3)
    assert differ(large, as_bytes(expected)) <= 1  # a number that lies between two levels
    assert (large != as_bytes(expected)).mean() < 1e-3


def test_a_network_that_adds_nothing_repeats_pixels(tmp_path):
    network = seeded(SRVGGNetCompact, factor=3)
    for parameter in network.body[-1].parameters():
        parameter.data[:] = 0
    path = papers.write(network, tmp_path / "nothing.safetensors")
    pixels = np.ascontiguousarray(data.astronaut()[:50, :70])
    np.testing.assert_array_equal(upscale(path, pixels, dtype="fp32"), np.kron(pixels, np.ones((3, 3, 1), np.uint8)))


@pytest.mark.parametrize("name", ["rrdb_x4", "rrdb_x2_packed", "rrdb_x1_packed", "rrdb_x8", "compact_x4", "compact_x3"])
@pytest.mark.parametrize("size", [(60, 76), (100, 18)], ids=str)
def test_tiles_that_see_all_they_depend_on_change_nothing(name, size, made, monkeypatch):
    _, path = made(name)
    pixels = photo(*size)
    whole = upscale(path, pixels, dtype="fp32")
    config = load(path, "fp32").config
    assert config.reach <= upscaling.OVERLAP
    tiles = []
    monkeypatch.setattr(upscaling, "_add", lambda *given, add=upscaling._add: (tiles.append(given[3:5]), add(*given)))
    tiled = upscale(path, pixels, dtype="fp32", tile=16)
    assert len(tiles) > 4
    assert differ(tiled, whole) <= 1
    assert (tiled != whole).mean() < 1e-3


def test_the_reach_is_no_longer_than_needed(made):
    """With one cell less around them, tiles are other than the whole."""
    network, path = made("compact_x4")
    pixels = photo(60, 60)
    expected = by_torch(network, pixels)
    config = load(path, "fp32").config
    assert config.reach == 4  # convolutions before the last
    large = np.zeros((240, 240, 3), np.float32)
    for row in upscaling._pieces(60, 20, 0, 5):
        for column in upscaling._pieces(60, 20, 0, 5):
            upscaling._add(large, load(path, "fp32"), pixels, row, column, 0)
    assert np.abs(large - expected).max() < 1e-5
    large[:] = 0
    for row in upscaling._pieces(60, 20, 0, 3):
        for column in upscaling._pieces(60, 20, 0, 3):
            upscaling._add(large, load(path, "fp32"), pixels, row, column, 0)
    assert np.abs(large - expected).max() > 1e-4


@pytest.mark.parametrize("size", [(80, 50), (13, 90), (80, 90)], ids=str)
def test_tiles_that_see_less_are_blended(size, made, monkeypatch):
    """Against the whole the difference is small, and no larger at the tiles' edges than elsewhere."""
    _, path = made("rrdb_x4")
    pixels = photo(*size)
    whole = upscale(path, pixels, dtype="fp32").astype(int)
    monkeypatch.setattr(upscaling, "OVERLAP", 16)
    assert load(path, "fp32").config.reach > 16
    tiled = upscale(path, pixels, dtype="fp32", tile=24).astype(int)
    assert tiled.shape == whole.shape
    assert np.abs(tiled - whole).max() <= 2
    steps = [np.abs(np.diff(tiled - whole, axis=axis)).max() for axis in (0, 1)]
    assert max(steps) <= 2


def test_weights_of_tiles_add_up_to_one():
    for length, tile, blend in [(100, 30, 8), (64, 16, 8), (31, 16, 8), (7, 16, 8), (33, 33, 0)]:
        total = np.zeros(length * 4, np.float32)
        for piece in upscaling._pieces(length, tile, blend, 16):
            first, last = piece.inner
            total[first * 4 : last * 4] += upscaling._weights(piece.inner, 4, blend, length * 4)
        np.testing.assert_allclose(total, 1, atol=1e-6)


@pytest.mark.parametrize("size", [(1, 1), (5, 7), (3, 16)], ids=str)
@pytest.mark.parametrize("name", ["rrdb_x1_packed", "rrdb_x2_packed", "compact_x4"])
def test_any_size(size, name, made):
    """Sides that a cell does not divide are filled up by reflection, and cut again."""
    network, path = made(name)
    pixels = photo(*size)
    packed = NETWORKS[name][1].get("packed", 1)
    padded = np.pad(pixels, [(0, -size[0] % packed), (0, -size[1] % packed), (0, 0)], mode="reflect")
    factor = factor_of(path)
    expected = as_bytes(by_torch(network, padded))[: size[0] * factor, : size[1] * factor]
    assert differ(upscale(path, pixels, dtype="fp32"), expected) <= 1


def test_the_names_of_2019_and_prefixes(made, tmp_path):
    network, path = made("rrdb_x4")
    expected = upscale(path, photo(), dtype="fp32")
    second = papers.as_of_2019(network.state_dict())
    assert {"RRDB_trunk.0.RDB1.conv1.weight", "trunk_conv.bias", "upconv1.weight", "HRconv.weight"} <= second.keys()
    for prefix in ("", "params."):
        save_file({f"{prefix}{key}": value.numpy() for key, value in second.items()}, tmp_path / "second.safetensors")
        np.testing.assert_array_equal(upscale(tmp_path / "second.safetensors", photo(), dtype="fp32"), expected)
    running = papers.write(network, tmp_path / "ema.safetensors", prefix="params_ema.")
    np.testing.assert_array_equal(upscale(running, photo(), dtype="fp32"), expected)
    both = {f"params_ema.{key}": value.numpy() for key, value in network.state_dict().items()}
    both |= {f"params.{key}": np.zeros_like(value.numpy()) for key, value in network.state_dict().items()}
    save_file(both, tmp_path / "both.safetensors")
    np.testing.assert_array_equal(upscale(tmp_path / "both.safetensors", photo(), dtype="fp32"), expected)


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_stored_types(stored, made, tmp_path):
    network, _ = made("compact_x4")
    path = papers.write(network, tmp_path / "half.safetensors", dtype=stored)
    again = seeded(SRVGGNetCompact).to(stored).float()
    assert differ(upscale(path, photo(), dtype="fp32"), as_bytes(by_torch(again, photo()))) <= 1


def test_half_precision(made):
    network, path = made("rrdb_x2_packed")
    half = upscale(path, photo(), dtype="fp16")
    assert load(path, "fp16").dtype == mx.float16
    assert differ(half, as_bytes(by_torch(network, photo()))) <= 3
    assert load(path, "bf16").dtype == mx.float32


def test_memory_decides_the_tile(made, monkeypatch):
    _, path = made("compact_x4")
    pixels = photo(100, 100)
    whole = upscale(path, pixels, dtype="fp32")
    monkeypatch.setattr(backend, "memory_size", lambda: 4_000_000)
    tiles = []
    monkeypatch.setattr(upscaling, "_add", lambda *given, add=upscaling._add: (tiles.append(given[3:5]), add(*given)))
    assert differ(upscale(path, pixels, dtype="fp32"), whole) <= 1
    assert len(tiles) > 1
    with pytest.raises(RequestError):
        upscale(path, photo(400, 300), dtype="fp32")


def test_the_callers_randomness_stays(made):
    _, path = made("compact_x2")
    upscaling._loaded.cache_clear()
    mx.random.seed(5)
    expected = mx.random.normal((3,)).tolist()
    mx.random.seed(5)
    upscale(path, photo(), dtype="fp32")
    assert mx.random.normal((3,)).tolist() == expected


def test_a_file_that_changed_is_read_again(made, tmp_path):
    network, _ = made("compact_x2")
    path = papers.write(network, tmp_path / "own.safetensors")
    before = upscale(path, photo(), dtype="fp32")
    with torch.no_grad():
        other = seeded(SRVGGNetCompact, factor=3)
    path.unlink()
    papers.write(other, path)
    assert upscale(path, photo(), dtype="fp32").shape != before.shape


def test_other_pixels_are_refused(made):
    _, path = made("compact_x2")
    for wrong in (photo().astype(np.float32), photo()[..., 0], photo()[..., :2], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(InputError):
            upscale(path, wrong)
    for tile in (0, -3, True, 1.5):
        with pytest.raises(RequestError):
            upscale(path, photo(), tile=tile)  # type: ignore[arg-type]


def broken(name: str, state: dict) -> dict:
    if name == "a weight is missing":
        state.pop("body.1.rdb2.conv3.bias")
    elif name == "a block is missing":
        state = {key: value for key, value in state.items() if not key.startswith("body.0.")}
    elif name == "a weight too many":
        state["body.0.rdb1.conv1x1.weight"] = np.zeros((4, 8, 1, 1), np.float32)
    elif name == "misshapen":
        state["body.1.rdb1.conv1.weight"] = np.zeros((4, 9, 3, 3), np.float32)
    elif name == "NaN":
        state["conv_hr.bias"] = np.full_like(state["conv_hr.bias"], np.nan)
    elif name == "integers":
        state["conv_hr.weight"] = np.zeros(state["conv_hr.weight"].shape, np.int8)
    elif name == "huge":
        state |= {f"conv_up{i}.weight": state["conv_up1.weight"] for i in range(3, 30)}
    elif name == "flat":
        state["conv_first.weight"] = np.zeros((8, 3), np.float32)
    return state


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("a weight is missing", CheckpointError),
        ("a block is missing", CheckpointError),
        ("a weight too many", CheckpointError),
        ("misshapen", CheckpointError),
        ("NaN", CheckpointError),
        ("integers", CheckpointError),
        ("huge", UnsupportedError),
        ("flat", CheckpointError),
    ],
)
def test_damaged_files(name, error, made, tmp_path):
    network, _ = made("rrdb_x4")
    state = {key: value.numpy().copy() for key, value in network.state_dict().items()}
    path = tmp_path / "broken.safetensors"
    save_file(broken(name, state), path)
    with pytest.raises(error):
        upscale(path, photo(), dtype="fp32")


@pytest.mark.parametrize("channels", [1, 4])
def test_other_colours_are_refused(channels, tmp_path):
    network = seeded(SRVGGNetCompact)
    network.body[0] = papers.conv(channels, 8)
    path = papers.write(network, tmp_path / "gray.safetensors")
    with pytest.raises(UnsupportedError) as caught:
        factor_of(path)
    assert ("gray" if channels == 1 else "4 channels") in caught.value.problem


def test_what_is_no_upscaler(tmp_path):
    save_file({"a.lora_up.weight": np.zeros((4, 4), np.float32)}, tmp_path / "lora.safetensors")
    (tmp_path / "cut.safetensors").write_bytes(b"\x10\x00")
    (tmp_path / "pickle.safetensors").write_bytes(b"PK\x03\x04" + bytes(40))
    for name, error in (("lora", UnsupportedError), ("cut", CheckpointError), ("pickle", UnsupportedError)):
        with pytest.raises(error):
            factor_of(tmp_path / f"{name}.safetensors")
        with pytest.raises(error):
            upscale(tmp_path / f"{name}.safetensors", photo())
