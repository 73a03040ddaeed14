"""Whole pictures with a tiny VAE beside diffusers' pipelines with theirs; from every layout that TAESD comes in."""

from __future__ import annotations

import json
import shutil

import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from diffusers import (
    AutoencoderTiny,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from safetensors.numpy import load_file, save_file
from skimage import data
from test_pipeline import generators, ours, psnr, quiet

from mlxdiff import StableDiffusion, hub, quantized
from mlxdiff.errors import CheckpointError, MlxdiffWarning, UnsupportedError

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
WANTED = {"height": 32, "width": 48, "guidance_scale": 4.0}


def tiny_vae(**changes) -> AutoencoderTiny:
    """A random one with two levels, as the tiny pipelines' own VAEs have, whose pictures are not all gray."""
    torch.manual_seed(3)
    shape = {
        "encoder_block_out_channels": (16, 16),
        "decoder_block_out_channels": (16, 16),
        "num_encoder_blocks": (1, 2),
        "num_decoder_blocks": (2, 1),
    }
    network = AutoencoderTiny(**shape, **changes)
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1:
            parameter.data += 0.3 * torch.randn(parameter.shape)
        elif name.endswith("layers.6.weight"):
            parameter.data *= 3
    return network.eval()


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Name of a family -> its folder; `vae` -> a tiny VAE's, `scaled` -> one whose config scales latents."""
    root, found = tmp_path_factory.mktemp("tiny"), {}

    def folder(name: str):
        if name not in found:
            found[name] = root / name
            if name in ("vae", "scaled"):
                tiny_vae(**({"scaling_factor": 0.4} if name == "scaled" else {})).save_pretrained(root / name)
            else:
                tiny.write(tiny.PIPELINES[name], root / name)
        return found[name]

    return folder


def rendered(folder, vae, **arguments) -> np.ndarray:
    sd = StableDiffusion(str(folder), dtype="fp32", vae=vae)
    latents = None
    for latents in sd.generate_latents(**arguments):
        mx.eval(latents)
    assert latents is not None
    return np.array(sd.decode(latents))


@pytest.mark.parametrize("which", ["vae", "scaled"])
@pytest.mark.parametrize(("name", "pipeline"), [("sd15", StableDiffusionPipeline), ("sdxl", StableDiffusionXLPipeline)])
def test_text_to_picture(name, pipeline, which, made):
    pipe = quiet(pipeline.from_pretrained(made(name)))
    pipe.vae = AutoencoderTiny.from_pretrained(made(which))
    theirs = pipe(
        ["a red apple"] * 2, num_inference_steps=4, generator=generators([5, 6]), output_type="np", **WANTED
    ).images
    mine = rendered(made(name), made(which), prompt="a red apple", n_images=2, steps=4, seed=5, **WANTED)
    assert theirs.std() > 0.05
    assert psnr(mine, theirs) > 60


@pytest.mark.parametrize("which", ["vae", "scaled"])
@pytest.mark.parametrize(
    ("name", "pipeline"), [("sd15", StableDiffusionImg2ImgPipeline), ("sdxl", StableDiffusionXLImg2ImgPipeline)]
)
def test_picture_to_picture(name, pipeline, which, made):
    """Encoding draws nothing: the noise of the start is the first of each seed's stream."""
    photo = Image.fromarray(data.astronaut()[:32, 200:248])
    pipe = quiet(pipeline.from_pretrained(made(name)))
    pipe.vae = AutoencoderTiny.from_pretrained(made(which))
    theirs = pipe(
        ["a red apple"] * 2,
        image=photo,
        strength=0.6,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=generators([5, 6]),
        output_type="np",
    ).images
    mine = rendered(
        made(name), made(which), prompt="a red apple", image=photo, strength=0.6, n_images=2, steps=5, seed=5,
        guidance_scale=4.0,
    )  # fmt: skip
    assert psnr(mine, theirs) > 60


def test_a_part_of_a_picture(made):
    """Encoding the masked picture draws nothing either."""
    photo, mask = data.astronaut()[:32, 200:248], np.zeros((32, 48), np.uint8)
    mask[8:24, 16:40] = 255
    pipe = quiet(StableDiffusionInpaintPipeline.from_pretrained(made("sd15")))
    pipe.vae = AutoencoderTiny.from_pretrained(made("vae"))
    theirs = pipe(
        "a red apple",
        image=Image.fromarray(photo),
        mask_image=Image.fromarray(mask),
        height=32,
        width=48,
        strength=0.8,
        num_inference_steps=5,
        guidance_scale=4.0,
        generator=generators([5]),
        output_type="np",
    ).images
    asked = {"image": Image.fromarray(photo), "mask": Image.fromarray(mask), "strength": 0.8, **WANTED}
    mine = rendered(made("sd15"), made("vae"), prompt="a red apple", steps=5, seed=5, **asked)
    assert psnr(mine, theirs) > 60


def test_as_the_models_own(made, tmp_path):
    """model_index.json names AutoencoderTiny; quantized copies and checks know it."""
    pipe = StableDiffusionPipeline.from_pretrained(made("sd15"))
    pipe.vae = AutoencoderTiny.from_pretrained(made("vae"))
    pipe.save_pretrained(tmp_path / "own")
    assert json.loads((tmp_path / "own/model_index.json").read_text())["vae"][1] == "AutoencoderTiny"
    again = quiet(StableDiffusionPipeline.from_pretrained(tmp_path / "own"))
    theirs = again("a red apple", num_inference_steps=3, generator=generators([5]), output_type="np", **WANTED).images
    mine = ours(tmp_path / "own", prompt="a red apple", steps=3, seed=5, **WANTED)
    assert psnr(mine, theirs) > 60
    copy = quantized.write_quantized(hub.resolve(str(tmp_path / "own")), 8, tmp_path / "copy")
    assert StableDiffusion(copy).load().checkpoint.vae == StableDiffusion(tmp_path / "own").checkpoint.vae
    replaced = rendered(tmp_path / "own", made("sd15") / "vae", prompt="a red apple", steps=3, seed=5, **WANTED)
    plain = rendered(made("sd15"), None, prompt="a red apple", steps=3, seed=5, **WANTED)
    np.testing.assert_array_equal(replaced, plain)


def original(half: str, state: dict) -> dict[str, np.ndarray]:
    """One half as its author's program numbers its layers: a decoder's begin with the clamp."""
    found = {}
    for key, value in state.items():
        if key.startswith(f"{half}.layers."):
            number, _, rest = key.removeprefix(f"{half}.layers.").partition(".")
            found[f"{int(number) + (half == 'decoder')}.{rest}"] = value.numpy()
    return found


@pytest.fixture(scope="module")
def published(made, tmp_path_factory):
    """Every layout of the same weights: name -> what --vae is given."""
    root = tmp_path_factory.mktemp("published")
    state = AutoencoderTiny.from_pretrained(made("vae")).state_dict()
    halves = {half: original(half, state) for half in ("decoder", "encoder")}
    assert {"1.weight", "3.conv.0.weight"} <= halves["decoder"].keys()
    assert {"0.weight", "1.conv.0.weight"} <= halves["encoder"].keys()
    (root / "folder").mkdir()
    for half, arrays in halves.items():
        save_file(arrays, root / "folder" / f"taesd_{half}.safetensors")
    for name, head in (("both", ""), ("comfyui", "taesd_")):
        arrays = {f"{head}{half}.{key}": value for half, found in halves.items() for key, value in found.items()}
        extra = {"vae_scale": np.array(0.18215, np.float32), "vae_shift": np.array(0, np.float32)}
        save_file(arrays | (extra if name == "comfyui" else {}), root / f"{name}.safetensors")
    save_file({key: value.numpy() for key, value in state.items()}, root / "diffusers.safetensors")
    (root / "alone").mkdir()
    save_file(halves["decoder"], root / "alone" / "taesd_decoder.safetensors")
    save_file(halves["encoder"], root / "alone" / "only_encoder.safetensors")
    return root


LAYOUTS = ["folder", "folder/taesd_decoder.safetensors", "folder/taesd_encoder.safetensors", "both.safetensors",
           "comfyui.safetensors", "diffusers.safetensors"]  # fmt: skip


@pytest.mark.parametrize("place", LAYOUTS)
def test_every_layout_is_the_same_network(place, published, made):
    wanted = StableDiffusion(str(made("sd15")), dtype="fp32", vae=made("vae"))
    found = StableDiffusion(str(made("sd15")), dtype="fp32", vae=published / place)
    assert found.checkpoint.vae == wanted.checkpoint.vae
    latents = mx.array(np.random.default_rng(0).normal(size=(1, 6, 5, 4)).astype(np.float32))
    pictures = wanted.decode(latents)
    assert mx.array_equal(found.decode(latents), pictures)
    assert mx.array_equal(found.encode(pictures), wanted.encode(pictures))


def test_a_decoder_alone_decodes(published, made):
    wanted = StableDiffusion(str(made("sd15")), dtype="fp32", vae=made("vae"))
    sd = StableDiffusion(str(made("sd15")), dtype="fp32", vae=published / "alone/taesd_decoder.safetensors")
    latents = mx.zeros((1, 6, 5, 4)) + 0.5
    assert mx.array_equal(sd.decode(latents), wanted.decode(latents))
    with pytest.raises(UnsupportedError, match="decoder alone"):
        sd.encode(mx.zeros((1, 12, 10, 3)))


def test_pictures_name_the_vae_and_its_content(published, made):
    sd = StableDiffusion(str(made("sd15")), dtype="fp32", vae=published / "both.safetensors")
    (picture,) = sd.generate("a red apple", seed=1, steps=1, height=32, width=32)
    said = json.loads(picture.info["mlxdiff"])
    assert said["vae"] == str(published / "both.safetensors")
    assert list(said["hashes"]) == [str(published / "both.safetensors")]


def test_strips_are_the_same_picture(made):
    sd = StableDiffusion(str(made("sd15")), dtype="fp32", vae=made("vae"))
    latents = mx.array(np.random.default_rng(0).normal(size=(2, 20, 18, 4)).astype(np.float32))
    np.testing.assert_allclose(np.array(sd.decode(latents, tile=16)), np.array(sd.decode(latents)), atol=2e-6)


def test_half_precision_is_not_upcast(made):
    """SDXL's own VAE is decoded in fp32, this one need not be."""
    with pytest.warns(MlxdiffWarning, match="slower"):
        sd = StableDiffusion(str(made("sdxl")), dtype="fp16", vae=made("vae"))
    assert sd.networks.vae.dtype == mx.float16


def test_vaes_of_other_families_are_refused(made, tmp_path):
    tiny_vae(latent_channels=16).save_pretrained(tmp_path / "taesd3")
    with pytest.raises(UnsupportedError, match="16 channels") as caught:
        StableDiffusion(str(made("sd15")), vae=tmp_path / "taesd3")
    assert "4" in caught.value.problem


def broken(name: str, folder) -> None:
    path = folder / "taesd_decoder.safetensors"
    arrays = load_file(path)
    if name == "missing":
        arrays.pop("3.conv.2.bias")
    elif name == "a gap":
        arrays = {key: value for key, value in arrays.items() if not key.startswith("6.")}
    elif name == "misshapen":
        arrays["1.weight"] = arrays["1.weight"][:, :3].copy()
    elif name == "no first":
        arrays.pop("1.weight")
    elif name == "far":
        arrays["900.weight"] = arrays["1.weight"]
    elif name == "cut":
        path.write_bytes(path.read_bytes()[:-100])
        return
    path.unlink()
    save_file(arrays, path)


@pytest.mark.parametrize("name", ["missing", "a gap", "misshapen", "no first", "far", "cut"])
def test_damaged_files(name, published, made, tmp_path):
    shutil.copytree(published / "folder", tmp_path / "taesd")
    broken(name, tmp_path / "taesd")
    with pytest.raises((CheckpointError, UnsupportedError)):
        StableDiffusion(str(made("sd15")), vae=tmp_path / "taesd").load()


def test_an_encoder_alone_is_refused(published, made):
    with pytest.raises(UnsupportedError, match="encoder"):
        StableDiffusion(str(made("sd15")), vae=published / "alone/only_encoder.safetensors")


@pytest.mark.parametrize("place", ["folder/taesd_decoder.safetensors", "both.safetensors", "diffusers.safetensors"])
def test_a_tiny_vae_is_no_model(place, published):
    with pytest.raises(UnsupportedError, match="tiny VAE, which the option --vae takes"):
        StableDiffusion(published / place)
