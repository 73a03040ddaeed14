"""Pictures as prompts: whole pictures beside diffusers' own, from the same tiny random adapters."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
import tiny
import tiny_ip_adapters
import torch
from arrays import psnr
from diffusers import (
    ControlNetModel,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
)
from diffusers.image_processor import IPAdapterMaskProcessor
from PIL import Image
from skimage import data

from mlxdiff import StableDiffusion

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]
SIZE = {"height": 32, "width": 48}
SETTINGS = {"guidance_scale": 5.0, "negative_prompt": "flat", **SIZE}
PROMPT = "a red apple"
KINDS = {"sd15": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline}


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """By family: the model's folder, its adapters' folder, and mlxdiff's and diffusers' pipelines of it."""
    made = {}

    def model(name: str):
        if name not in made:
            folder = tiny.write(tiny.PIPELINES[name], tmp_path_factory.mktemp(name))
            pipe = KINDS[name].from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            adapters = tiny_ip_adapters.write(pipe.unet, tmp_path_factory.mktemp(f"{name}-adapters"))
            made[name] = folder, adapters, StableDiffusion(str(folder), dtype="fp32"), pipe
        return made[name]

    return model


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    found = {}
    for name, picture in (("astronaut", data.astronaut()), ("cat", data.chelsea()), ("rocket", data.rocket())):
        Image.fromarray(picture).save(folder / f"{name}.png")
        found[name] = folder / f"{name}.png"
    for name, columns in (("left", slice(0, 90)), ("right", slice(70, 200))):
        mask = np.zeros((100, 200), np.uint8)
        mask[10:, columns] = 255
        Image.fromarray(mask).save(folder / f"{name}.png")
        found[name] = folder / f"{name}.png"
    return found


def ours(sd: StableDiffusion, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(PROMPT, steps=4, seed=3, **SETTINGS | settings):
        mx.eval(latents)
    return np.array(sd.decode(latents))


def theirs(model, kinds, pictures, scale=1.0, **settings) -> np.ndarray:
    """diffusers' picture with adapters of these kinds; `pictures` and `scale` as its pipeline wants them."""
    _, adapters, _, pipe = model
    pipe.load_ip_adapter(str(adapters), subfolder="", weight_name=[f"{kind}.safetensors" for kind in kinds])
    pipe.set_ip_adapter_scale(scale)
    generator = torch.Generator("cpu").manual_seed(3)
    try:
        return pipe(
            PROMPT,
            ip_adapter_image=pictures,
            num_inference_steps=4,
            generator=generator,
            output_type="np",
            **SETTINGS | settings,
        ).images
    finally:
        pipe.unload_ip_adapter()


def opened(photos, *names):
    return [Image.open(photos[name]).convert("RGB") for name in names]


@pytest.mark.parametrize("kind", list(tiny_ip_adapters.KINDS))
@pytest.mark.parametrize("name", list(KINDS))
def test_a_picture_as_a_prompt(models, photos, name, kind):
    model = models(name)
    expected = theirs(model, [kind], opened(photos, "cat"), 0.7)
    found = ours(model[2], ip_adapter=f"{model[1]}/{kind}.safetensors={photos['cat']},scale=0.7")
    without = ours(model[2])
    assert psnr(found, without) < 30, "an adapter that changes nothing would prove nothing"
    assert psnr(found, expected) > 100


def test_several_pictures_share_an_adapter(models, photos):
    model = models("sd15")
    names = ("cat", "astronaut")
    expected = theirs(model, ["plus"], [opened(photos, *names)], 0.6)
    pictures = "|".join(str(photos[name]) for name in names)
    found = ours(model[2], ip_adapter=f"{model[1]}/plus.safetensors={pictures},scale=0.6")
    assert psnr(found, expected) > 100


def test_several_adapters_at_once(models, photos):
    model = models("sdxl")
    expected = theirs(
        model, ["plain", "plus"], [*opened(photos, "cat"), opened(photos, "astronaut", "rocket")], [0.6, 0.4]
    )
    asked = [
        {"ref": model[1] / "plain.safetensors", "image": photos["cat"], "scale": 0.6},
        {"ref": model[1] / "plus.safetensors", "image": opened(photos, "astronaut", "rocket"), "scale": 0.4},
    ]
    assert psnr(ours(model[2], ip_adapter=asked), expected) > 100


@pytest.mark.parametrize("name", list(KINDS))
def test_masks_say_where_pictures_count(models, photos, name):
    model, names = models(name), ("cat", "astronaut")
    processor = IPAdapterMaskProcessor()
    masks = processor.preprocess([Image.open(photos[mask]) for mask in ("left", "right")], **SIZE)
    masks = [masks.reshape(1, 2, *masks.shape[2:])]
    expected = theirs(
        model,
        ["plain"],
        [opened(photos, *names)],
        [[0.8, 0.5]],
        cross_attention_kwargs={"ip_adapter_masks": masks},
    )
    # One scale for each picture is what the same adapter twice gives.
    asked = [
        f"{model[1]}/plain.safetensors={photos[picture]},mask={photos[mask]},scale={scale}"
        for picture, mask, scale in (("cat", "left", 0.8), ("astronaut", "right", 0.5))
    ]
    found = ours(model[2], ip_adapter=asked)
    assert psnr(found, expected) > 100
    everywhere = ours(
        model[2], ip_adapter=[text.replace(",mask", ",scale=0.1,mask").partition(",")[0] for text in asked]
    )
    assert psnr(found, everywhere) < 30


def test_masks_of_pictures_that_share_an_adapter(models, photos):
    model = models("sd15")
    masks = IPAdapterMaskProcessor().preprocess([Image.open(photos[mask]) for mask in ("left", "right")], **SIZE)
    expected = theirs(
        model,
        ["plus"],
        [opened(photos, "cat", "astronaut")],
        0.7,
        cross_attention_kwargs={"ip_adapter_masks": [masks.reshape(1, 2, *masks.shape[2:])]},
    )
    asked = {
        "ref": model[1] / "plus.safetensors",
        "image": [photos["cat"], photos["astronaut"]],
        "mask": [photos["left"], photos["right"]],
        "scale": 0.7,
    }
    assert psnr(ours(model[2], ip_adapter=[asked]), expected) > 100


@pytest.mark.parametrize(
    ("name", "scale", "text"),
    [
        ("sd15", {"down": {"block_0": [0.9]}, "up": 0.4}, "down.0.0:0.9+up:0.4"),
        ("sdxl", {"up": {"block_0": [0.0, 1.0]}}, "up.0.1:1"),
        ("sdxl", {"mid": 0.3, "down": 0.8}, "mid:0.3+down:0.8"),
    ],
)
def test_a_scale_for_each_block(models, photos, name, scale, text):
    model = models(name)
    expected = theirs(model, ["plain"], opened(photos, "cat"), scale)
    where = f"{model[1]}/plain.safetensors"
    found = ours(model[2], ip_adapter=f"{where}={photos['cat']},scale={text}")
    assert psnr(found, expected) > 100
    as_diffusers = ours(model[2], ip_adapter={"ref": where, "image": photos["cat"], "scale": scale})
    assert np.array_equal(as_diffusers, found)


def test_it_may_begin_late_and_end_early(models, photos):
    model = models("sdxl")

    def switch(pipe, step, _timestep, tensors):
        pipe.set_ip_adapter_scale(0.9 if step == 0 else 0.0)
        return tensors

    expected = theirs(model, ["plain"], opened(photos, "cat"), 0.0, callback_on_step_end=switch)
    found = ours(model[2], ip_adapter=f"{model[1]}/plain.safetensors={photos['cat']},scale=0.9,start=0.25,end=0.5")
    assert psnr(found, expected) > 100


def test_with_a_controlnet_which_sees_no_picture_prompt(models, photos, tmp_path):
    """diffusers gives a ControlNet the text alone, and so does mlxdiff."""
    folder, adapters, sd, pipe = models("sd15")
    torch.manual_seed(1)
    net = ControlNetModel.from_unet(pipe.unet, conditioning_embedding_out_channels=(4, 8))
    for layer in [*net.controlnet_down_blocks, net.controlnet_mid_block]:
        torch.nn.init.normal_(layer.weight, std=0.2)
    net.save_pretrained(tmp_path / "control")
    whole = StableDiffusionControlNetPipeline.from_pretrained(folder, controlnet=net)
    whole.set_progress_bar_config(disable=True)
    edges = Image.open(photos["rocket"]).convert("RGB").resize((SIZE["width"], SIZE["height"]))
    edges.save(tmp_path / "edges.png")
    model = folder, adapters, sd, whole
    expected = theirs(model, ["plain"], opened(photos, "cat"), 0.7, image=edges)
    found = ours(
        sd,
        ip_adapter=f"{adapters}/plain.safetensors={photos['cat']},scale=0.7",
        control=f"{tmp_path}/control={tmp_path}/edges.png",
    )
    assert psnr(found, expected) > 100


def test_inpainting_with_a_picture_as_a_prompt(models, photos, tmp_path):
    folder, adapters, sd, pipe = models("sd15")
    whole = StableDiffusionInpaintPipeline(**pipe.components, requires_safety_checker=False)
    whole.set_progress_bar_config(disable=True)
    picture = Image.open(photos["rocket"]).convert("RGB").resize((SIZE["width"], SIZE["height"]))
    mask = Image.new("L", picture.size, 0)
    mask.paste(255, (0, 0, 24, 32))
    picture.save(tmp_path / "picture.png")
    mask.save(tmp_path / "mask.png")
    model = folder, adapters, sd, whole
    expected = theirs(model, ["plus"], opened(photos, "cat"), 0.7, image=picture, mask_image=mask, strength=1.0)
    found = ours(
        sd,
        ip_adapter=f"{adapters}/plus.safetensors={photos['cat']},scale=0.7",
        image=str(tmp_path / "picture.png"),
        mask=str(tmp_path / "mask.png"),
        mask_blur=0,
        strength=1.0,
    )
    assert psnr(found, expected) > 60


def test_a_mask_of_the_same_shape_lies_over_the_picture_of_which_a_part_is_rendered(models, photos):
    _, adapters, sd, _ = models("sd15")
    picture = np.asarray(Image.open(photos["rocket"]).convert("RGB").resize((120, 80)))
    part = np.zeros((80, 120), np.uint8)
    part[40:72, 60:108] = 255  # as large as what is rendered
    half = part.copy()
    half[:, 84:] = 0

    def found(mask: np.ndarray | None, **settings) -> np.ndarray:
        asked = {"ref": adapters / "plain.safetensors", "image": photos["cat"]}
        asked |= {} if mask is None else {"mask": mask}
        masked = {"image": picture, "mask": part, "mask_blur": 0, "inpaint_area": "masked", "inpaint_padding": 0}
        return ours(sd, **{"ip_adapter": [asked], **masked, **settings})

    everywhere, nowhere = found(None), found(None, ip_adapter=None)
    assert psnr(everywhere, nowhere) < 40
    assert psnr(found(part), everywhere) > 100
    assert psnr(found(255 - part), nowhere) > 100
    left = np.zeros((50, 50), np.uint8)  # of another shape: of what is rendered
    left[:, :25] = 255
    assert psnr(found(half), found(left)) > 100


def test_a_mask_reaches_as_far_as_an_expanded_picture(models, photos):
    _, adapters, sd, _ = models("sd15")
    picture = np.asarray(Image.open(photos["rocket"]).convert("RGB").resize((32, 32)))
    own = np.zeros((32, 32), np.uint8)
    own[:, :16] = 255
    whole = np.zeros((32, 48), np.uint8)
    whole[:, :32] = 255  # 16 pixels of margin, to which its edge goes on

    def found(mask: np.ndarray) -> np.ndarray:
        asked = {"ref": adapters / "plain.safetensors", "image": photos["cat"], "mask": mask}
        return ours(sd, ip_adapter=[asked], image=picture, expand="16,0,0,0")

    assert psnr(found(own), found(whole)) > 100


def test_every_pass_of_the_model_sees_the_picture_and_its_refiner_does_not(models, photos, tmp_path):
    _, adapters, sd, _ = models("sdxl")
    refiner = tiny.write(tiny.refiner, tmp_path / "refiner")
    asked = f"{adapters}/plain.safetensors={photos['cat']},mask={photos['left']},scale=0.7"
    for settings in ({"hires": 1.5, "hires_strength": 0.6}, {"refiner": str(refiner), "refiner_switch": 0.5}):
        found, without = ours(sd, ip_adapter=asked, **settings), ours(sd, **settings)
        assert np.isfinite(found).all()
        assert psnr(found, without) < 40
    early = ours(sd, ip_adapter=f"{asked},end=0.5", hires=1.5, hires_strength=0.6)
    assert psnr(early, ours(sd, ip_adapter=asked, hires=1.5, hires_strength=0.6)) < 60
