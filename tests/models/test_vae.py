"""The VAE against diffusers, on random configs and on photographs."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TorchVAE
from skimage import data
from torch_weights import load_state_dict, mlx_shape, parameter_shapes

import mlxdiff
from mlxdiff.errors import CheckpointError, UnsupportedError
from mlxdiff.models.vae import AutoencoderKL, VAEConfig

EMOJI = Path(mlxdiff.__file__).parent / "assets/emoji/vae"
TINY = {
    "down_block_types": ["DownEncoderBlock2D"] * 2,
    "up_block_types": ["UpDecoderBlock2D"] * 2,
    "block_out_channels": [8, 16],
    "norm_num_groups": 4,
}


def pair(**changes):
    """A random VAE in both libraries."""
    torch.manual_seed(0)
    values = {**TINY, **changes}
    blocks = len(values["block_out_channels"])
    values |= {"down_block_types": ["DownEncoderBlock2D"] * blocks, "up_block_types": ["UpDecoderBlock2D"] * blocks}
    theirs = TorchVAE(**values).eval()
    for parameter in theirs.parameters():
        if parameter.ndim == 1:  # gains of exactly 1 and biases of 0 would hide a swap
            parameter.data += 0.3 * torch.randn(parameter.shape)
    return load_state_dict(AutoencoderKL(VAEConfig.from_dict(values)), theirs.state_dict()), theirs


@pytest.fixture(scope="module")
def emoji():
    """The built-in VAE in both libraries, fp32."""
    theirs = TorchVAE.from_pretrained(EMOJI, torch_dtype=torch.float32).eval()
    ours = AutoencoderKL(VAEConfig.from_dict(json.loads((EMOJI / "config.json").read_text())))
    return load_state_dict(ours, theirs.state_dict()), theirs


def photo(name: str, size: int = 128) -> np.ndarray:
    """A square of a scikit-image photograph, (1, size, size, 3) in [-1, 1]."""
    pixels = getattr(data, name)()
    step = min(pixels.shape[:2]) // size
    pixels = pixels[: size * step, : size * step].reshape(size, step, size, step, 3).mean(axis=(1, 3))
    return (pixels[None] / 127.5 - 1).astype(np.float32)


def to_torch(array: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(array).permute(0, 3, 1, 2)


def relative_error(ours: mx.array, theirs: torch.Tensor) -> float:
    expected = theirs.detach().permute(0, 2, 3, 1).numpy()
    assert tuple(ours.shape) == expected.shape
    return float(np.linalg.norm(np.array(ours) - expected) / np.linalg.norm(expected))


@torch.no_grad()
def compare(ours, theirs, images: np.ndarray, limit: float = 2e-5) -> None:
    mean, logvar = ours.encode(mx.array(images))
    posterior = theirs.encode(to_torch(images)).latent_dist
    assert relative_error(mean, posterior.mean) < limit
    assert relative_error(logvar, posterior.logvar) < limit
    z = posterior.mean
    decoded = ours.decode(mx.array(z.permute(0, 2, 3, 1).contiguous().numpy()))
    assert relative_error(decoded, theirs.decode(z).sample) < limit


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"block_out_channels": [8]},
        {"block_out_channels": [8, 12, 16, 8]},
        {"layers_per_block": 2},
        {"latent_channels": 16},
        {"norm_num_groups": 8},
        {"use_quant_conv": False},
        {"use_post_quant_conv": False},
        {"mid_block_add_attention": False},
        {"in_channels": 4, "out_channels": 4},
        {"act_fn": "swish"},
    ],
    ids=str,
)
def test_matches_diffusers(changes):
    ours, theirs = pair(**changes)
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (2, 16, 24, changes.get("in_channels", 3))).astype(np.float32)
    compare(ours, theirs, images)


def test_the_log_variance_is_clamped_as_diffusers_clamps_it():
    ours, theirs = pair(use_quant_conv=False)
    theirs.encoder.conv_out.bias.data[4:] += torch.tensor([100.0, -100.0, 0.0, 0.0])
    load_state_dict(ours, theirs.state_dict())
    images = np.zeros((1, 16, 16, 3), np.float32)
    _, logvar = ours.encode(mx.array(images))
    assert relative_error(logvar, theirs.encode(to_torch(images)).latent_dist.logvar) < 1e-5
    assert (float(logvar.max()), float(logvar.min())) == (20, -30)


@pytest.mark.parametrize(("name", "floor"), [("astronaut", 20), ("chelsea", 26)])
@torch.no_grad()
def test_a_photograph_survives_the_round_trip_as_in_diffusers(emoji, name, floor):
    # Trained on emoji, the VAE blurs photographs; the astronaut at this size is all fine detail.
    ours, theirs = emoji
    image = photo(name)
    mean, logvar = ours.encode(mx.array(image))
    posterior = theirs.encode(to_torch(image)).latent_dist
    assert relative_error(mean, posterior.mean) < 2e-5
    assert relative_error(logvar, posterior.logvar) < 2e-5
    back = ours.decode(ours.denormalize(ours.normalize(mean)))
    assert relative_error(back, theirs.decode(posterior.mean).sample) < 2e-5
    psnr = 10 * np.log10(4 / np.mean((np.clip(np.array(back), -1, 1) - image) ** 2))
    assert psnr > floor


def test_half_precision_stays_half_and_close(emoji):
    ours, theirs = emoji
    half = AutoencoderKL(ours.config)
    half.update(ours.parameters())
    half.set_dtype(mx.float16)
    assert half.dtype == mx.float16
    z = np.random.default_rng(0).normal(size=(1, 8, 8, 4)).astype(np.float32)
    out = half.decode(mx.array(z, dtype=mx.float16))
    assert out.dtype == mx.float16
    with torch.no_grad():
        assert relative_error(out.astype(mx.float32), theirs.decode(to_torch(z)).sample) < 1e-2


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"scaling_factor": 0.5}, lambda z: z * 0.5),
        ({"scaling_factor": 1.5305, "shift_factor": 0.0609}, lambda z: (z - 0.0609) * 1.5305),
        (
            {"scaling_factor": 0.5, "latents_mean": [1, 2, 3, 4], "latents_std": [2, 4, 8, 16]},
            lambda z: (z - np.array([1, 2, 3, 4])) * 0.5 / np.array([2, 4, 8, 16]),
        ),
    ],
)
def test_normalize_follows_the_formulas_of_diffusers_pipelines(changes, expected):
    vae = AutoencoderKL(VAEConfig.from_dict({**TINY, **changes}))
    z = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype(np.float32)
    latents = vae.normalize(mx.array(z))
    np.testing.assert_allclose(np.array(latents), expected(z), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(np.array(vae.denormalize(latents)), z, rtol=1e-5, atol=1e-5)


def test_scale_factor_is_the_ratio_of_the_shapes():
    for blocks in (1, 2, 4):
        ours, _ = pair(block_out_channels=[8] * blocks)
        assert ours.decode(mx.zeros((1, 2, 3, 4))).shape == (1, 2 * ours.scale_factor, 3 * ours.scale_factor, 3)


def test_missing_keys_take_diffusers_defaults():
    config, theirs = VAEConfig.from_dict({}), TorchVAE(norm_num_groups=32).config
    for name in VAEConfig.__dataclass_fields__:
        expected = theirs[name]
        assert getattr(config, name) == (tuple(expected) if isinstance(expected, list) else expected), name


def test_the_published_size_has_diffusers_parameters():
    values = {
        "down_block_types": ["DownEncoderBlock2D"] * 4,
        "up_block_types": ["UpDecoderBlock2D"] * 4,
        "block_out_channels": [128, 256, 512, 512],
        "layers_per_block": 2,
    }
    with torch.device("meta"):
        theirs = TorchVAE(**values).state_dict()
    ours = AutoencoderKL(VAEConfig.from_dict(values))
    assert ours.scale_factor == 8
    assert parameter_shapes(ours) == {name: mlx_shape(tuple(tensor.shape)) for name, tensor in theirs.items()}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"act_fn": "mish"}, UnsupportedError, "act_fn = 'mish'"),
        ({"_class_name": "AsymmetricAutoencoderKL"}, UnsupportedError, "_class_name = 'Asym"),
        ({"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, UnsupportedError, "AttnDown"),
        ({"latents_mean": [1] * 4, "latents_std": [1] * 4, "shift_factor": 0.1}, UnsupportedError, "shift_factor"),
        ({"latents_mean": [1] * 4}, CheckpointError, "without the other"),
        ({"latents_mean": [1] * 3, "latents_std": [1] * 4}, CheckpointError, "3 latents_mean"),
        ({"latents_mean": [1] * 4, "latents_std": [1, 0, 1, 1]}, CheckpointError, "latents_std of 0"),
        ({"down_block_types": ["DownEncoderBlock2D"]}, CheckpointError, "1 down_block_types for 2"),
        ({"norm_num_groups": 3}, CheckpointError, "norm_num_groups 3 does not divide"),
        ({"block_out_channels": []}, CheckpointError, "at least one"),
        ({"block_out_channels": "wide"}, CheckpointError, "block_out_channels = 'wide'"),
        ({"scaling_factor": 0}, CheckpointError, "scaling_factor = 0"),
        ({"scaling_factor": None}, CheckpointError, "scaling_factor = None"),
        ({"scaling_factor": float("inf")}, CheckpointError, "scaling_factor = inf"),
        ({"use_quant_conv": 1}, CheckpointError, "use_quant_conv = 1"),
        ({"layers_per_block": 0}, CheckpointError, "layers_per_block = 0"),
    ],
)
def test_a_config_that_cannot_be_honoured_is_refused(changes, error, message):
    with pytest.raises(error, match=message):
        VAEConfig.from_dict({**TINY, **changes})
