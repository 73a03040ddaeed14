"""Whole pictures that ControlNets and T2I-Adapters steer, beside diffusers' own pipelines; and what is refused."""

from __future__ import annotations

import inspect

import pytest
import tiny
import tiny_controls
import torch
from diffusers import (
    EulerDiscreteScheduler,
    MultiAdapter,
    PNDMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image
from skimage import data
from test_pipeline import generators, ours, psnr, quiet

torch.set_num_threads(1)

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

SIZE = (32, 48)
COMMON = {"height": SIZE[0], "width": SIZE[1], "guidance_scale": 5.0}
STEPS = 4
PROMPT = "a red apple"


def light():
    """A light adapter's last two levels have the same channels."""
    pipe = tiny.sd15()
    pipe.register_modules(
        unet=tiny.unet(
            block_out_channels=(32, 64, 64),
            down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        )
    )
    return pipe


MODELS = tiny.PIPELINES | {"light": light}


class Stage:
    """A folder of pipelines, controls and pictures, each made when it is first asked for."""

    def __init__(self, folder):
        self.folder = folder

    def model(self, name):
        path = self.folder / name
        return path if path.exists() else tiny.write(MODELS[name], path)

    def pipe(self, name):
        kind = StableDiffusionXLPipeline if name.startswith("sdxl") else StableDiffusionPipeline
        pipe = quiet(kind.from_pretrained(self.model(name)))
        if isinstance(pipe.scheduler, PNDMScheduler):  # its steps are not its calls, which diffusers counts
            pipe.scheduler = EulerDiscreteScheduler.from_config(pipe.scheduler.config)
        return pipe

    def control(self, name, network):
        path = self.folder / f"control-{name}"
        return path if path.exists() else tiny_controls.write(network, path)

    def picture(self, name):
        path = self.folder / f"{name}.png"
        if not path.exists():
            image = Image.fromarray(getattr(data, name)()).convert("RGB")
            image.resize(SIZE[::-1], Image.Resampling.LANCZOS).save(path)
        return path


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    return Stage(tmp_path_factory.mktemp("controls"))


def opened(path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def as_kind(kind, pipe, **more):
    """Another pipeline of the same parts."""
    switches = {"add_watermarker": False, "requires_safety_checker": False}
    taken = inspect.signature(kind).parameters
    return quiet(kind(**{key: value for key, value in (pipe.components | switches | more).items() if key in taken}))


def theirs(pipe, **arguments):
    asked = {"num_inference_steps": STEPS, "generator": generators([3]), "output_type": "np"}
    return pipe(PROMPT, **asked | COMMON | arguments).images


def mine(stage, name, control, **settings):
    if name in ("sd15", "light"):
        settings["sampler"] = "euler"
    return ours(stage.model(name), prompt=PROMPT, steps=STEPS, seed=3, control=control, **COMMON | settings)


def networks(stage, name, count=1, **changes):
    """diffusers' ControlNets for a pipeline, and where they are."""
    unet = stage.pipe(name).unet
    mark = "".join(f"-{key}" for key in changes)
    made = [tiny_controls.controlnet(unet, seed, **changes) for seed in range(count)]
    return made, [stage.control(f"{name}{mark}-{seed}", network) for seed, network in enumerate(made)]


def same(found, expected, plain=None):
    assert expected.std() > 0.02, "a flat picture would prove nothing"
    if plain is not None:
        assert psnr(found, plain) < 45, "the control must matter"
    assert psnr(found, expected) > 60


KINDS = {
    "sd15": StableDiffusionControlNetPipeline,
    "sd21": StableDiffusionControlNetPipeline,
    "sdxl": StableDiffusionXLControlNetPipeline,
}


@pytest.mark.parametrize("name", list(KINDS))
def test_a_controlnet_of_every_family(stage, name):
    (network,), (path,) = networks(stage, name)
    pipe = as_kind(KINDS[name], stage.pipe(name), controlnet=network)
    picture = stage.picture("coffee")
    expected = theirs(pipe, image=opened(picture), controlnet_conditioning_scale=0.8)
    found = mine(stage, name, [f"{path}={picture},scale=0.8"])
    same(found, expected, mine(stage, name, None))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_two_controlnets_from_start_to_end(stage, name):
    made, paths = networks(stage, name, 2)
    pipe = as_kind(KINDS[name], stage.pipe(name), controlnet=made)
    pictures = [stage.picture("coffee"), stage.picture("chelsea")]
    expected = theirs(
        pipe,
        image=[opened(picture) for picture in pictures],
        controlnet_conditioning_scale=[0.7, 1.2],
        control_guidance_start=[0.0, 0.25],
        control_guidance_end=[0.5, 1.0],
    )
    controls = [
        {"ref": paths[0], "image": pictures[0], "scale": 0.7, "end": 0.5},
        {"ref": str(paths[1]), "image": opened(pictures[1]), "scale": 1.2, "start": 0.25},
    ]
    same(mine(stage, name, controls), expected, mine(stage, name, controls[:1]))


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_guess_mode_steers_the_prompt_alone(stage, name):
    (network,), (path,) = networks(stage, name)
    pipe = as_kind(KINDS[name], stage.pipe(name), controlnet=network)
    picture = stage.picture("coffee")
    expected = theirs(pipe, image=opened(picture), guess_mode=True)
    same(mine(stage, name, [f"{path}={picture},guess=true"]), expected, mine(stage, name, [f"{path}={picture}"]))


def test_a_controlnet_that_pools_and_takes_blue_first(stage):
    changes = {"global_pool_conditions": True, "controlnet_conditioning_channel_order": "bgr"}
    (network,), (path,) = networks(stage, "sd15", **changes)
    pipe = as_kind(KINDS["sd15"], stage.pipe("sd15"), controlnet=network)
    picture = stage.picture("coffee")
    same(mine(stage, "sd15", [f"{path}={picture}"]), theirs(pipe, image=opened(picture)))


def test_a_batch_shares_its_control_picture(stage):
    (network,), (path,) = networks(stage, "sd15")
    picture = stage.picture("coffee")
    both = mine(stage, "sd15", [f"{path}={picture}"], n_images=2)
    pipe = as_kind(KINDS["sd15"], stage.pipe("sd15"), controlnet=network)
    expected = theirs(pipe, image=opened(picture), num_images_per_prompt=2, generator=generators([3, 4]))
    assert psnr(both, expected) > 60


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_image_to_image_under_a_controlnet(stage, name):
    (network,), (path,) = networks(stage, name)
    kind = StableDiffusionControlNetImg2ImgPipeline if name == "sd15" else StableDiffusionXLControlNetImg2ImgPipeline
    start, picture = stage.picture("astronaut"), stage.picture("coffee")
    expected = theirs(
        as_kind(kind, stage.pipe(name), controlnet=network),
        image=opened(start),
        control_image=opened(picture),
        strength=0.75,
        controlnet_conditioning_scale=1.0,
        control_guidance_end=0.7,
    )
    found = mine(stage, name, [f"{path}={picture},end=0.7"], image=str(start), strength=0.75)
    same(found, expected, mine(stage, name, None, image=str(start), strength=0.75))


@pytest.mark.parametrize("guess", [False, True])
@pytest.mark.parametrize("count", [1, 2])
def test_controlnet_union(stage, count, guess):
    network = tiny_controls.union(stage.pipe("sdxl").unet)
    path = stage.control("union", network)
    pipe = as_kind(StableDiffusionXLControlNetUnionPipeline, stage.pipe("sdxl"), controlnet=network)
    pictures = [stage.picture("coffee"), stage.picture("chelsea")][:count]
    settings = {"guidance_scale": 0.0 if guess else 5.0}  # diffusers' own breaks where a guess is guided
    expected = theirs(
        pipe,
        control_image=[opened(picture) for picture in pictures],
        control_mode=[3, 1][:count],
        controlnet_conditioning_scale=[0.8, 1.1][:count],
        **settings,
        guess_mode=guess,
    )
    words = [
        f"{path}={p},type={t},scale={s}" for p, t, s in zip(pictures, ("canny", "depth"), (0.8, 1.1), strict=False)
    ]
    found = mine(stage, "sdxl", [word + (",guess=true" if guess else "") for word in words], **settings)
    same(found, expected, mine(stage, "sdxl", None, **settings))


ADAPTERS = {"full_adapter": "sd15", "light_adapter": "light", "full_adapter_xl": "sdxl"}


@pytest.mark.parametrize("kind", list(ADAPTERS))
def test_a_t2i_adapter_of_every_kind(stage, kind):
    name = ADAPTERS[kind]
    network = tiny_controls.adapter(kind)
    path = stage.control(kind, network)
    pipeline = StableDiffusionXLAdapterPipeline if name == "sdxl" else StableDiffusionAdapterPipeline
    pipe = as_kind(pipeline, stage.pipe(name), adapter=network)
    picture = stage.picture("coffee")
    ends = {"adapter_conditioning_factor": 0.5} if name == "sdxl" else {}
    expected = theirs(pipe, image=opened(picture), adapter_conditioning_scale=1.3, **ends)
    found = mine(stage, name, [f"{path}={picture},scale=1.3" + (",end=0.5" if ends else "")])
    same(found, expected, mine(stage, name, None))


def test_two_t2i_adapters_one_of_them_gray(stage):
    made = [tiny_controls.adapter("full_adapter", seed, in_channels=channels) for seed, channels in ((0, 3), (1, 1))]
    paths = [stage.control(f"multi-{i}", network) for i, network in enumerate(made)]
    pipe = as_kind(StableDiffusionAdapterPipeline, stage.pipe("sd15"), adapter=MultiAdapter(made))
    gray = stage.picture("camera")
    expected = theirs(
        pipe,
        image=[opened(stage.picture("coffee")), opened(gray).convert("L")],
        adapter_conditioning_scale=[0.8, 0.6],
    )
    found = mine(stage, "sd15", [f"{paths[0]}={stage.picture('coffee')},scale=0.8", f"{paths[1]}={gray},scale=0.6"])
    same(found, expected, mine(stage, "sd15", None))
