"""Decoding in strips against decoding as a whole, and against diffusers: the same picture, in less memory."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from skimage import data
from torch_weights import load_state_dict

import mlxdiff
from mlxdiff.checkpoint.load import load_component
from mlxdiff.errors import RequestError
from mlxdiff.models import tiling
from mlxdiff.models.tiling import convolve, decode_tiled, gather
from mlxdiff.models.vae import AutoencoderKL, VAEConfig

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji/vae"
BLOCKS = {"block_out_channels": [8, 16, 16, 16], "norm_num_groups": 4, "layers_per_block": 2}


def random_vae(**changes) -> tuple[AutoencoderKL, TorchVAE]:
    """A small VAE of the kind that SD and SDXL have, in both libraries, with gains and biases that matter."""
    torch.manual_seed(0)
    values = {**BLOCKS, **changes}
    levels = len(values["block_out_channels"])
    values |= {"down_block_types": ["DownEncoderBlock2D"] * levels, "up_block_types": ["UpDecoderBlock2D"] * levels}
    theirs = TorchVAE(**values).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return load_state_dict(AutoencoderKL(VAEConfig.from_dict(values)), theirs.state_dict()), theirs


def latents(height: int, width: int, batch: int = 1, channels: int = 4) -> mx.array:
    shape = (batch, height, width, channels)
    return mx.array(np.random.default_rng(0).normal(size=shape).astype(np.float32))


def error(found: mx.array, expected: mx.array) -> float:
    """The largest difference, in units of the picture's spread."""
    assert found.shape == expected.shape
    expected = np.array(expected.astype(mx.float32))
    return float(np.abs(np.array(found.astype(mx.float32)) - expected).max() / expected.std())


@pytest.mark.parametrize(("height", "width"), [(9, 7), (3, 17), (17, 3), (1, 1), (1, 9)])
@pytest.mark.parametrize("tile", [8, 24])
def test_strips_give_the_picture_of_the_whole(height, width, tile):
    vae, _ = random_vae()
    z = latents(height, width)
    assert error(decode_tiled(vae, z, tile), vae.decode(z)) < 3e-5


@pytest.mark.parametrize(
    "changes",
    [
        {"block_out_channels": [8]},
        {"block_out_channels": [8, 12]},
        {"latent_channels": 16},
        {"mid_block_add_attention": False},
        {"use_post_quant_conv": False},
    ],
    ids=str,
)
def test_every_kind_of_decoder(changes):
    vae, theirs = random_vae(**changes)
    z = latents(7, 10, channels=changes.get("latent_channels", 4))
    found = decode_tiled(vae, z, 2 * vae.scale_factor)
    assert error(found, vae.decode(z)) < 3e-5
    with torch.no_grad():
        expected = theirs.decode(torch.from_numpy(np.array(z)).permute(0, 3, 1, 2)).sample.permute(0, 2, 3, 1)
    assert error(found, mx.array(expected.contiguous().numpy())) < 1e-4


def test_each_picture_of_a_batch_is_normalized_by_itself():
    vae, _ = random_vae()
    z = latents(6, 5, batch=2) * mx.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    assert error(decode_tiled(vae, z, 16), vae.decode(z)) < 3e-5


def test_the_built_in_vae_has_no_seams():
    vae = AutoencoderKL(VAEConfig.from_dict(json.loads((EMOJI / "config.json").read_text())))
    load_component(vae, EMOJI, dtype=mx.float32)
    pixels = data.chelsea()[None, 100:164, 100:356] / np.float32(127.5) - 1
    z, _ = vae.encode(mx.array(pixels.astype(np.float32)))
    difference = np.abs(np.array(decode_tiled(vae, z, 32)) - np.array(vae.decode(z))) * 127.5
    assert difference.max() < 0.01  # of 255


def test_half_precision_stays_half_and_is_as_exact():
    vae, _ = random_vae()
    exact = vae.decode(latents(8, 8))
    vae.set_dtype(mx.float16)
    z = latents(8, 8).astype(mx.float16)
    found = decode_tiled(vae, z, 16)
    assert found.dtype == mx.float16
    assert error(found, exact) < 2 * error(vae.decode(z), exact)


@pytest.mark.parametrize("mean", [0.0, 1e4])
def test_moments_gathered_from_strips_are_those_of_the_whole(mean):
    x = np.random.default_rng(0).normal(mean, 2, (2, 11, 5, 12)).astype(np.float32)
    found = gather((mx.array(x[:, i : i + 3]) for i in range(0, 11, 3)), groups=4)
    grouped = x.astype(np.float64).reshape(2, 55, 4, 3)
    np.testing.assert_allclose(np.array(found.mean)[..., 0], grouped.mean(axis=(1, 3)), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(np.array(found.variance)[..., 0], grouped.var(axis=(1, 3)), rtol=1e-4)
    assert mx.array_equal(mx.concatenate(found.strips, axis=1), mx.array(x))


def test_no_convolution_sees_more_than_a_strip_and_its_neighbours_rows():
    seen = []

    def conv(x: mx.array) -> mx.array:
        seen.append(x.shape[1])
        return x

    x = mx.arange(20).reshape(1, 10, 1, 2)
    strips = [x[:, i : i + 3] for i in range(0, 10, 3)]
    assert mx.array_equal(mx.concatenate(list(convolve(conv, strips, lambda rows: rows)), axis=1), x)
    assert seen == [4, 5, 5, 2]
    assert strips == []


@pytest.mark.parametrize("tile", [16, 40])
def test_the_tile_bounds_every_call(monkeypatch, tile):
    vae, _ = random_vae()
    decoder = vae.decoder
    convolutions = [block.upsamplers[0].conv for block in decoder.up_blocks if "upsamplers" in block]
    convolutions += [conv for block in decoder.up_blocks for resnet in block.resnets for conv in (resnet.conv1,)]
    sizes, width = [], 12 * 8
    real = convolve

    def watching(conv, strips, prepare):
        for strip in real(conv, strips, prepare):
            sizes.append((conv, strip.shape[1] * strip.shape[2]))
            yield strip

    monkeypatch.setattr(tiling, "convolve", watching)
    decode_tiled(vae, latents(12, 12), tile)
    assert {id(conv) for conv, _ in sizes} >= {id(conv) for conv in convolutions}
    # One row is the least there can be.
    assert max(size for _, size in sizes) <= max(tile * tile, 2 * width)


def test_strips_take_a_fraction_of_the_memory(monkeypatch):
    monkeypatch.setattr(tiling, "strip_bytes", lambda: 2**17)
    vae, _ = random_vae(block_out_channels=[16, 32], layers_per_block=1)
    z = latents(64, 64)
    mx.eval(vae.parameters(), z)

    def peak(decode) -> int:
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(decode(z))
        return mx.get_peak_memory() - before

    assert peak(lambda z: decode_tiled(vae, z, 64)) < peak(vae.decode) / 4


@pytest.mark.parametrize("tile", [0, 63, -64, 64.0, True, "64"])
def test_sizes_that_cannot_be_are_refused(tile):
    vae, _ = random_vae()
    with pytest.raises(RequestError):
        decode_tiled(vae, latents(4, 4), tile)
