"""AutoencoderTiny beside diffusers': configs, decoding, encoding, strips, and what is refused."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderTiny as TorchTiny
from skimage import data
from torch_weights import load_state_dict

from mlxdiff import memory
from mlxdiff.errors import CheckpointError, InputError, RequestError, UnsupportedError
from mlxdiff.models import autoencoders, tiling, tiny_vae
from mlxdiff.models.autoencoders import decode_tiled
from mlxdiff.models.tiny_vae import AutoencoderTiny, TinyVAEConfig

SHAPES = {
    "taesd": {},
    "narrow": {"channels": 8},
    "two levels": {"channels": 8, "encoder": (1, 2), "decoder": (2, 1)},
    "one level": {"channels": 8, "encoder": (2,), "decoder": (1,)},
    "a level without blocks": {"channels": 8, "encoder": (0, 1, 2), "decoder": (1, 0, 3)},
    "16 channels": {"channels": 8, "latent_channels": 16},
}


def values(channels: int = 64, encoder=(1, 3, 3, 3), decoder=(3, 3, 3, 1), **more) -> dict:
    return {
        "encoder_block_out_channels": (channels,) * len(encoder),
        "decoder_block_out_channels": (channels,) * len(decoder),
        "num_encoder_blocks": encoder,
        "num_decoder_blocks": decoder,
        **more,
    }


def pair(**options) -> tuple[AutoencoderTiny, TorchTiny]:
    """The same random network in both libraries, its biases so large that they matter."""
    torch.manual_seed(0)
    config = values(**options)
    theirs = TorchTiny(**config).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:
            parameter.data += 0.2 * torch.randn(parameter.shape)
        else:
            parameter.data *= 1.3
    # As it is written to config.json and read from there.
    ours = autoencoders.build(autoencoders.read_config({**theirs.config, "_class_name": "AutoencoderTiny"}))
    assert isinstance(ours, AutoencoderTiny)
    return load_state_dict(ours, theirs.state_dict()), theirs  # type: ignore[return-value]


def latents(height: int, width: int, channels: int = 4, batch: int = 1) -> np.ndarray:
    shape = (batch, height, width, channels)
    return 3 * np.random.default_rng(0).normal(size=shape).astype(np.float32)  # beyond where they are clamped


def nchw(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def error(found: mx.array, expected: np.ndarray) -> float:
    """The largest difference, in units of the largest number."""
    assert found.shape == expected.shape
    return float(np.abs(np.array(found) - expected).max() / np.abs(expected).max())


@pytest.mark.parametrize("name", SHAPES)
def test_it_decodes_and_encodes_as_diffusers(name):
    ours, theirs = pair(**SHAPES[name])
    factor = ours.scale_factor
    assert factor == 2 ** (len(SHAPES[name].get("decoder", (3, 3, 3, 1))) - 1)
    z = latents(5, 7, theirs.config.latent_channels, batch=2)
    with torch.no_grad():
        expected = theirs.decode(nchw(z)).sample.permute(0, 2, 3, 1).numpy()
    assert error(ours.decode(mx.array(z)), expected) < 1e-5
    picture = data.astronaut()[None, : 6 * factor, : 4 * factor].astype(np.float32) / 127.5 - 1
    with torch.no_grad():
        expected = theirs.encode(nchw(picture)).latents.permute(0, 2, 3, 1).numpy()
    mean, logvar = ours.encode(mx.array(picture))
    assert logvar is None
    assert error(mean, expected) < 1e-5


def test_scaling_and_its_inverse():
    config = TinyVAEConfig(channels=8, scaling_factor=0.5, shift_factor=0.25)
    vae = AutoencoderTiny(config)
    z = mx.array(latents(2, 3))
    np.testing.assert_allclose(np.array(vae.normalize(z)), (np.array(z) - 0.25) * 0.5, rtol=1e-6)
    np.testing.assert_allclose(np.array(vae.denormalize(vae.normalize(z))), np.array(z), atol=1e-6)


@pytest.mark.parametrize(("height", "width"), [(9, 7), (3, 17), (17, 3), (1, 1), (1, 9), (40, 2)])
@pytest.mark.parametrize("tile", [8, 24, 256])
def test_strips_give_the_picture_of_the_whole(height, width, tile):
    vae, _ = pair(channels=8)
    z = mx.array(latents(height, width, batch=2))
    assert error(decode_tiled(vae, z, tile), np.array(vae.decode(z))) < 1e-5


def test_strips_take_little_memory(monkeypatch):
    monkeypatch.setattr(tiling, "STRIP_BYTES_ON_CPU", 2**13)
    monkeypatch.setattr(tiling, "STRIP_BYTES", 2**13)
    vae, _ = pair(channels=16)
    z = mx.array(latents(256, 8))
    mx.eval(vae.parameters(), z)
    used = {}
    for name, decode in (("whole", vae.decode), ("strips", lambda z: tiny_vae.decode_streamed(vae, z, 256))):
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(decode(z))
        used[name] = mx.get_peak_memory() - before
    largest_map = 256 * 8 * 64 * 16 * 4
    assert used["whole"] > largest_map
    assert used["strips"] < largest_map


@pytest.mark.parametrize("tile", [0, -8, 12, 8.0, True])
def test_other_tiles_are_refused(tile):
    vae, _ = pair(channels=8)
    with pytest.raises(RequestError):
        decode_tiled(vae, mx.array(latents(2, 2)), tile)


def test_half_precision():
    ours, theirs = pair(channels=16)
    ours.set_dtype(mx.float16)
    z = latents(6, 6)
    with torch.no_grad():
        expected = theirs.decode(nchw(z)).sample.permute(0, 2, 3, 1).numpy()
    found = ours.decode(mx.array(z).astype(mx.float16))
    assert found.dtype == mx.float16
    assert error(found.astype(mx.float32), expected) < 1e-2


def test_a_large_picture_in_strips_needs_no_map_in_memory(monkeypatch):
    monkeypatch.setattr(memory.backend, "memory_size", lambda: 100_000_000)
    tiny, shape = TinyVAEConfig(), (1, 256, 256, 4)
    assert memory.tile_for(tiny, shape, 4) == memory.TILE
    memory.check_decoding(tiny, shape, 4)
    with pytest.raises(InputError):
        memory.check_decoding(tiny, (1, 2048, 2048, 4), 4)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"act_fn": "gelu"}, UnsupportedError),
        ({"upsample_fn": "bilinear"}, UnsupportedError),
        ({"upsampling_scaling_factor": 4}, UnsupportedError),
        ({"decoder_block_out_channels": [64, 64, 32, 64]}, CheckpointError),
        ({"encoder_block_out_channels": [64] * 3, "num_encoder_blocks": [1, 3, 3]}, CheckpointError),
        ({"num_decoder_blocks": [3, 3, 1]}, CheckpointError),
        ({"num_decoder_blocks": [3, 3, 3, 10**9]}, CheckpointError),
        ({"latent_channels": 0}, CheckpointError),
        ({"latent_channels": "4"}, CheckpointError),
        ({"scaling_factor": 0}, CheckpointError),
        ({"scaling_factor": float("nan")}, CheckpointError),
        ({"_class_name": "AutoencoderKL"}, UnsupportedError),
    ],
    ids=str,
)
def test_other_networks_are_refused(changes, kind):
    with pytest.raises(kind):
        TinyVAEConfig.from_dict({**values(), "_class_name": "AutoencoderTiny", **changes})
