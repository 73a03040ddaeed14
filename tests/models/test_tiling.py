"""Tiles against the whole: with decoders that see one cell, some cells, or the built-in VAE."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skimage import data

import mlxdiff
from mlxdiff.checkpoint.load import load_component
from mlxdiff.errors import RequestError
from mlxdiff.models.layers import enlarge
from mlxdiff.models.tiling import decode_tiled, plan
from mlxdiff.models.vae import AutoencoderKL, VAEConfig

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji/vae"


def enlarged(latents: mx.array) -> mx.array:
    """A decoder that sees one cell: factor 4."""
    return enlarge(enlarge(latents))


def noise(height: int, width: int, batch: int = 2) -> mx.array:
    return mx.array(np.random.default_rng(0).normal(size=(batch, height, width, 3)).astype(np.float32))


@given(length=st.integers(1, 200), size=st.integers(1, 64), overlap=st.integers(0, 21))
def test_the_plan_covers_every_cell_and_no_band_touches_another(length, size, overlap):
    if 3 * overlap > size:
        overlap = size // 3
    tiles = plan(length, size, overlap)
    ends = [start + tiles.size for start in tiles.starts]
    assert (tiles.starts[0], ends[-1]) == (0, length)
    assert tiles.size == min(size, length)
    for (left, right), fade in zip(pairwise(range(len(ends))), tiles.fades, strict=True):
        # Both tiles have the whole band.
        assert tiles.starts[right] <= fade
        assert fade + tiles.fade <= ends[left]
    for one, other in pairwise(tiles.fades):
        assert one + tiles.fade <= other
    if len(ends) > 1:  # one tile fewer would not do
        assert (len(ends) - 1) * (size - overlap) + overlap < length


@pytest.mark.parametrize(("height", "width"), [(16, 16), (17, 31), (5, 40), (40, 5), (33, 16)])
@pytest.mark.parametrize("overlap", [None, 0, 20])
def test_a_decoder_that_sees_one_cell_gives_the_same_picture(height, width, overlap):
    latents = noise(height, width)
    tiled = decode_tiled(enlarged, latents, 64, 4, overlap=overlap)
    np.testing.assert_allclose(np.array(tiled), np.array(enlarged(latents)), atol=1e-6)


def test_one_tile_that_covers_all_is_the_plain_decode():
    seen = []

    def decode(latents: mx.array) -> mx.array:
        seen.append(latents)
        return enlarged(latents)

    latents = noise(16, 12)
    assert np.array_equal(np.array(decode_tiled(decode, latents, 64, 4)), np.array(enlarged(latents)))
    assert len(seen) == 1
    assert seen[0] is latents


def test_every_call_sees_no_more_than_a_tile():
    shapes = []

    def decode(latents: mx.array) -> mx.array:
        shapes.append(latents.shape)
        return enlarged(latents)

    assert decode_tiled(decode, noise(40, 33), 64, 4).shape == (2, 160, 132, 3)
    assert set(shapes) == {(2, 16, 16, 3)}
    assert len(shapes) == 9


def test_neighbours_that_disagree_are_faded_linearly():
    def decode(latents: mx.array) -> mx.array:
        """The tile's own first column, everywhere: 0 for the left tile, 12 for the right one."""
        return mx.broadcast_to(enlarged(latents)[:, :, :1], enlarged(latents).shape)

    columns = mx.broadcast_to(mx.arange(28, dtype=mx.float32)[None, None, :, None], (1, 16, 28, 3))
    row = np.array(decode_tiled(decode, columns, 64, 4))[0, 0, :, 0]
    # Tiles of 16 cells at 0 and 12; 4 cells are shared, 16 pixels from 48 on.
    np.testing.assert_allclose(row[:48], 0)
    np.testing.assert_allclose(row[48:64], 12 * (np.arange(16) + 0.5) / 16, rtol=1e-6)
    np.testing.assert_allclose(row[64:], 12)


def test_the_dtype_is_the_decoders():
    assert decode_tiled(enlarged, noise(40, 40).astype(mx.float16), 64, 4).dtype == mx.float16


@pytest.mark.parametrize(
    ("tile", "overlap"), [(0, None), (63, None), (-64, None), (64.0, None), (True, None), (64, 2), (64, 24), (64, -4)]
)
def test_sizes_that_cannot_be_are_refused(tile, overlap):
    with pytest.raises(RequestError):
        decode_tiled(enlarged, noise(40, 40), tile, 4, overlap=overlap)


def test_the_built_in_vae_has_no_seams_to_see():
    vae = AutoencoderKL(VAEConfig.from_dict(json.loads((EMOJI / "config.json").read_text())))
    load_component(vae, EMOJI, dtype=mx.float32)
    pixels = data.chelsea()[None, 100:164, 100:356] / np.float32(127.5) - 1
    z, _ = vae.encode(mx.array(pixels.astype(np.float32)))
    whole = np.clip(np.array(vae.decode(z)), -1, 1)

    def differences(overlap: int) -> tuple[float, float, float]:
        """Of tiled and whole in units of 1/255: the mean, its mean step from column to column, its largest one."""
        difference = (np.clip(np.array(decode_tiled(vae.decode, z, 128, 4, overlap=overlap)), -1, 1) - whole) * 127.5
        steps = np.abs(np.diff(difference, axis=2)).mean(axis=(0, 1, 3))
        return float(np.abs(difference).mean()), float(steps.mean()), float(steps.max())

    # Each tile is normalized by itself, so the picture differs, but smoothly; tiles that are only cut show a line.
    mean, step, worst = differences(overlap=32)
    assert mean < 5
    assert worst < 5 * step
    _, step, worst = differences(overlap=0)
    assert worst > 10 * step
