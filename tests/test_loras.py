"""LoRAs on whole pictures: beside diffusers with PEFT, put on and taken off again, quantized, from threads, in runs."""

from __future__ import annotations

import logging
import re
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import lora_files
import mlx.core as mx
import numpy as np
import pytest
import tiny
import torch
from arrays import psnr
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from mlx.utils import tree_flatten
from peft import LoraConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from torch_weights import unpacked_parameters

from mlxdiff import Request, StableDiffusion
from mlxdiff.adapting import Adapting
from mlxdiff.errors import CheckpointError, MlxdiffError, MlxdiffWarning, RequestError, UnsupportedError
from mlxdiff.loras import alike, with_tags
from mlxdiff.metadata import request_of
from mlxdiff.metadata.parameters import parse_parameters
from mlxdiff.models.live import ChangedQuantizedLinear
from mlxdiff.quantized import write_quantized
from mlxdiff.request import Lora

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    *(pytest.mark.filterwarnings(f"ignore:{text}") for text in ("While injecting", "Already found a `peft_config`")),
]

FAMILIES = ("sd15", "sd21", "sdxl")
RUN = {"steps": 3, "guidance_scale": 5.0, "height": 32, "width": 48, "seed": 3}
PROMPT = "a red apple"


def last(sd: StableDiffusion, prompt=PROMPT, **settings) -> np.ndarray:
    latents = None
    for latents in sd.generate_latents(prompt, **RUN | settings):
        mx.eval(latents)
    return np.array(latents)


def picture(sd: StableDiffusion, prompt=PROMPT, **settings) -> np.ndarray:
    return np.array(sd.decode(mx.array(last(sd, prompt, **settings))))


class Family:
    """A tiny pipeline on disk, and files of LoRAs for it: `a` by diffusers, `b` in kohya's naming."""

    def __init__(self, name: str, folder: Path) -> None:
        self.kind = StableDiffusionXLPipeline if name == "sdxl" else StableDiffusionPipeline
        self.folder = tiny.write(tiny.PIPELINES[name], folder / name)
        self.a = str(lora_files.by_diffusers(self.pipe(), folder / "a", seed=1))
        self.b = str(lora_files.by_kohya(self.pipe(), folder / "b.safetensors", seed=2))
        self.sd = StableDiffusion(str(self.folder), dtype="fp32")
        self.base = last(self.sd)

    def pipe(self):
        pipe = self.kind.from_pretrained(self.folder)
        pipe.set_progress_bar_config(disable=True)
        return pipe


@pytest.fixture(scope="module")
def families(tmp_path_factory):
    made: dict[str, Family] = {}

    def family(name: str) -> Family:
        if name not in made:
            for library in ("transformers", "diffusers"):  # each reports the other adapter's weights as missing
                logging.getLogger(library).setLevel(logging.CRITICAL)
            made[name] = Family(name, tmp_path_factory.mktemp(name))
        return made[name]

    return family


@pytest.fixture(scope="module")
def sd15(families) -> Family:
    return families("sd15")


# -- beside diffusers -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FAMILIES)
def test_one_and_two_at_once_are_diffusers_pictures(families, name):
    family = families(name)
    pipe = family.pipe()
    pipe.load_lora_weights(str(Path(family.a).parent), adapter_name="a")
    pipe.load_lora_weights(family.b, adapter_name="b")

    def theirs(adapters: dict[str, float]) -> np.ndarray:
        pipe.set_adapters(list(adapters), list(adapters.values()))
        options = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 32, "width": 48}
        return pipe(PROMPT, generator=torch.Generator().manual_seed(3), output_type="np", **options).images

    one, two = theirs({"a": 1.0}), theirs({"a": 0.7, "b": -0.4})
    assert psnr(one, two) < 40
    assert psnr(one, np.array(family.sd.decode(mx.array(family.base)))) < 40
    assert psnr(picture(family.sd, lora=family.a), one) > 100
    assert psnr(picture(family.sd, lora=[f"{family.a},scale=0.7", {"ref": family.b, "scale": -0.4}]), two) > 100
    assert np.array_equal(last(family.sd), family.base), "the base comes back bit for bit"


@pytest.mark.parametrize(("scale", "text"), [(0.0, 0.8), (0.8, 0.0), (0.5, 1.2)])
def test_the_text_encoders_have_a_scale_of_their_own(families, scale, text):
    family = families("sdxl")
    pipe = family.pipe()
    pipe.load_lora_weights(family.b, adapter_name="b")
    pipe.set_adapters("b", {"unet": scale, "text_encoder": text, "text_encoder_2": text})
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 32, "width": 48}
    expected = pipe(PROMPT, generator=torch.Generator().manual_seed(3), output_type="np", **options).images
    found = picture(family.sd, lora=f"{family.b},scale={scale},text={text}")
    assert psnr(found, expected) > 100
    assert psnr(expected, np.array(family.sd.decode(mx.array(family.base)))) < 50


def test_a_folder_of_peft_is_the_model_that_peft_merges(sd15, tmp_path):
    pipe = sd15.pipe()
    config = LoraConfig(r=4, lora_alpha=6, target_modules=lora_files.IN_UNET, use_dora=True)
    model = get_peft_model(pipe.unet, config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if ".lora_A" in name or ".lora_B" in name:
                value.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    model.save_pretrained(tmp_path / "dora")
    pipe.unet = model.merge_and_unload()
    options = {"num_inference_steps": 3, "guidance_scale": 5.0, "height": 32, "width": 48}
    expected = pipe(PROMPT, generator=torch.Generator().manual_seed(3), output_type="np", **options).images
    assert psnr(picture(sd15.sd, lora=str(tmp_path / "dora")), expected) > 100


# -- on and off -----------------------------------------------------------------------------------------------------


def weights(sd: StableDiffusion) -> dict[str, mx.array]:
    """Of the networks as a run without LoRAs finds them."""
    backbone, encoder = (sd.networks.adapted(part, ()).network for part in ("backbone", "encoder"))
    networks = [backbone.network, *encoder.networks]
    flat = [dict(tree_flatten(network.parameters())) for network in networks]
    return {f"{i}.{path}": array for i, arrays in enumerate(flat) for path, array in arrays.items()}


@pytest.mark.parametrize("bits", [None, 8])
def test_every_weight_comes_back_bit_for_bit(families, bits):
    family = families("sdxl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a CPU is slow in fp16
        sd = StableDiffusion(str(family.folder), dtype="fp16", quantize=bits)
    before, picture_before = weights(sd), last(sd)
    for lora in (family.a, [family.b, f"{family.a},scale=-0.3"], None):
        last(sd, lora=lora)
    after = weights(sd)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(before[path], after[path]) and before[path].dtype == after[path].dtype for path in before)
    assert np.array_equal(last(sd), picture_before)


def test_what_is_put_on_does_not_depend_on_what_was(sd15):
    alone = last(sd15.sd, lora=sd15.a)
    for before in (sd15.b, [sd15.a, sd15.b], None):
        last(sd15.sd, lora=before)
        assert np.array_equal(last(sd15.sd, lora=sd15.a), alone)


def test_a_scale_of_0_is_no_lora(sd15):
    assert np.array_equal(last(sd15.sd, lora=f"{sd15.a},scale=0"), sd15.base)


def test_what_stays_is_not_put_on_again(sd15, monkeypatch):
    put_on, plain = [], Adapting.put_on
    monkeypatch.setattr(Adapting, "put_on", lambda *arguments: put_on.append(arguments[1]) or plain(*arguments))
    sd = StableDiffusion(str(sd15.folder), dtype="fp32")
    last(sd)
    assert put_on == []
    last(sd, lora=sd15.a)
    last(sd, "a cat", lora=sd15.a, seed=4)
    assert sorted(put_on) == ["backbone", "encoder"]
    last(sd, lora=f"{sd15.a},text=0.5")
    assert sorted(put_on) == ["backbone", "encoder", "encoder"], "the UNet's are the same"


def test_loops_that_alternate_keep_their_own_weights(sd15):
    choices = [{}, {"lora": sd15.a}, {"lora": [f"{sd15.b},scale=0.5"]}]
    expected = [last(sd15.sd, **choice) for choice in choices]
    loops = [sd15.sd.generate_latents(PROMPT, **RUN | choice) for choice in choices]
    found = []
    for _ in range(RUN["steps"]):
        found = [next(loop) for loop in loops]
    assert all(np.array_equal(np.array(latents), one) for latents, one in zip(found, expected, strict=True))


def test_compiled_calls_have_the_weights_of_their_request(sd15):
    sd = StableDiffusion(str(sd15.folder), dtype="fp32")
    sd.networks.backbone._compiles = True
    base, one = last(sd), last(sd, lora=sd15.a)
    assert psnr(one, base) < 40
    assert psnr(one, last(sd15.sd, lora=sd15.a)) > 80
    assert np.array_equal(last(sd), base)
    loops = [sd.generate_latents(PROMPT, **RUN), sd.generate_latents(PROMPT, lora=sd15.a, **RUN)]
    for latents in zip(*loops, strict=True):
        mx.eval(latents)
    assert np.array_equal(np.array(latents[0]), base)
    assert np.array_equal(np.array(latents[1]), one)


def test_threads_render_with_different_loras(sd15):
    choices = [None, sd15.a, sd15.b, [sd15.a, sd15.b]] * 2
    expected = [np.asarray(sd15.sd.generate(PROMPT, **RUN, lora=choice)[0]) for choice in choices[:4]] * 2
    sd = StableDiffusion(str(sd15.folder), dtype="fp32")
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda choice: np.asarray(sd.generate(PROMPT, **RUN, lora=choice)[0]), choices))
    assert all(np.array_equal(one, other) for one, other in zip(found, expected, strict=True))


def test_prompts_encoded_ahead_each_have_their_loras(sd15):
    sd = StableDiffusion(str(sd15.folder), dtype="fp32")
    requests = [sd.resolve(Request(PROMPT, **RUN, lora=lora)) for lora in (None, sd15.a, sd15.b, None)]
    found = [encoded.arrays() for encoded in sd.encode_ahead(requests)]
    for lora, arrays in zip((None, sd15.a, sd15.b, None), found, strict=True):
        context = sd15.sd.encode_prompt(PROMPT, lora=lora).context
        assert psnr(np.array(arrays[-1]), np.array(context)) > 100
    assert mx.array_equal(found[0][0], found[3][0])


def test_mlxs_randomness_is_the_callers(sd15):
    mx.random.seed(7)
    expected = mx.random.uniform(shape=(2,)).tolist()
    mx.random.seed(7)
    last(StableDiffusion(str(sd15.folder), dtype="fp32"), lora=sd15.a)
    assert mx.random.uniform(shape=(2,)).tolist() == expected


# -- quantized ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def emoji_lora(tmp_path_factory) -> str:
    """For the built-in model, whose layers are wide enough to be quantized."""
    pipe = StableDiffusionPipeline.from_pretrained(tiny.EMOJI)
    return str(lora_files.by_kohya(pipe, tmp_path_factory.mktemp("lora") / "emoji.safetensors", components=["unet"]))


@pytest.mark.parametrize("bits", [8, 4])
def test_a_lora_beside_quantized_layers_is_all_there(emoji_lora, tmp_path, bits, recwarn):
    """Each layer is its own quantized weight plus the whole change, computed here in fp32."""
    copy = str(write_quantized(StableDiffusion("emoji").snapshot, bits, tmp_path / "copy"))
    stored, on_the_fly = StableDiffusion(copy, dtype="fp32"), StableDiffusion("emoji", dtype="fp32", quantize=bits)
    before, found = last(stored), last(stored, lora=f"{emoji_lora},scale=0.5")
    assert np.array_equal(last(on_the_fly, lora=f"{emoji_lora},scale=0.5"), found), "a stored copy: the same picture"
    network, file = stored.networks.backbone.network, load_file(emoji_lora)
    live = {path: layer for path, layer in network.named_modules() if isinstance(layer, ChangedQuantizedLinear)}
    assert len(live) > 10
    for i, (path, layer) in enumerate(live.items()):
        parts = [path.replace("to_qkv", name) for name in ("to_q", "to_k", "to_v")] if "to_qkv" in path else [path]
        for rows in (5, 20):  # a CPU computes few rows and many in two ways
            x = np.random.default_rng(i).normal(size=(rows, layer.down.shape[1])).astype(np.float32)
            changes = []
            for name in (f"lora_unet_{part.replace('.', '_')}" for part in parts):
                down, up, alpha = (file[f"{name}.{part}"] for part in ("lora_down.weight", "lora_up.weight", "alpha"))
                changes.append(0.5 * alpha / down.shape[0] * (x @ down.T @ up.T))
            expected = np.array(layer.layer(mx.array(x))) + np.concatenate(changes, axis=1)
            assert np.abs(np.array(layer(mx.array(x))) - expected).max() < 1e-5 * np.abs(expected).max()
    assert not [warning for warning in recwarn if warning.category is MlxdiffWarning]
    assert np.array_equal(last(stored), before)
    assert psnr(before, found) < 30


def full_difference(path: Path, size: float) -> str:
    """Of one attention layer of the built-in model: no product of small matrices."""
    weight = unpacked_parameters(StableDiffusion("emoji", dtype="fp32").networks.backbone.network)
    layer = next(path for path in weight if path.endswith("attn2.to_q.weight"))
    rows = np.random.default_rng(0).normal(size=weight[layer].shape).astype(np.float32)
    name = layer.removesuffix(".weight").replace(".", "_")
    save_file({f"lora_unet_{name}.diff": rows * size * float(mx.abs(weight[layer]).mean())}, path)
    return str(path)


@pytest.mark.parametrize("stored", [False, True])
def test_how_much_survives_being_merged_into_few_bits_is_said(tmp_path, stored):
    small, large = (full_difference(tmp_path / f"{size}.safetensors", size) for size in (0.02, 3.0))
    model = StableDiffusion("emoji").snapshot
    place = str(write_quantized(model, 4, tmp_path / "copy")) if stored else "emoji"
    sd = StableDiffusion(place, dtype="fp32", quantize=4)
    with pytest.warns(
        MlxdiffWarning, match=r"Merged into 1 layer of 4 bits.*correlation of 0\.[0-8].*Much of it is lost"
    ):
        last(sd, lora=small)
    with pytest.warns(MlxdiffWarning) as caught:
        last(sd, lora=large)
    (said,) = {str(warning.message) for warning in caught}
    assert float(said.split("correlation of ")[1][:4]) > 0.95
    assert "lost" not in said


def test_what_is_said_to_survive_is_what_numpy_finds(tmp_path):
    path = full_difference(tmp_path / "a.safetensors", 0.1)
    sd = StableDiffusion("emoji", dtype="fp32", quantize=4)
    key = next(iter(load_file(path))).removeprefix("lora_unet_").removesuffix(".diff")

    def weight() -> np.ndarray:
        modules = sd.networks.backbone.network.named_modules()
        layer = next(layer for name, layer in modules if name.replace(".", "_") == key)
        packed = layer.weight, layer.scales, layer.biases
        return np.array(mx.dequantize(*packed, group_size=layer.group_size, bits=layer.bits))

    before = weight()
    with pytest.warns(MlxdiffWarning, match="Merged") as caught:
        last(sd, lora=path)
    there, (asked,) = weight() - before, load_file(path).values()
    expected = (there * asked).sum() / np.sqrt((there**2).sum() * (asked**2).sum())
    assert f"a correlation of {expected:.2f} " in str(caught[0].message)


# -- tags -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def shelf(sd15, tmp_path, monkeypatch) -> Path:
    """A folder that names are looked up in, with the two files."""
    monkeypatch.setenv("MLXDIFF_LORAS", str(tmp_path / "loras"))
    (tmp_path / "loras").mkdir()
    shutil.copy(sd15.a, tmp_path / "loras/ink.safetensors")
    shutil.copy(sd15.b, tmp_path / "loras/dust.safetensors")
    return tmp_path / "loras"


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("tag", "lora"),
    [
        ("<lora:ink:0.5>", Lora("ink", 0.5)),
        ("<lora:ink>", Lora("ink", 1.0)),
        ("<lora:ink:0.5:0.8>", Lora("ink", 0.8, text=0.5)),
        ("<lora:ink:te=0.3:unet=0.9>", Lora("ink", 0.9, text=0.3)),
        ("<lora:ink:1:1:2>", Lora("ink", 1.0, rank=2)),
        ("<lora:ink:unet=0.2>", Lora("ink", 0.2, text=1.0)),
        ("<lora:ink:0.5:dyn=3>", Lora("ink", 0.5, rank=3)),
        ("<lyco:ink:-1>", Lora("ink", -1.0)),
    ],
)
def test_tags_are_a1111s(tag, lora):
    request = with_tags(Request(f"a red apple{tag}"))
    assert (request.prompt, request.lora) == (PROMPT, (lora,))
    assert with_tags(replace(request, prompt_syntax="comfyui")).lora == (lora,)
    assert with_tags(Request(tag, prompt_syntax="plain")).lora is None
    assert with_tags(Request(tag, compat="comfyui")).lora is None
    assert with_tags(Request("a cat", negative_prompt=tag)).lora is None


@pytest.mark.usefixtures("shelf")
def test_a_tag_is_the_setting_and_a_record_applies_it_once(sd15):
    expected = last(sd15.sd, lora=[f"{sd15.b}", f"{sd15.a},scale=0.5"])
    assert np.array_equal(last(sd15.sd, f"<lora:ink:0.5>{PROMPT}", lora=[sd15.b]), expected)
    (made,) = sd15.sd.generate(f"{PROMPT} <lora:dust:1> <lora:ink:0.25:0.5>", **RUN)
    recorded = request_of(made.info["mlxdiff"])
    assert (recorded.prompt, recorded.lora) == (PROMPT, (Lora("dust", 1.0), Lora("ink", 0.5, text=0.25)))
    assert {name for name, _ in recorded.hashes} == {"dust", "ink"}
    settings = {name: value for name, value in recorded.values().items() if name not in ("hashes", "model", "prompt")}
    (again,) = sd15.sd.generate(recorded.prompt, **settings)
    assert np.array_equal(np.asarray(again), np.asarray(made))
    text = made.info["parameters"]
    assert text.startswith(f"{PROMPT} <lora:dust:1> <lora:ink:0.25:0.5>\n")
    assert 'Lora hashes: "dust: ' in text
    parsed = sd15.sd.resolve(parse_parameters(text, str))
    assert (parsed.prompt, parsed.lora) == (recorded.prompt, recorded.lora)


@pytest.mark.usefixtures("shelf")
def test_a_tag_without_a_file_is_said_and_left_out(sd15):
    with pytest.warns(MlxdiffWarning, match=r"There is no LoRA for <lora:inc:0\.5>: it is left out.*ink"):
        found = last(sd15.sd, f"{PROMPT}<lora:inc:0.5>")
    assert np.array_equal(found, sd15.base)
    for value, words in (
        ("much", "'much' where a number belongs"),
        ("nan", "scale is nan"),
        ("1e9", "scale is 1000000000"),
        ("1:dyn=2.5", "rank is 2.5"),
        ("1:dyn=inf", "rank is inf"),
    ):
        with pytest.raises(RequestError, match=words):
            last(sd15.sd, f"a<lora:ink:{value}>")


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("1:lbw=1,0,0.5", "lbw=1,0,0.5"),
        ("0.5:0.5:2:9", "9"),
        ("1:start=3:dyn=2", "start=3"),
    ],
)
def test_what_extensions_read_in_a_tag_is_said(told, named):
    with pytest.warns(MlxdiffWarning, match=rf"leaves out {re.escape(named)} of <lora:ink:.*expect another picture"):
        request = with_tags(Request(f"{PROMPT} <lora:ink:{told}>"))
    assert request.prompt == PROMPT


@pytest.mark.usefixtures("shelf")
def test_prompts_of_one_call_may_name_different_loras(sd15):
    prompts = [f"{PROMPT}<lora:ink:1>", PROMPT, f"{PROMPT}<lora:dust:1>"]
    found = sd15.sd.generate(prompts, **RUN)
    for i, (made, lora) in enumerate(zip(found, (sd15.a, None, sd15.b), strict=True)):
        alone = sd15.sd.generate(PROMPT, **RUN | {"seed": 3 + i}, lora=lora)[0]
        assert np.array_equal(np.asarray(made), np.asarray(alone))
    with pytest.raises(RequestError, match="name different LoRAs"):
        last(sd15.sd, prompts)
    assert [request.prompts for request in alike(Request(tuple(prompts), seed=1))] == [(text,) for text in prompts]
    same = Request(("a<lora:ink:1>", "b<lora:ink:1>"))
    assert list(alike(same)) == [same]


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("text", ["a <<lora:none:1>lora:ink:0.7> b", "<lo<lora:ink:1>ra:ink:1>"])
def test_a_tag_around_a_tag_is_refused(sd15, text):
    """Left in the prompt, it would be applied by whoever reads the record, and would not have been here."""
    with pytest.raises(RequestError, match="stands around another tag"):
        sd15.sd.resolve(Request(text, seed=1))


def test_more_loras_than_anyone_means_are_refused_before_any_is_looked_up(sd15, monkeypatch):
    monkeypatch.setattr("mlxdiff.hub.find_part", lambda *_: pytest.fail("looked up"))
    tags = "".join(f"<lora:x{i}>" for i in range(60))
    for told in ({"lora": ["ink"] * 101}, {"prompt": f"a{tags}{tags}"}, {"prompt": f"a{tags}", "lora": ["ink"] * 50}):
        with pytest.raises(RequestError, match=r"with 1\d\d LoRAs. Name at most 100"):
            sd15.sd.resolve(Request(**{"prompt": PROMPT, "seed": 1} | told))


def test_the_rank_limits_the_directions(sd15, tmp_path):
    whole, cut = load_file(sd15.a), {}
    for key, value in whole.items():
        cut[key] = value[:2] if "lora_A" in key else value[:, :2] if "lora_B" in key else value
    save_file({key: np.ascontiguousarray(value) for key, value in cut.items()}, tmp_path / "cut.safetensors")
    # rank 4, alpha 2: what divides alpha stays the whole rank; in the cut file without an alpha the scale is 1
    expected = last(sd15.sd, lora=f"{tmp_path / 'cut.safetensors'},scale=0.5")
    assert psnr(last(sd15.sd, lora=f"{sd15.a},rank=2"), expected) > 100


def test_a_rank_that_means_nothing_is_said(sd15, tmp_path):
    weight = sd15.pipe().unet.get_parameter("mid_block.attentions.0.proj_in.weight").detach().numpy()
    save_file({"unet.mid_block.attentions.0.proj_in.diff": weight}, tmp_path / "whole.safetensors")
    with pytest.warns(MlxdiffWarning, match=r"whole\.safetensors is no product .* rank=2 leaves out nothing"):
        sd15.sd.resolve(Request(PROMPT, lora=f"{tmp_path / 'whole.safetensors'},rank=2"))


def test_blocks_have_strengths_of_their_own(sd15, tmp_path):
    file = load_file(sd15.b)
    out = [key for key in file if key.startswith("lora_unet_up_blocks_0_") and key.endswith("lora_up.weight")]
    numbers = {key.split("_")[6] for key in out if "_resnets_" in key}
    assert numbers == {"0", "1"}  # OUT00 and OUT01
    mid = [key for key in file if key.startswith("lora_unet_mid_block") and key.endswith("lora_up.weight")]
    scaled = {key: value * (0.5 if key in out else 0.0 if key in mid else 1.0) for key, value in file.items()}
    save_file({key: np.asarray(value, np.float32) for key, value in scaled.items()}, tmp_path / "scaled.safetensors")
    expected = last(sd15.sd, lora=str(tmp_path / "scaled.safetensors"))
    assert psnr(last(sd15.sd, lora=f"{sd15.b},blocks=OUT00:0.5;OUT01:0.5;mid:0"), expected) > 100
    as_object = {"ref": sd15.b, "blocks": {"OUT00": 0.5, "OUT01": 0.5, "MID": 0}}
    assert psnr(last(sd15.sd, lora=[as_object]), expected) > 100
    with pytest.raises(RequestError, match="has no block 'OUT11'"):
        sd15.sd.resolve(Request(PROMPT, lora=f"{sd15.b},blocks=OUT11:0.5"))


# -- what does not fit ----------------------------------------------------------------------------------------------


def test_another_familys_lora_is_refused_before_anything_is_drawn(families):
    with pytest.raises(CheckpointError, match="does not fit"):
        families("sd15").sd.resolve(Request(PROMPT, lora=families("sdxl").b))
    assert np.array_equal(last(families("sd15").sd), families("sd15").base)


def test_what_is_no_lora_or_damaged_is_refused_in_words(sd15, tmp_path):
    with pytest.raises(MlxdiffError, match="LoRA"):
        StableDiffusion(sd15.b)
    checkpoint = str(next((sd15.folder / "unet").glob("*.safetensors")))
    with pytest.raises((UnsupportedError, CheckpointError), match=r"not a LoRA|no LoRA"):
        sd15.sd.resolve(Request(PROMPT, lora=checkpoint))
    bad = load_file(sd15.b)
    key = next(key for key in bad if key.endswith("lora_up.weight"))
    bad[key] = np.full_like(bad[key], np.nan)
    save_file(bad, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match="holds NaN or infinity"):
        sd15.sd.resolve(Request(PROMPT, lora=str(tmp_path / "nan.safetensors")))
    (tmp_path / "cut.safetensors").write_bytes(Path(sd15.b).read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cut"):
        sd15.sd.resolve(Request(PROMPT, lora=str(tmp_path / "cut.safetensors")))


def test_a_textual_inversion_in_a_lora_file_is_heard(sd15, tmp_path):
    rows = np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32)
    save_file(load_file(sd15.b) | {"bundle_emb.zebra.string_to_param.*": rows}, tmp_path / "with.safetensors")
    save_file({"emb_params": rows}, tmp_path / "zebra.safetensors")
    expected = sd15.sd.encode_prompt("a zebra", lora=sd15.b, embedding=str(tmp_path / "zebra.safetensors")).context
    found = sd15.sd.encode_prompt("a zebra", lora=str(tmp_path / "with.safetensors")).context
    assert mx.array_equal(found, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sd15.sd.encode_prompt("a horse", lora=str(tmp_path / "with.safetensors"))


def test_a_textual_inversion_is_heard_for_as_long_as_its_lora_is_on(sd15, tmp_path):
    """The file changes the UNet alone: the weights of the text encoders tell nothing of it."""
    rows = np.random.default_rng(3).normal(size=(2, 32)).astype(np.float32)
    unet = {key: value for key, value in load_file(sd15.a).items() if key.startswith("unet.")}
    lora = str(tmp_path / "with.safetensors")
    save_file(unet | {"bundle_emb.zebra.string_to_param.*": rows}, lora)
    sd = StableDiffusion(str(sd15.folder), dtype="fp32")
    plain, told = sd.resolve(Request("a zebra", seed=1)), sd.resolve(Request("a zebra", seed=1, lora=lora))
    off = sd.resolve(Request("a zebra", seed=1, lora=f"{lora},scale=0"))
    heard = [[np.array(each) for each in found.arrays()] for found in sd.encode_ahead([plain, told, plain, off])]
    alone = [
        np.array(each) for each in StableDiffusion(str(sd15.folder), dtype="fp32").encode_ahead([told])[0].arrays()
    ]
    assert all(map(np.array_equal, heard[1], alone))
    assert not all(map(np.array_equal, heard[1], heard[0]))
    assert all(map(np.array_equal, heard[2], heard[0]))
    assert all(map(np.array_equal, heard[3], heard[0])), "a scale of 0 is no LoRA"
