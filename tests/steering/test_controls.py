"""Whole pictures that ControlNets and T2I-Adapters steer, beside diffusers' own pipelines; and what is refused."""

from __future__ import annotations

import inspect
import shutil

import cv2
import lora_files
import numpy as np
import pytest
import tiny
import tiny_controls
import torch
from diffusers import ControlNetModel as ControlNetReference
from diffusers import (
    EulerDiscreteScheduler,
    MultiAdapter,
    PNDMScheduler,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetImg2ImgPipeline,
    StableDiffusionControlNetInpaintPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLAdapterPipeline,
    StableDiffusionXLControlNetImg2ImgPipeline,
    StableDiffusionXLControlNetInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLControlNetUnionPipeline,
    StableDiffusionXLPipeline,
)
from PIL import Image, ImageDraw, ImageOps
from safetensors.torch import load_file, save_file
from skimage import data
from test_pipeline import generators, ours, psnr, quiet

from mlxdiff import Request, StableDiffusion, memory
from mlxdiff.errors import CheckpointError, InputError, MlxdiffWarning, ModelNotFoundError, RequestError
from mlxdiff.fitting import fitted
from mlxdiff.hashing import content_hash
from mlxdiff.hub import find_part
from mlxdiff.models.controlnet import ControlNetModel
from mlxdiff.request import Resolved
from mlxdiff.request.controls import Control
from mlxdiff.request.declarations import declared
from mlxdiff.steering import controls
from mlxdiff.steering.control_pictures import look_at, picture_for

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


MODELS = tiny.PIPELINES | {"light": light, "sd15_inpainting": tiny.sd15_inpainting}


class Stage:
    """A folder of pipelines, controls and pictures, each made when it is first asked for."""

    def __init__(self, folder):
        self.folder, self.pipes = folder, {}

    def model(self, name):
        path = self.folder / name
        return path if path.exists() else tiny.write(MODELS[name], path)

    def pipe(self, name):
        """diffusers' pipeline, shared by the tests."""
        if name not in self.pipes:
            self.pipes[name] = self.fresh(name)
        return self.pipes[name]

    def fresh(self, name):
        kind = StableDiffusionXLPipeline if name.startswith("sdxl") else StableDiffusionPipeline
        kind = StableDiffusionInpaintPipeline if name == "sd15_inpainting" else kind
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
    if name in ("sd15", "light", "sd15_inpainting"):
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


def test_feature_maps_have_factors_of_their_own(stage):
    """Of which diffusers has one set: a guess, without guidance."""
    (network,), (path,) = networks(stage, "sd15")
    pipe = as_kind(KINDS["sd15"], stage.pipe("sd15"), controlnet=network)
    picture, n = stage.picture("coffee"), 5
    expected = theirs(pipe, image=opened(picture), guess_mode=True, guidance_scale=0.0)
    factors = "/".join(f"{10 ** (i / (n - 1) - 1):.9f}" for i in range(n))
    found = mine(stage, "sd15", [f"{path}={picture},blocks={factors}"], guidance_scale=0.0)
    same(found, expected, mine(stage, "sd15", [f"{path}={picture}"], guidance_scale=0.0))
    ramp = Control(path, picture, scale=2, blocks=(0, 1))
    assert ramp.factors(5) == [0, 0.5, 1, 1.5, 2]
    assert Control(path, picture).factors(3) == [1, 1, 1]


def test_approximations_of_the_unet_leave_a_silent_control_silent(stage):
    _, (path,) = networks(stage, "sd15")
    silent = [f"{path}={stage.picture('coffee')},scale=0"]
    for settings in ({"cache_interval": 2}, {"token_merging": 0.5}):
        assert psnr(mine(stage, "sd15", silent, **settings), mine(stage, "sd15", None, **settings)) > 100


def test_jobs_with_the_same_picture_see_it_once(stage, monkeypatch):
    _, (path,) = networks(stage, "sd15")
    sd = StableDiffusion(str(stage.model("sd15")), dtype="fp32")
    seen = []
    embed = ControlNetModel.embed
    monkeypatch.setattr(ControlNetModel, "embed", lambda self, picture: seen.append(1) or embed(self, picture))
    copy = stage.folder / "copy.png"
    copy.write_bytes(stage.picture("coffee").read_bytes())
    for i, picture in enumerate((stage.picture("coffee"), copy, stage.picture("chelsea"), stage.picture("coffee"))):
        list(sd.generate_latents(f"a {i}", control=[f"{path}={picture},scale=0.{i + 1}"], steps=1, seed=i))
    assert len(seen) == 2, "one a content, whatever its name and the scale"
    list(sd.generate_latents("a", control=[f"{path}={copy},preprocess=canny"], steps=1, seed=1))
    list(sd.generate_latents("a", control=[f"{path}={copy}"], steps=1, seed=1, height=64))
    assert len(seen) == 4


def test_networks_of_earlier_requests_stay_where_there_is_room(stage, monkeypatch):
    _, paths = networks(stage, "sd15", 2)
    sd = StableDiffusion(str(stage.model("sd15")), dtype="fp32")

    def draw(path):
        list(sd.generate_latents("a", control=[f"{path}={stage.picture('coffee')}"], steps=1, seed=1))
        return sum(name.startswith("control ") for name in sd.networks._held)

    assert [draw(path) for path in paths] == [1, 2]
    monkeypatch.setattr(memory, "keeps_encoders", lambda *_: False)
    assert draw(paths[0]) == 1
    monkeypatch.setattr(memory, "keeps_backbone", lambda *_: False)
    sd.networks.make_room(1)
    assert not any(name.startswith("control ") for name in sd.networks._held)
    assert draw(paths[0]) == 1, "loaded again"


def test_a_record_names_the_control_and_its_picture_by_content(stage):
    _, (path,) = networks(stage, "sd15")
    sd = StableDiffusion(str(stage.model("sd15")), dtype="fp32")
    picture = str(stage.picture("coffee"))
    resolved = sd.resolve(Request("a", control=[f"{path}={picture},preprocess=canny:50:90,blocks=0.5/1"], seed=1))
    assert dict(resolved.hashes) == {str(path): content_hash(path), picture: content_hash(stage.picture("coffee"))}
    again = Request.from_json(resolved.to_json())
    assert again.control == resolved.control
    (kind,) = [item.kind for item in declared(Request) if item.name == "control"]
    assert kind.parse("control", kind.show(resolved.control)) == resolved.control


def seen_by(control, size=(64, 64), **settings):
    """What a control sees of a request."""
    request = Resolved("a", control=[control], height=size[0], width=size[1], **{"fit": "crop"} | settings)
    return picture_for(request.control[0], look_at(request.control[0], request, size, 8))


def test_control_pictures_are_cropped_to_the_picture_and_then_preprocessed(tmp_path):
    Image.fromarray(data.coffee()).save(tmp_path / "coffee.png")
    found = seen_by(f"any={tmp_path / 'coffee.png'},preprocess=canny:80:160")
    fitted = ImageOps.fit(Image.fromarray(data.coffee()), (64, 64), Image.Resampling.LANCZOS)
    edges = cv2.Canny(np.asarray(fitted), 80, 160)
    assert (found == edges[..., None] / np.float32(255)).all()
    assert 0 < edges.mean() < 255
    small = fitted.resize((40, 32))
    padded = seen_by({"ref": "any", "image": small}, fit="pad")
    assert not padded[:5].any()
    assert (seen_by({"ref": "any", "image": small}, fit="stretch")[:5] > 0).any()
    for array in (np.asarray(small), np.asarray(small, np.float32) / 255):
        assert (seen_by({"ref": "any", "image": array}, fit="pad") == padded).all()
    with pytest.raises(RequestError, match=r"^control \{'ref': '', 'image': array\(.* has no ref\. Write it as"):
        seen_by({"ref": "", "image": np.asarray(small)})


def test_a_control_sees_the_part_that_is_repainted_where_only_that_is_rendered():
    """The control picture lies over the picture, whatever its resolution."""
    picture = Image.fromarray(data.astronaut()).resize((128, 128))
    mask = Image.new("L", (128, 128), 0)
    ImageDraw.Draw(mask).rectangle((64, 32, 95, 63), fill=255)
    settings = {"image": picture, "mask": mask, "inpaint_area": "masked", "inpaint_padding": 0, "mask_blur": 0}
    for control in (picture, picture.resize((64, 64), Image.Resampling.NEAREST)):
        found = seen_by({"ref": "any", "image": control}, **settings)
        part = fitted(control.resize((128, 128), Image.Resampling.LANCZOS).crop((64, 32, 96, 64)), (64, 64), "pad")
        assert np.abs(found * 255 - np.asarray(part)).max() <= 1
    wide = Image.new("RGB", (100, 50), "red")
    assert (seen_by({"ref": "any", "image": wide}, **settings) == np.float32([1, 0, 0])).all()


def test_a_control_reaches_as_far_as_an_expanded_picture():
    picture = Image.fromarray(data.astronaut()).resize((64, 64))
    settings = {"image": picture, "expand": "32,0,32,0", "size": (64, 128)}
    found = seen_by({"ref": "any", "image": picture}, **settings)
    assert not found[:, :32].any()
    assert not found[:, 96:].any()
    assert (found[:, 32:96] * 255 == np.asarray(picture)).all()
    blurred = seen_by({"ref": "any", "image": picture, "preprocess": "blur:1"}, **settings)
    assert blurred[:, :32].any(), "the photo's outermost pixels, which make no edge"


def refused(stage, match, control, name="sd15", kind=RequestError, **settings):
    sd = StableDiffusion(str(stage.model(name)), dtype="fp32")
    with pytest.raises(kind, match=match):
        sd.resolve(Request("a", control=control, **settings))


def test_bad_controls_are_refused_before_anything_is_drawn(stage, tmp_path):
    _, (path,) = networks(stage, "sd15")
    picture = stage.picture("coffee")
    refused(stage, "has a context 32 numbers wide", [f"{path}={picture}"], name="sdxl")
    refused(stage, "There is no picture", [f"{path}={tmp_path / 'none.png'}"], kind=InputError)
    refused(stage, "There is no ControlNet", [f"nothing={picture}"], kind=ModelNotFoundError)
    refused(stage, r"starts at 0\.6 and ends at 0\.6", [f"{path}={picture},start=0.6,end=0.6"])
    refused(stage, "control's scale is 11", [f"{path}={picture},scale=11"])
    refused(stage, "control's end is nan", [f"{path}={picture},end=nan"])
    refused(stage, "has no image. Write it as REF=IMAGE", [str(path)])
    refused(
        stage, r"There is no control's preprocess 'cany'.*Did you mean canny", [f"{path}={picture},preprocess=cany"]
    )
    refused(stage, "canny takes 2, at most", [f"{path}={picture},preprocess=canny:1:2:3"])
    refused(stage, "canny is 'x'", [f"{path}={picture},preprocess=canny:x"])
    refused(stage, "is no ControlNet-Union", [f"{path}={picture},type=depth"])
    refused(stage, "There is no type 'dept'.*Did you mean depth", [f"{path}={picture},type=dept"])
    refused(stage, "blocks", [f"{path}={picture},blocks=1/x"])
    refused(stage, "6 blocks, and 5 feature maps", [f"{path}={picture},blocks=1/2/3/4/5/6"])


def test_a_union_is_told_what_it_sees(stage):
    path = stage.control("union", tiny_controls.union(stage.pipe("sdxl").unet))
    picture = stage.picture("coffee")
    refused(stage, r"is a ControlNet-Union, and nothing says.*,type=NAME", [f"{path}={picture}"], name="sdxl")
    refused(stage, "knows 6 types, and tile is none", [f"{path}={picture},type=tile"], name="sdxl")


def test_a_control_that_acts_in_no_step_is_said(stage):
    _, (path,) = networks(stage, "sd15")
    with pytest.warns(MlxdiffWarning, match=r"acts in none of 4 steps, from 0 to 0\.1"):
        mine(stage, "sd15", [f"{path}={stage.picture('coffee')},end=0.1"])


def test_a_lora_and_a_controlnet_together(stage):
    (network,), (path,) = networks(stage, "sd15")
    lora = lora_files.by_diffusers(stage.fresh("sd15"), stage.folder / "lora")
    pipe = as_kind(KINDS["sd15"], stage.fresh("sd15"), controlnet=network)
    pipe.load_lora_weights(str(lora.parent), weight_name=lora.name)
    picture = stage.picture("coffee")
    expected = theirs(pipe, image=opened(picture))
    control = [f"{path}={picture}"]
    same(mine(stage, "sd15", control, lora=[str(lora)]), expected, mine(stage, "sd15", control))


def test_the_built_in_controlnet_draws_what_diffusers_draws_and_follows_edges(tmp_path):
    """Of the edges of a disc that is not in the middle, most are edges of the picture too; without them few are."""
    disc = Image.new("RGB", (128, 128), "white")
    ImageDraw.Draw(disc).ellipse((12, 44, 72, 104), fill="red")
    edges = cv2.Canny(np.asarray(disc), 100, 200)
    Image.fromarray(edges).save(tmp_path / "edges.png")
    network = ControlNetReference.from_pretrained(find_part("emoji-edges", "control"), torch_dtype=torch.float32)
    pipe = quiet(StableDiffusionPipeline.from_pretrained(tiny.EMOJI, torch_dtype=torch.float32))
    asked = {"guidance_scale": 4.0}
    expected = as_kind(StableDiffusionControlNetPipeline, pipe, controlnet=network)(
        "a red ball",
        image=opened(tmp_path / "edges.png"),
        num_inference_steps=8,
        generator=generators([2]),
        output_type="np",
        **asked,
    ).images
    asked |= {"prompt": "a red ball", "steps": 8, "seed": 2}
    found = ours("emoji", control=[f"emoji-edges={tmp_path / 'edges.png'}"], **asked)
    assert psnr(found, expected) > 60

    def followed(picture):
        drawn = cv2.Canny((picture[0] * 255).round().astype(np.uint8), 50, 100)
        near = cv2.dilate(drawn, np.ones((5, 5), np.uint8))
        return (near > 0)[edges > 0].mean()

    assert followed(found) > 0.9
    assert followed(ours("emoji", **asked)) < 0.5


@pytest.mark.parametrize("name", ["sd15", "sd15_inpainting", "sdxl"])
def test_a_part_is_repainted_under_a_controlnet(stage, name):
    (network,), (path,) = networks(stage, name)
    kind = StableDiffusionXLControlNetInpaintPipeline if name == "sdxl" else StableDiffusionControlNetInpaintPipeline
    mask = Image.new("L", SIZE[::-1], 0)
    mask.paste(255, (12, 8, 40, 24))
    start, picture = stage.picture("astronaut"), stage.picture("coffee")
    expected = theirs(
        as_kind(kind, stage.pipe(name), controlnet=network),
        image=opened(start),
        mask_image=mask,
        control_image=opened(picture),
        strength=0.75,
        controlnet_conditioning_scale=0.9,
    )
    settings = {"image": str(start), "mask": mask, "strength": 0.75}
    found = mine(stage, name, [f"{path}={picture},scale=0.9"], **settings)
    same(found, expected, mine(stage, name, None, **settings))


def test_each_pass_sees_the_control_picture_at_its_own_size(stage, monkeypatch):
    _, (path,) = networks(stage, "sd15")
    sizes = []
    monkeypatch.setattr(
        controls, "picture_for", lambda control, look: sizes.append(look.size) or picture_for(control, look)
    )
    control = [f"{path}={stage.picture('coffee')},preprocess=canny"]
    settings = {"hires": 2, "hires_steps": 2}
    found = mine(stage, "sd15", control, **settings)
    assert sizes == [SIZE, (64, 96)]
    assert found.shape == (1, 64, 96, 3)
    assert psnr(found, mine(stage, "sd15", None, **settings)) < 40


def test_one_way_of_making_control_pictures_holds_for_all_that_say_none(stage):
    _, (path,) = networks(stage, "sd15")
    sd = StableDiffusion(str(stage.model("sd15")), dtype="fp32")
    each = f"{path}={stage.picture('coffee')}"
    asked = Request("a", control=[each, f"{each},preprocess=invert"], control_preprocess="canny:50:90")
    resolved = sd.resolve(asked)
    assert [control.preprocess for control in resolved.control] == ["canny:50:90", "invert"]
    assert "control_preprocess" not in resolved.values()
    assert sd.resolve(resolved).control == resolved.control
    with pytest.raises(RequestError, match="no control"):
        sd.resolve(Request("a", control_preprocess="canny"))
    with pytest.raises(RequestError, match="There is no control_preprocess 'cany'"):
        Request("a", control_preprocess="cany")


def test_weights_that_are_no_numbers_are_named_before_the_first_step(stage, tmp_path):
    _, (path,) = networks(stage, "sd15")
    broken = tmp_path / "broken"
    shutil.copytree(path, broken)
    weights = broken / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["controlnet_mid_block.weight"][0, 0] = float("nan")
    save_file(tensors, weights)
    sd = StableDiffusion(str(stage.model("sd15")), dtype="fp32")
    steps = []
    for _ in range(2):  # the second time as well: what was refused is not kept as sound
        with pytest.raises(CheckpointError, match=r"broken holds NaN or infinity in 'controlnet_mid_block\.weight'"):
            sd.generate("a", control=[f"{broken}={stage.picture('coffee')}"], steps=2, on_step=steps.append)
    assert steps == []
